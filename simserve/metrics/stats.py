"""Mean and percentiles, plain and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Stats:
    """Mean and percentiles of one quantity; all None when there is no value."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


def stats(values: NDArray[np.float64]) -> Stats:
    """Statistics of values, percentiles by linear interpolation."""
    if len(values) == 0:
        return Stats(None, None, None, None, None)
    return Stats(float(values.mean()), *(float(p) for p in np.percentile(values, PERCENTILES)))


def weighted_stats(values: NDArray[np.float64], weights: NDArray[np.int64]) -> Stats:
    """Statistics of values that each stand for `weights` equal ones, percentiles by the inverted CDF."""
    kept = weights > 0
    values, weights = values[kept], weights[kept]
    if len(values) == 0:
        return Stats(None, None, None, None, None)
    mean = float((values * weights).sum() / weights.sum())
    return Stats(mean, *weighted_percentiles(values, weights, PERCENTILES))


def weighted_percentiles(
    values: NDArray[np.float64], weights: NDArray[np.int64], percentiles: Sequence[float]
) -> list[float]:
    """For each percentile the smallest value that at least so many % of the weight do not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    targets = np.asarray(percentiles) / 100 * reached[-1]
    return [float(value) for value in values[order[np.searchsorted(reached, targets * (1 - 1e-12))]]]
