"""The part of a page that says how far off its numbers may be, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from simserve.explore.objective import KERNELS, Interval, Outcome
from simserve.explore.result import SearchResult, describe
from simserve.perf.priced import SOURCES
from simserve.report.page import table
from simserve.report.series import Series
from simserve.report.words import number, rests_on, ties_line

_RANGED = (
    ("TTFT mean, ms", "ttft_ms", "mean"), ("TTFT P50, ms", "ttft_ms", "p50"), ("TTFT P90, ms", "ttft_ms", "p90"),
    ("TTFT P99, ms", "ttft_ms", "p99"), ("TPOT mean, ms", "tpot_ms", "mean"), ("TPOT P50, ms", "tpot_ms", "p50"),
    ("TPOT P90, ms", "tpot_ms", "p90"), ("TPOT P99, ms", "tpot_ms", "p99"), ("E2E mean, ms", "e2e_ms", "mean"),
    ("E2E P90, ms", "e2e_ms", "p90"), ("output tokens/s", "output_tokens_per_s", ""),
    ("goodput, requests/s", "goodput_rps", ""), ("requests within the SLO, share", "slo_attainment", ""),
)  # fmt: skip


def uncertainty_html(result: SearchResult, shown: Sequence[Series]) -> str:
    """Intervals, the step times' own, and the shares of the time by source of the kernel numbers."""
    first = shown[0].outcome
    parts = []
    if first.interval is not None:
        whose = f" of {describe(first)}" if len(shown) > 1 else ""
        parts.append(
            f"<p>90 % interval{escape(whose)}, {escape(_sources(first.interval))}. Other arrivals, other lengths and "
            "what is not modelled come on top.</p>" + _interval(first, first.interval)
        )
    heads = ("configuration", "step times, ± %", *(f"{source}, %" for source in SOURCES))
    rows = [(describe(s.outcome), f"{100 * s.half_width:.1f}",
             *(f"{100 * s.outcome.sources.get(source, 0.0):.0f}" for source in SOURCES)) for s in shown]  # fmt: skip
    parts.append("<p>Half-width of the 90 % interval of the step times, and what share of the busy time is priced from "
                 "rows that were measured, interpolated between them, transferred from another device, or modelled.</p>"
                 + table(heads, rows, sortable=False))  # fmt: skip
    if ties := ties_line(result):
        parts.append(f"<p>Ties with the recommended one: {escape(ties)}.</p>")
    return "\n".join(parts)


def _sources(interval: Interval) -> str:
    """What the intervals rest on: TTFT, and all else."""
    ttft, rest = (rests_on(interval.sources.get(name, KERNELS), interval.half_width) for name in ("ttft", "tpot"))
    return f"by {ttft}" if ttft == rest else f"of TTFT by {ttft}; of all else by {rest}"


def _interval(run: Outcome, interval: Interval) -> str:
    rows = []
    for title, key, stat in _RANGED:
        found = run.metrics.get(key)
        value = found.get(stat) if isinstance(found, dict) else found
        ends = interval.ranges.get(f"{key}.{stat}" if stat else key)
        if value is not None and ends is not None:
            rows.append((title, number(value, 4), number(ends[0], 4), number(ends[1], 4)))
    return table(("metric", "predicted", "low", "high"), rows, sortable=False)
