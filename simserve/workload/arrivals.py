"""Arrival processes: int64 nanoseconds, not decreasing, the first request at 0 or later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.spec.workload import ArrivalSpec
from simserve.units import NS_PER_S

LATEST_NS = 1 << 62  # 146 years: what is later cannot be told from an overflow of int64


def arrival_times_ns(spec: ArrivalSpec, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` arrival times.

    poisson: exponential gaps; gamma: gaps with coefficient of variation `cv` (shape 1/cv^2; cv 1 is Poisson);
    constant: equal gaps, the first request at 0; closed_loop: all 0, for the concurrency decides.
    SpecError if the last of them would be later than LATEST_NS.
    """
    if spec.kind == "closed_loop" or spec.rate_rps is None:
        return np.zeros(count, dtype=np.int64)
    mean_ns = NS_PER_S / spec.rate_rps
    if mean_ns > LATEST_NS:
        raise _too_late("workload.arrivals.rate_rps", spec.rate_rps)
    if spec.kind == "constant":
        return _whole_ns(np.arange(count, dtype=np.float64) * mean_ns, spec.rate_rps)
    gaps: NDArray[np.float64]
    if spec.kind == "poisson":
        gaps = rng.exponential(mean_ns, count)
    else:
        cv = spec.cv or 1.0
        gaps = rng.gamma(1 / cv**2, mean_ns * cv**2, count)
    return _whole_ns(np.cumsum(gaps), spec.rate_rps)


def scaled_ns(times_ns: NDArray[np.int64], rate_scale: float) -> NDArray[np.int64]:
    """The times of a trace, not decreasing, divided by `rate_scale`; SpecError if the last is then too late."""
    if len(times_ns) and float(times_ns[-1]) > LATEST_NS * rate_scale:
        raise _too_late("workload.trace.rate_scale", rate_scale)
    return np.asarray(np.rint(times_ns / rate_scale), dtype=np.int64)


def _whole_ns(times_ns: NDArray[np.float64], rate_rps: float) -> NDArray[np.int64]:
    """Times, not decreasing, as int64; SpecError if the last is too late."""
    if len(times_ns) and times_ns[-1] > LATEST_NS:
        raise _too_late("workload.arrivals.rate_rps", rate_rps)
    return np.asarray(np.rint(times_ns), dtype=np.int64)


def _too_late(key: str, value: float) -> SpecError:
    return SpecError("so low that the last request would come after more than 146 years", key=key, value=value)
