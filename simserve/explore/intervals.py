"""Means with confidence intervals, of values and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """The mean of some values, and the ends of its confidence interval; None with fewer than two values."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def holds_zero(self) -> bool:
        """Whether the interval does not tell the mean from zero; without an interval only zero itself does not."""
        if self.low is None or self.high is None:
            return self.value == 0.0
        return self.low <= 0.0 <= self.high


def mean(values: Sequence[float], confidence: float = DEFAULT_CONFIDENCE) -> Mean:
    """Student's interval over independent values: mean +- t(n - 1) s / sqrt(n)."""
    count = len(values)
    centre = sum(values) / count
    if count < 2:
        return Mean(centre)
    variance = sum((value - centre) ** 2 for value in values) / (count - 1)
    reach = student(confidence, count - 1) * sqrt(variance / count)
    return Mean(centre, centre - reach, centre + reach)


def paired(values: Sequence[float], others: Sequence[float], confidence: float = DEFAULT_CONFIDENCE) -> Mean:
    """The mean of `values - others`, pair by pair: what both have in common, e.g. the same requests, cancels out."""
    return mean([a - b for a, b in zip(values, others, strict=True)], confidence)


def student(confidence: float, degrees: int) -> float:
    """How many standard errors a two-sided interval reaches: 12.71, 4.303, 3.182 for 95 % and 1, 2, 3 degrees."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))
