"""Which point to measure next: where a line between the neighbours would be farthest off.

Each curve (all keys but one fixed) starts with a few points spread over its axis. At every inner point the error of
predicting it from its neighbours, straight in logarithms, is known; the gap beside the largest such error, weighted
by its share of the distance to the neighbours, is halved next, at the candidate nearest to its middle.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

Key = int | str
Point = tuple[tuple[str, Key], ...]  # sorted (name, value)
_FIRST = 4  # points that a curve starts with


@dataclass(frozen=True, slots=True)
class Curve:
    """Points along `axis` at fixed other keys; candidates ascending."""

    fixed: tuple[tuple[str, Key], ...]
    axis: str
    candidates: tuple[int, ...]

    def at(self, value: int) -> Point:
        """The point of the curve at `value`."""
        return tuple(sorted((*self.fixed, (self.axis, value))))

    def first(self) -> list[Point]:
        """Points to begin with: both ends and evenly spread candidates between."""
        last = len(self.candidates) - 1
        return [self.at(self.candidates[i]) for i in sorted({round(last * j / (_FIRST - 1)) for j in range(_FIRST)})]


def next_point(curves: Sequence[Curve], ns: Mapping[Point, int], tolerance: float) -> tuple[Point | None, float]:
    """(the point to measure next or None, the largest relative error left); ns: what was measured."""
    for curve in curves:
        for point in curve.first():
            if point not in ns:
                return point, 1.0
    best: tuple[float, Point] | None = None
    for curve in curves:
        found = _worst_gap(curve, ns)
        if found is not None and (best is None or found[0] > best[0]):
            best = found
    if best is None or best[0] <= tolerance:
        return None, best[0] if best else 0.0
    return best[1], best[0]


def _worst_gap(curve: Curve, ns: Mapping[Point, int]) -> tuple[float, Point] | None:
    """(estimated error, point that halves it) of the worst gap of a curve that has an unmeasured candidate."""
    have = [value for value in curve.candidates if curve.at(value) in ns]
    x, y = [log(value) for value in have], [log(ns[curve.at(value)]) for value in have]
    error = [0.0] * len(have)
    for i in range(1, len(have) - 1):
        weight = (x[i] - x[i - 1]) / (x[i + 1] - x[i - 1])
        error[i] = abs((1 - weight) * y[i - 1] + weight * y[i + 1] - y[i])
    best: tuple[float, Point] | None = None
    for i in range(len(have) - 1):
        middle = _middle(curve.candidates, have[i], have[i + 1])
        if middle is None:
            continue
        width = x[i + 1] - x[i]
        around = x[min(i + 2, len(x) - 1)] - x[max(i - 1, 0)]
        score = max(error[i], error[i + 1]) * width / around
        if best is None or score > best[0]:
            best = (score, curve.at(middle))
    return best


def _middle(candidates: tuple[int, ...], low: int, high: int) -> int | None:
    """The candidate strictly between two others that is nearest to their geometric mean."""
    inside = candidates[bisect_left(candidates, low) + 1 : bisect_left(candidates, high)]
    mean = log(low * high) / 2
    return min(inside, key=lambda value: abs(log(value) - mean), default=None)
