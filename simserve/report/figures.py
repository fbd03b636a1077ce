"""Figures of the report of a search or a run, as plotly's JSON in plain data, so that drawing needs no import.

`views` of a figure are what the choices above it change: {name, data, layout} for `Plotly.update`; `narrow` is the
layout's part that differs on a narrow screen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.result import SearchResult, describe
from simserve.perf.breakdown import KINDS
from simserve.report.series import PoolSeries, Series
from simserve.report.words import Terms, terms, together, verdict

Figure = dict[str, Any]

# Okabe and Ito's colours, which colour-blind readers tell apart, the blues lighter so that they show on a dark page;
# lines differ in their dashes as well.
COLOURS = ("#2A84C6", "#D55E00", "#009E73", "#CC79A7")
DASHES = ("solid", "dash", "dot", "dashdot")
GREY = "#808080"  # seen on a light and on a dark page
KIND_COLOURS = {
    "gemm": "#2A84C6", "experts": "#8CC8EE", "prefill_attention": "#D55E00", "decode_attention": "#E69F00",
    "collectives": "#CC79A7", "elementwise": "#009E73", "transfers": "#F0E442", "host": GREY,
}  # fmt: skip
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E"}
_TICKS = 7  # fit beside one another on a narrow screen
_SMOOTH = 60  # so many points of a distribution look better joined than as stairs
_WIDE = 8  # from this ratio of the largest to the smallest value on an axis is logarithmic
_LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.01, "xanchor": "left", "x": 0}


def _layout(height: int, **more: Any) -> dict[str, Any]:
    return {"height": height, "font": {"family": "system-ui, sans-serif", "size": 12.5}, "hovermode": "closest",
            "margin": {"l": 64, "r": 18, "t": 34, "b": 54}, "legend": _LEGEND, **more}  # fmt: skip


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 13}, "standoff": 8}


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic with round numbers at its ticks where positive values differ much, else linear."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low <= 0 or high / low <= _WIDE:
        return {"type": "linear", "tickmode": "auto"}
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**k for k in decades for m in steps if low / 1.2 <= m * 10.0**k <= high * 1.2]
        if len(ticks) <= _TICKS:
            break
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}


def pareto(result: SearchResult) -> Figure | None:
    """Throughput per GPU of every simulated configuration; None without two that have a latency to put it against."""
    known = [run for run in result.runs if any(_at(run, name) is not None for name in ("tpot", "ttft"))]
    if len(known) < 2:
        return None
    groups = [group for group in _groups(result, known) if group[1]]
    places = {id(run): place for place, run in enumerate(result.runs, 1)}
    data = [
        {"type": "scatter", "mode": "markers", "name": name, "y": [run.tokens_per_s_per_gpu for run in runs],
         "text": [_hover(places[id(run)], run) for run in runs], "hoverinfo": "text", "marker": marker,
         "line": {"width": 2}}
        for name, runs, marker in groups
    ]  # fmt: skip
    views = [view for axis in ("tpot", "user", "ttft") for view in [_view(axis, groups, known)] if view]
    for trace, x, mode in zip(data, views[0]["data"]["x"], views[0]["data"]["mode"], strict=True):
        trace.update(x=x, mode=mode)
    first = views[0]["layout"]
    axis = {key.removeprefix("xaxis."): value for key, value in first.items() if key.startswith("xaxis.t")}
    axis["title"] = _title(axis.pop("title.text"))
    layout = _layout(
        460, xaxis=axis, yaxis={"title": _title("tokens/s per GPU"), "rangemode": "tozero", "tickformat": ","},
        shapes=first["shapes"], annotations=first["annotations"], showlegend=True,
    )  # fmt: skip
    return {"data": data, "layout": layout, "views": views, "narrow": {"height": 430},
            "left_out": len(result.runs) - len(known)}  # fmt: skip


def _groups(result: SearchResult, known: Sequence[Outcome]) -> list[tuple[str, list[Outcome], dict[str, Any]]]:
    """(name, runs, marker), the recommended last so that it lies on top."""
    best, front, ids = result.recommended, {id(run) for run in result.front}, {id(run) for run in known}
    others = [run for run in known if run.meets_slo and id(run) not in front and run is not best]
    tight = bool(known[0].slo)
    return [
        ("misses the SLO" if tight else "turns requests away", [run for run in known if not run.meets_slo],
         {"symbol": "x-thin-open", "size": 8, "color": GREY, "line": {"width": 1.5, "color": GREY}}),
        ("meets the SLO" if tight else "simulated", others,
         {"symbol": "circle-open", "size": 9, "color": COLOURS[0], "line": {"width": 1.8}}),
        ("Pareto front", [run for run in result.front if id(run) in ids],
         {"symbol": "diamond", "size": 10, "color": COLOURS[1]}),
        ("recommended", [best] if best is not None and id(best) in ids else [],
         {"symbol": "star", "size": 19, "color": COLOURS[2], "line": {"width": 1, "color": "#ffffff"}}),
    ]  # fmt: skip


def _view(axis: str, groups: Sequence[tuple[str, list[Outcome], Any]], known: Sequence[Outcome]) -> Figure | None:
    """One choice of the axis to the right; None where no run has a value."""
    name = "ttft" if axis == "ttft" else "tpot"
    values = [value for run in known if (value := _at(run, axis)) is not None]
    if not values:
        return None
    titles = {"tpot": "TPOT", "user": "tokens/s per user", "ttft": "TTFT"}
    slo = next((s for s in known[0].slo if s.name == name), None)
    at = f" at P{slo.percentile:g}" if slo else " at P90"
    shapes: list[Figure] = []
    notes: list[Figure] = []
    scale = _scale(values)
    if slo is not None:
        bound = 1000 / slo.bound_ms if axis == "user" else slo.bound_ms
        shapes, notes = _bound_line(bound, "x", f"SLO {bound:.4g}", scale, values)
    unit = "" if axis == "user" else ", ms"
    lines = ["lines+markers" if group == "Pareto front" and axis != "ttft" else "markers" for group, _, _ in groups]
    return {
        "name": f"against {titles[axis]}",
        "data": {"x": [[_at(run, axis) for run in runs] for _, runs, _ in groups], "mode": lines},
        "layout": {"xaxis.title.text": f"{titles[axis]}{at}{unit}", "xaxis.autorange": True, "shapes": shapes,
                   "annotations": notes, **{f"xaxis.{key}": value for key, value in scale.items()}},
    }  # fmt: skip


def _at(run: Outcome, axis: str) -> float | None:
    """A latency at the SLO's percentile in ms, or the tokens/s that a user sees; None for never and for none."""
    value = run.ttft_ms if axis == "ttft" else run.tpot_ms
    if value is None or value >= NEVER_MS or value <= 0:
        return None
    return float(f"{1000 / value if axis == 'user' else value:.5g}")


