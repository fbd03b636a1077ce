"""The Pareto plot: characters for the terminal, a self-contained HTML page where plotly is installed."""

from __future__ import annotations

from collections.abc import Sequence

from simserve.search.objective import NEVER_MS, Outcome
from simserve.search.result import SearchResult, describe

FRONT, MEETS, MISSES = "●", "○", "·"


def scatter(result: SearchResult, *, width: int = 60, height: int = 12) -> list[str]:
    """Lines of text: tokens/s/GPU upward, TPOT to the right; runs that never reach a TPOT are left out."""
    runs = [r for r in result.runs if r.tpot_ms is not None and r.tpot_ms < NEVER_MS]
    if len(runs) < 2:
        return []
    x_low, x_high = _range([r.tpot_order for r in runs])
    y_low, y_high = _range([r.tokens_per_s_per_gpu for r in runs])
    grid = [[" "] * width for _ in range(height)]
    on_front = {id(r) for r in result.front}
    for run in sorted(runs, key=lambda r: (id(r) in on_front, r.meets_slo)):
        column = round((run.tpot_order - x_low) / (x_high - x_low) * (width - 1))
        row = round((run.tokens_per_s_per_gpu - y_low) / (y_high - y_low) * (height - 1))
        mark = FRONT if id(run) in on_front else MEETS if run.meets_slo else MISSES
        grid[height - 1 - row][column] = mark
    labels = [f"{y_high:.0f}", *[""] * (height - 2), f"{y_low:.0f}"]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} ┤{''.join(cells)}" for label, cells in zip(labels, grid, strict=True)]
    left, right = f"{x_low:.3g}", f"{x_high:.3g} ms TPOT"
    lines.append(" " * margin + " └" + "─" * width)
    lines.append(" " * (margin + 2) + left + " " * max(1, width - len(left) - len(right)) + right)
    return ["tokens/s/GPU", *lines, f"{FRONT} Pareto front  {MEETS} meets the SLO  {MISSES} misses it"]


def plotly_html(result: SearchResult) -> str | None:
    """A page that works offline, with one point per run; None without plotly or with a single run."""
    if len(result.runs) < 2:
        return None
    try:
        import plotly.graph_objects as go
    except ImportError:
        return None
    on_front = result.front
    ids = {id(r) for r in on_front}
    others = [r for r in result.runs if r.meets_slo and id(r) not in ids]
    missing = [r for r in result.runs if not r.meets_slo and r.tpot_order < NEVER_MS]
    figure = go.Figure()
    for title, runs, mode, colour in (
        ("misses the SLO", missing, "markers", "#bbbbbb"),
        ("meets the SLO", others, "markers", "#4c78a8"),
        ("Pareto front", on_front, "lines+markers", "#e45756"),
    ):
        figure.add_trace(go.Scatter(
            x=[r.tpot_order for r in runs], y=[r.tokens_per_s_per_gpu for r in runs], mode=mode, name=title,
            text=_hover(runs), hoverinfo="text", marker={"color": colour, "size": 9},
        ))  # fmt: skip
    figure.update_layout(
        title=f"{result.name}: throughput per GPU against time per output token",
        xaxis_title="TPOT at the SLO percentile (ms)", yaxis_title="tokens/s/GPU", template="plotly_white",
    )  # fmt: skip
    return str(figure.to_html(include_plotlyjs=True, full_html=True))


def _hover(runs: Sequence[Outcome]) -> list[str]:
    return [
        f"{describe(r)}<br>{r.tokens_per_s_per_gpu:.0f} tokens/s/GPU<br>TTFT {_ms(r.ttft_ms)}, "
        f"TPOT {_ms(r.tpot_ms)}<br>{r.usd_per_million_tokens:.3f} USD per million tokens"
        for r in runs
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
