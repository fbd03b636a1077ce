"""Arrival processes: int64 nanoseconds, not decreasing, the first request at 0 or later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserve.spec.workload import ArrivalSpec
from simserve.units import NS_PER_S


def arrival_times_ns(spec: ArrivalSpec, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` arrival times.

    poisson: exponential gaps; gamma: gaps with coefficient of variation `cv` (shape 1/cv^2; cv 1 is Poisson);
    constant: equal gaps, the first request at 0; closed_loop: all 0, for the concurrency decides.
    """
    if spec.kind == "closed_loop" or spec.rate_rps is None:
        return np.zeros(count, dtype=np.int64)
    mean_ns = NS_PER_S / spec.rate_rps
    if spec.kind == "constant":
        return np.asarray(np.rint(np.arange(count) * mean_ns), dtype=np.int64)
    gaps: NDArray[np.float64]
    if spec.kind == "poisson":
        gaps = rng.exponential(mean_ns, count)
    else:
        cv = spec.cv or 1.0
        gaps = rng.gamma(1 / cv**2, mean_ns * cv**2, count)
    return np.asarray(np.rint(np.cumsum(gaps)), dtype=np.int64)