def _bound_line(
    value: float, axis: str, text: str, scale: Figure, values: Sequence[float]
) -> tuple[list[Figure], list[Figure]]:
    """(shape, label) of a dotted line across the figure; values: those along its axis."""
    log = scale.get("type") == "log"
    place = log10(value) if log else value
    low, high = (log10(x) if log else x for x in (min(values), max(values)))
    late = axis == "x" and place > (low + high) / 2
    other = "y" if axis == "x" else "x"
    line = {"type": "line", f"{axis}0": value, f"{axis}1": value, f"{other}0": 0, f"{other}1": 1,
            f"{other}ref": "paper", "line": {"dash": "dot", "width": 2, "color": GREY}}  # fmt: skip
    # below, where neither the best of a front nor the end of a distribution lies
    label = {axis: place, other: 0.01, f"{other}ref": "paper", "text": escape(text), "showarrow": False,
             "xanchor": "right" if late else "left", "yanchor": "bottom" if axis == "x" else "top",
             "xshift": 0 if axis == "y" else -4 if late else 4}  # fmt: skip
    return [line], [label]


def _hover(place: int, run: Outcome) -> str:
    lines = [f"#{place}  {describe(run)}", f"{run.tokens_per_s_per_gpu:,.0f} tokens/s per GPU"]
    for name, title, unit in (("tpot", "TPOT", " ms"), ("user", "a user sees", " tokens/s"), ("ttft", "TTFT", " ms")):
        value = _at(run, name)
        lines.append(f"{title} {'-' if value is None else f'{value:,.4g}{unit}'}")
    lines += [f"{run.usd_per_million_tokens:.3g} USD per million tokens, {run.num_gpus} GPUs",
              verdict(run).replace("met", "meets the SLO")]  # fmt: skip
    return "<br>".join(escape(line) for line in lines if line)


def distributions(found: Sequence[Series]) -> dict[str, Figure]:
    """One figure per latency: the share of requests (of gaps for ITL) within it, a curve per configuration."""
    drawn = {}
    for name in LATENCIES:
        curves = [(i, s.cdf[name]) for i, s in enumerate(found) if name in s.cdf]
        if curves:
            drawn[name] = _distribution(name, curves, found[0].outcome)
    return drawn


