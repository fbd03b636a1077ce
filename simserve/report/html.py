"""`report.html`: the result of a search or a simulation as one page that works offline.

Filled from the result, whose numbers are those of `result.json`, and from the runs of the best configurations, which
were played once more for what a result does not hold: distributions, queues and memory over time. `report.html` beside
this file is the template. Nothing in it depends on the clock or on the number of workers, so that a search that was
resumed, or ran elsewhere, gives the same page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simserve.errors import SpecError
from simserve.explore.hosting import hosting
from simserve.explore.limits import limits
from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.quality import quality_note
from simserve.explore.result import SearchResult, describe, nothing_meets
from simserve.report import figures
from simserve.report.launch import launch_lines, served_model
from simserve.report.page import figure, fill, table, tiles
from simserve.report.provenance import provenance_html
from simserve.report.series import Series
from simserve.report.uncertainty import uncertainty_html
from simserve.report.words import (
    denoising_line,
    in_ms,
    memory_parts,
    number,
    scope_line,
    terms,
    ties_line,
    together,
    verdict,
)

_ALL_ROWS = 2000
_HEADS = ("#", "configuration", "GPUs", "tokens/s per GPU", "TTFT, ms", "TPOT, ms", "USD per M tokens", "SLO")


def check_html(path: Path | None) -> None:
    """Before any work: SpecError if the page is asked for and plotly is not installed."""
    if path is not None and not can_draw():
        raise SpecError("--html needs plotly: pip install 'simserve[report]'", file=str(path))


def can_draw() -> bool:
    """Whether plotly, whose script goes into the page, is installed."""
    return find_spec("plotly") is not None


def report_html(result: SearchResult, shown: Sequence[Series]) -> str:
    """The page; shown: the configurations whose runs it draws, the best first."""
    bars = figures.breakdown(shown)
    time = figure("breakdown", bars, label="time by kind of operation") if bars else "<p>Nothing was computed.</p>"
    drawn = figures.distributions(shown)
    called = terms(result.runs[0])
    memory = [terms(one.outcome) for one in shown] or [called]
    held, slots = together(own.held for own in memory), together(own.slots for own in memory)
    return fill(
        "report.html",
        title=escape(f"{result.name}: {'search' if result.kind == 'search' else 'simulation'}"),
        subtitle=_subtitle(result),
        answer=answer_html(result),
        pareto=_pareto(result),
        shown=_shown(result, shown),
        limits=_hosting(result) + _limits(shown),
        keys=_keys(shown),
        latencies="".join(figure(f"cdf-{name}", content, label=f"distribution of {name}")
                          for name, content in drawn.items()),
        gaps=called.gaps,
        meaning=f" {called.latencies}." if called.latencies else "",
        slots=slots,
        held=held,
        whole=called.whole,
        rest=called.rest,
        time=figure("time", figures.over_time(shown), label=f"queue and {held} over time"),
        breakdown=time,
        uncertainty=uncertainty_html(result, shown),
        all=_all(result),
        provenance=provenance_html(result, shown),
    )  # fmt: skip


def _subtitle(result: SearchResult) -> str:
    record = result.provenance
    study = record.get("study") or {}
    slo = study.get("slo") or {}
    bounds = [f"{name.upper()} {slo[f'{name}_ms']:g} ms" for name in ("ttft", "tpot", "e2e") if slo.get(f"{name}_ms")]
    objective = f"SLO at P{slo['percentile']:g}: {', '.join(bounds)}" if bounds else "no SLO"
    requests = (record.get("workload") or {}).get("requests")
    load = f"{requests:,} requests" if requests else ""
    facts = [str(record["model"]["name"]), load, objective, f"seed {record.get('seed', 0)}"]
    return escape("; ".join(fact for fact in facts if fact))


def answer_html(result: SearchResult) -> str:
    """What to run and what it does; for a simulation what it does."""
    best = result.recommended if result.kind == "search" else result.runs[0]
    if best is None:
        line = nothing_meets(result)
        return f"<p class='lead bad'>{escape(line[0].upper() + line[1:])}.</p>"
    title = "Recommended: " if result.kind == "search" else ""
    numbers = f"<div class='tiles'>{tiles(_tiles(best))}</div>"
    parts = [f"<p class='lead'>{title}<strong>{escape(describe(best))}</strong></p>", numbers]
    if result.kind == "search":
        scope = f"{scope_line(result)}; {ties_line(result) or 'no ties'}."
        parts.append(f"<p>{escape(scope)}</p>")
    parts += [f"<p>{escape(line)}.</p>" for line in _denoising(best) if line]
    lines = launch_lines(served_model(result.provenance), best)
    parts.append(f"<details><summary>Launch</summary><pre class='wrap'>{escape(chr(10).join(lines))}</pre></details>")
    return "\n".join(parts)


def _denoising(run: Outcome) -> tuple[str, ...]:
    """Of a diffusion model: what nobody judged, what its steps were made of, what lies in memory; '' for nothing."""
    line = denoising_line(run)
    memory = f"Memory per GPU: {memory_parts(run.memory_bytes)}" if line and run.memory_bytes else ""
    return quality_note(run.deployment), line[:1].upper() + line[1:], memory


def _tiles(run: Outcome) -> list[tuple[str, str]]:
    found = [(number(run.tokens_per_s_per_gpu, 4), "tokens/s per GPU, prompt + output")]
    found += [(in_ms(s.value_ms), f"{s.name.upper()} P{s.percentile:g}, bound {s.bound_ms:g} ms") for s in run.slo]
    if not run.slo:
        found += [(in_ms(value), f"{name} P90") for name, value in (("TTFT", run.ttft_ms), ("TPOT", run.tpot_ms))]
    goodput = run.metrics.get("goodput_rps")
    found += [(f"{number(goodput)}/s", "requests within the SLO")] if goodput is not None else []
    found += [(number(run.usd_per_million_tokens), "USD per million tokens"),
              (f"{run.num_gpus}", f"GPU{'s' if run.num_gpus > 1 else ''}, {run.usd_per_hour:.2f} USD/h")]  # fmt: skip
    return found


def _pareto(result: SearchResult) -> str:
    drawn = figures.pareto(result)
    rejected = _rejected(result)
    if drawn is None:
        return rejected
    left = drawn["left_out"]
    weighs = "throughput per GPU against TPOT"
    if result.objective == "front":
        weighs = "what no other run beats in throughput per GPU, tokens/s per user, cost per token and energy"
    aside = f" {left} that no latency is known of are left out." if left else ""
    return (
        f"<h2>Pareto front</h2>\n<p>Every simulated configuration; the front is {weighs} among those "
        f"that meet the SLO. Dotted: the SLO.{aside} Point at a mark for its numbers, click a name to "
        "hide it.</p>\n"
        + figure("pareto", drawn, label="throughput per GPU against TPOT") + rejected
    )  # fmt: skip


def _rejected(result: SearchResult) -> str:
    """Counts of what was not simulated, by reason."""
    if not result.rejected:
        return ""
    rows = [(f"{count:,}", reason) for reason, count in result.rejected_reasons]
    body = table(("configurations", "why they are not possible"), rows, sortable=False)
    return f"<details><summary>{len(result.rejected):,} configurations are not possible</summary>{body}</details>"


def _shown(result: SearchResult, shown: Sequence[Series]) -> str:
    """The configurations that the rest of the page draws, with the marks of their curves."""
    if len(shown) < 2:
        return ""
    rows = [_cells(place, one.outcome) for place, one in enumerate(shown, 1)]
    return ("<h2>The best configurations</h2>\n<p>The best run of each of the best layouts (GPU type, parallelism, "
            "replicas, number format), numbered as below.</p>\n" + table(_HEADS, rows, sortable=False))  # fmt: skip


def _cells(place: int, run: Outcome) -> tuple[str, ...]:
    return (str(place), describe(run), str(run.num_gpus), number(run.tokens_per_s_per_gpu, 4), number(run.ttft_ms),
            number(run.tpot_ms), number(run.usd_per_million_tokens), verdict(run))  # fmt: skip


def _sort_keys(place: int, run: Outcome) -> tuple[Any, ...]:
    latencies = (NEVER_MS if value is None else value for value in (run.ttft_ms, run.tpot_ms))
    return (place, describe(run), run.num_gpus, run.tokens_per_s_per_gpu, *latencies, run.usd_per_million_tokens,
            verdict(run))  # fmt: skip


def _hosting(result: SearchResult) -> str:
    """Whether a host for KV pays, where the search can say."""
    found = hosting(result.runs, result.recommended or result.runs[0])
    if found is None:
        return ""
    lead, *lines = found.lines
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<p class='lead'>{escape(lead)}</p><ul class='hosting'>{items}</ul>\n"


def _limits(shown: Sequence[Series]) -> str:
    parts = []
    for place, one in enumerate(shown, 1):
        known = limits(one.outcome)
        title = f"<h3>{place}. {escape(describe(one.outcome))}</h3>" if len(shown) > 1 else ""
        lines = "".join(f"<li>{escape(limit.text)}.</li>" for limit in known.found)
        parts.append(f"{title}<p class='lead'>{escape(known.summary)}</p><ul>{lines}</ul>")
    return "\n".join(parts)


def _keys(shown: Sequence[Series]) -> str:
    """Which line is which configuration."""
    dashes = {"solid": "", "dash": "8 5", "dot": "2 4", "dashdot": "8 4 2 4"}
    lines = [
        f"<li><svg width='34' height='10' aria-hidden='true'><line x1='0' y1='5' x2='34' y2='5' stroke='{colour}' "
        f"stroke-width='3' stroke-dasharray='{dashes[dash]}'/></svg>{place}. {escape(describe(one.outcome))}</li>"
        for place, (one, colour, dash) in enumerate(zip(shown, figures.COLOURS, figures.DASHES, strict=False), 1)
    ]
    return f"<ul class='keys'>{''.join(lines)}</ul>"


def runs_html(result: SearchResult, most: int, *, sortable: bool = True) -> str:
    """A table of the best runs."""
    rows = [(_cells(i, run), _sort_keys(i, run)) for i, run in enumerate(result.runs[:most], 1)]
    return table(_HEADS, [cells for cells, _ in rows], [keys for _, keys in rows], name="runs" if sortable else "",
                 sortable=sortable)  # fmt: skip


def _all(result: SearchResult) -> str:
    if len(result.runs) < 2:
        return ""
    body = runs_html(result, _ALL_ROWS)
    more = len(result.runs) - _ALL_ROWS
    rest = f"<p>{more:,} more are in runs.csv.</p>" if more > 0 else ""
    return (f"<h2>All simulated configurations</h2>\n<details><summary>{len(result.runs):,} runs, the best first; "
            f"click a head to sort</summary>{body}{rest}</details>")  # fmt: skip
