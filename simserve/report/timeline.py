"""A picture of a run: what instances and resources did, how full they were, and how requests fared."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simserve.errors import SpecError
from simserve.report.events import kind, phases, resource_tracks
from simserve.sim.trace import Trace
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
MOST_REQUESTS = 120  # lines of the lowest panel; more cannot be told apart
MOST_LANES = 24
_BINS = 1200
# Okabe and Ito's palette, which colour-blind people can tell apart
COLOURS = {
    "prefill": "#0072B2", "mixed": "#56B4E9", "decode": "#E69F00", "queued": "#BBBBBB", "KV transfer": "#CC79A7",
    "rejected": "#D55E00", "transfer": "#CC79A7",
}  # fmt: skip


def check_timeline(path: Path | None) -> None:
    """SpecError, before any work, for a format that is none or without the library that draws it."""
    if path is None:
        return
    if path.suffix.lstrip(".") not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise SpecError(f"a timeline is a picture: its name must end in one of {known}", file=str(path))
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SpecError("--timeline needs matplotlib: pip install 'simserve[report]'", file=str(path)) from None


def timeline_bytes(trace: Trace, path: Path, title: str) -> bytes:
    """The picture in the format of `path`: lanes, counters, requests, over one axis of time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    lanes = _lane_names(trace)
    heights = [0.28 * len(lanes) + 0.5, 1.6, 1.2, 3.4]
    figure = Figure(figsize=(13, sum(heights) + 1.2), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    _draw_lanes(panels[0], trace, lanes)
    _draw_counts(panels[1], trace)
    _draw_memory(panels[2], trace)
    _draw_requests(panels[3], trace)
    panels[3].set_xlabel("time, s")
    panels[3].set_xlim(0, trace.end_ns / NS_PER_S or 1)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format=path.suffix.lstrip("."), dpi=110)
    return out.getvalue()


def _lane_names(trace: Trace) -> list[str]:
    """Instances, then resources, at most so many of each."""
    instances = [f"instance {i}" for i in range(len(trace.total_blocks))]
    return [*instances[:MOST_LANES], *trace.resources[:MOST_LANES]]


def _draw_lanes(panel: Axes, trace: Trace, names: list[str]) -> None:
    """Busy time by kind, in cells of one pixel or so, so that any number of steps is quick to draw."""
    s = trace.steps
    for index in range(min(len(trace.total_blocks), MOST_LANES)):
        own = s["instance"] == index
        columns = (s[name][own].tolist() for name in ("tokens", "decode_tokens", "running"))
        kinds = [kind(*row) for row in zip(*columns, strict=True)]
        for name in ("decode", "mixed", "prefill"):
            which = np.array([k == name for k in kinds], dtype=np.bool_)
            spans = _merged(s["start_ns"][own][which], s["end_ns"][own][which], trace.end_ns)
            panel.broken_barh(spans, (names.index(f"instance {index}") - 0.4, 0.8), color=COLOURS[name], linewidth=0)
    for track in resource_tracks(trace):
        if track.name in names:
            spans = [(x.start_ns / NS_PER_S, (x.end_ns - x.start_ns) / NS_PER_S) for x in track.slices]
            panel.broken_barh(spans, (names.index(track.name) - 0.3, 0.6), color=COLOURS["transfer"], linewidth=0.5)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    shown = ("prefill", "mixed", "decode", *(("transfer",) if trace.resources else ()))
    _legend(panel, shown)
    hidden = len(trace.total_blocks) + len(trace.resources) - len(names)
    panel.set_title(f"busy{f' ({hidden} more lanes are not shown)' if hidden else ''}", loc="left", fontsize=9)


def _merged(start_ns: Any, end_ns: Any, whole_ns: int) -> list[tuple[float, float]]:
    """(begin, length) in s; spans nearer to one another than a pixel are drawn as one."""
    gap = whole_ns // _BINS
    found: list[tuple[int, int]] = []
    for begin, end in zip(start_ns.tolist(), end_ns.tolist(), strict=True):
        if found and begin - found[-1][1] <= gap // 4:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return [(begin / NS_PER_S, (end - begin) / NS_PER_S) for begin, end in found]


def _draw_counts(panel: Axes, trace: Trace) -> None:
    """Running and waiting requests over all instances."""
    for name, colour in (("running", COLOURS["prefill"]), ("waiting", COLOURS["rejected"])):
        total = np.sum([_sampled(trace, i, name)[1] for i in range(len(trace.total_blocks))], axis=0)
        panel.step(_grid(trace), total, where="post", color=colour, label=name, linewidth=1)
    panel.set_ylabel("requests")
    panel.set_ylim(bottom=0)
    panel.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, ncols=2)


def _draw_memory(panel: Axes, trace: Trace) -> None:
    """Share of KV blocks in use, one line per instance."""
    for index, blocks in enumerate(trace.total_blocks[:MOST_LANES]):
        _, used = _sampled(trace, index, "used_blocks")
        panel.step(_grid(trace), 100 * used / blocks, where="post", linewidth=1, label=f"instance {index}")
    panel.set_ylabel("KV blocks, %")
    panel.set_ylim(bottom=0)
    if 1 < len(trace.total_blocks) <= 8:
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, ncols=8)


def _grid(trace: Trace) -> Any:
    return np.linspace(0, trace.end_ns, _BINS) / NS_PER_S


def _sampled(trace: Trace, instance: int, name: str) -> tuple[Any, Any]:
    """(times in s, the value of a column when the last step before each began; 0 while nothing runs)."""
    own = trace.steps["instance"] == instance
    start, end, value = (trace.steps[key][own] for key in ("start_ns", "end_ns", name))
    times = np.linspace(0, trace.end_ns, _BINS).astype(np.int64)
    if not len(start):
        return times, np.zeros(_BINS)
    place = np.searchsorted(start, times, side="right") - 1
    inside = (place >= 0) & (end[place] > times)
    return times, np.where(inside, value[place], 0)


def _draw_requests(panel: Axes, trace: Trace) -> None:
    """One line per request, evenly sampled if there are many."""
    count = len(trace.requests["id"])
    by_arrival = np.argsort(trace.requests["arrival_ns"], kind="stable")
    chosen = by_arrival[np.linspace(0, count - 1, min(count, MOST_REQUESTS)).astype(np.int64)]
    names = list(trace.requests)
    seen: dict[str, list[tuple[int, float, float]]] = {}
    for line, index in enumerate(chosen):
        row = {name: int(trace.requests[name][index]) for name in names}
        for s in phases(row, trace.end_ns):
            seen.setdefault(s.name, []).append((line, s.start_ns / NS_PER_S, s.end_ns / NS_PER_S))
    for name, spans in seen.items():
        lines, begin, end = zip(*spans, strict=True)
        if name == "rejected":
            panel.plot(begin, lines, "x", color=COLOURS[name], markersize=4)
        else:
            panel.hlines(lines, begin, end, color=COLOURS[name], linewidth=max(0.8, min(6.0, 240 / len(chosen))))
    panel.invert_yaxis()
    panel.set_yticks([])
    panel.set_ylabel("requests by arrival")
    sample = "" if len(chosen) == count else f", {len(chosen)} of {count:,} evenly sampled"
    panel.set_title(f"requests{sample}", loc="left", fontsize=9)
    _legend(panel, tuple(name for name in COLOURS if name in seen))


def _legend(panel: Axes, names: tuple[str, ...]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[name], label=name) for name in names]
    panel.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, ncols=len(names))
