"""The Pareto plot in characters, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from simserve.explore.objective import NEVER_MS
from simserve.explore.result import SearchResult

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


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
