"""What `speed.py` is held to: bars on time, memory and growth, met or missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scenarios import MILLION, Row

Value = Callable[[Sequence[Row]], float | None]


def curve(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    """(x, seconds per request) of a growth curve, by x."""
    return sorted((r["x"], r["wall_s"] / r["requests"]) for r in rows if r["curve"] == name)


def exponent(rows: Sequence[Row], name: str) -> float | None:
    """Slope of log seconds per request over log x; None without two points."""
    points = curve(rows, name)
    if len(points) < 2:
        return None
    x, y = zip(*((math.log(n), math.log(t)) for n, t in points), strict=True)
    return float(np.polyfit(x, y, 1)[0])


def cost_exponent(rows: Sequence[Row]) -> float | None:
    """Exponent of the whole cost in the number of requests: that of the cost per request, and one."""
    slope = exponent(rows, "requests")
    return None if slope is None else 1 + slope


def output_growth(rows: Sequence[Row]) -> float | None:
    """Cost of the longest outputs over that of the shortest."""
    points = curve(rows, "output length")
    return points[-1][1] / points[0][1] if len(points) > 1 else None


def of(scenario: str, key: str) -> Value:
    """One number of one scenario."""
    return lambda rows: next((r[key] for r in rows if r["scenario"] == scenario), None)


BARS: tuple[tuple[str, Value, float, str], ...] = (
    ("azure conversation", of("azure conversation", "wall_s"), 1.5, "s"),
    ("azure conversation, 2,000 blocks", of("azure conversation, 2,000 blocks", "wall_s"), 6.0, "s"),
    (MILLION, of(MILLION, "wall_s"), 120.0, "s"),
    (f"{MILLION}, peak memory", of(MILLION, "peak_mb"), 2048.0, "MiB"),
    ("exponent of cost in requests", cost_exponent, 1.1, ""),
    ("cost of 8 times the output length", output_growth, 1.5, "times"),
)


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """Each bar with what was measured; met is None where it was not."""
    measured = [(name, value(rows), bar, unit) for name, value, bar, unit in BARS]
    return [
        {"bar": name, "measured": value, "at_most": bar, "unit": unit, "met": None if value is None else value <= bar}
        for name, value, bar, unit in measured
    ]