def _distribution(name: str, curves: Sequence[tuple[int, tuple[list[float], list[float]]]], run: Outcome) -> Figure:
    values = [value for _, (ms, _) in curves for value in ms if value > 0]
    scale = _scale(values)
    data = [
        {"type": "scatter", "mode": "lines", "name": f"{i + 1}", "x": ms, "y": [round(100 * part, 3) for part in share],
         "line": {"color": COLOURS[i], "dash": DASHES[i], "width": 2.2,
                  "shape": "linear" if len(ms) > _SMOOTH else "hv"}, "showlegend": False,
         "hovertemplate": f"configuration {i + 1}: %{{y:.5g}} % within %{{x:,.4g}} ms<extra></extra>"}
        for i, (ms, share) in curves
    ]  # fmt: skip
    slo = next((s for s in run.slo if s.name == name), None)
    shapes: list[Figure] = []
    notes: list[Figure] = []
    if slo is not None:
        for value, axis, text in ((slo.bound_ms, "x", f"SLO {slo.bound_ms:g} ms"),
                                  (slo.percentile, "y", f"{slo.percentile:g} %")):  # fmt: skip
            along = (scale, values) if axis == "x" else ({}, [0.0, 100.0])
            line, label = _bound_line(value, axis, text, *along)
            shapes, notes = shapes + line, notes + label
    of = f"{terms(run).gaps}, %" if name == "itl" else "requests, %"
    layout = _layout(
        320, xaxis={"title": _title(f"{LATENCIES[name]}, ms"), **scale}, shapes=shapes, annotations=notes,
        yaxis={"title": _title(of), "range": [0, 101]}, margin={"l": 58, "r": 14, "t": 14, "b": 50},
    )  # fmt: skip
    return {"data": data, "layout": layout, "narrow": {"height": 270}}


def over_time(found: Sequence[Series]) -> Figure:
    """Requests that wait and that are in progress, and the KV cache in use; one configuration at a time."""
    parts = [(index, list(_over_time(s))) for index, s in enumerate(found)]
    data = [{**trace, "visible": index == 0} for index, traces in parts for trace in traces]
    views = [
        {"name": f"configuration {shown + 1}", "layout": {},
         "data": {"visible": [index == shown for index, traces in parts for _ in traces]}}
        for shown, _ in parts
    ]  # fmt: skip
    slots = together(terms(one.outcome).slots for one in found)
    layout = _layout(
        460, hovermode="x unified", xaxis={"title": _title("time, s"), "anchor": "y2"},
        yaxis={"title": _title("requests"), "domain": [0.56, 1], "rangemode": "tozero"},
        yaxis2={"title": _title(f"{slots} in use, %"), "domain": [0, 0.44], "range": [0, 103]},
    )  # fmt: skip
    return {"data": data, "layout": layout, "views": views}


def _over_time(one: Series) -> Iterator[Figure]:
    several = len(one.pools) > 1
    for index, pool in enumerate(one.pools):
        yield from _pool_over_time(pool, f"{pool.name}: " if several else "", index, terms(one.outcome))


def _pool_over_time(pool: PoolSeries, prefix: str, index: int, called: Terms) -> Iterator[Figure]:
    held = called.short
    colours = (COLOURS[2 * index % 4], COLOURS[(2 * index + 1) % 4])
    lines = [("in progress", pool.running, "y", 0, "solid"), ("waiting", pool.waiting, "y", 1, "dash"),
             (f"{held}, most" if pool.instances == 1 else f"{held}, fullest instance",
              [round(100 * x, 2) for x in pool.kv_peak], "y2", 0, "dot")]  # fmt: skip
    if pool.instances > 1:
        lines.append((f"{held}, mean of the instances", [round(100 * x, 2) for x in pool.kv_mean], "y2", 1, "solid"))
    for name, values, axis, colour, dash in lines:
        line = {"color": colours[colour], "width": 1.6, "dash": dash, "shape": "hv"}
        yield {"type": "scatter", "mode": "lines", "name": prefix + name, "x": pool.time_s, "y": values, "yaxis": axis,
               "line": line}  # fmt: skip


def breakdown(found: Sequence[Series]) -> Figure | None:
    """Share of the busy time by kind of operation: a bar for steps with prompts and one for decode steps each."""
    bars = list(_bars(found))
    if not bars:
        return None
    data = [
        {"type": "bar", "orientation": "h", "name": title, "y": [name for name, _ in bars],
         "x": [round(100 * parts.get(kind, 0.0), 2) for _, parts in bars],
         "marker": {"color": KIND_COLOURS[kind]},
         "hovertemplate": f"{title}: %{{x:.3g}} % of the busy time<extra></extra>"}
        for kind, title in KINDS.items() if any(parts.get(kind) for _, parts in bars)
    ]  # fmt: skip
    layout = _layout(
        110 + 34 * len(bars), legend={**_LEGEND, "traceorder": "normal"}, barmode="stack", bargap=0.25,
        xaxis={"title": _title("share of the busy time, %")}, margin={"l": 90, "r": 18, "t": 60, "b": 50},
        yaxis={"autorange": "reversed", "type": "category", "tickmode": "linear", "dtick": 1},
    )  # fmt: skip
    return {"data": data, "layout": layout, "narrow": {"height": 190 + 34 * len(bars)}}


def _bars(found: Sequence[Series]) -> Iterator[tuple[str, dict[str, float]]]:
    """(label, share by kind) of both kinds of steps of each pool."""
    for place, one in enumerate(found):
        for part in one.outcome.usage:
            titles = ("with refreshes", "reuses only") if part.get("denoises") else ("with prompts", "decode only")
            for phase, title in zip(("prompts", "decode"), titles, strict=True):
                if part["time"][phase]:
                    pool = f" {part['pool']}" if part["pool"] else ""
                    yield f"{place + 1}{pool}, {title}", part["time"][phase]
