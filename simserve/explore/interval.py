"""The 90 % prediction interval of a run: by the residuals of a calibration where there is one, else by kernel errors.

Calibrated: TTFT lies between the prediction over and times the factor of the TTFT residuals; TPOT, ITL and E2E by that
of the TPOT residuals (`simserve.perf.uncertainty.residuals`). Kernel errors: the same requests are played with every
step as fast and as slow as the half-width of the step times allows. Throughput is played in both cases, with steps
faster and slower by what TPOT may be off: a load that is not too much for either gets through all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from simserve.explore.objective import KERNELS, Interval
from simserve.metrics import attainment
from simserve.perf.uncertainty import Residual
from simserve.run import RunResult, half_width, run_residuals

if TYPE_CHECKING:
    from simserve.spec.slo import SloSpec

Play = Callable[[float], RunResult]  # the same requests, every step so many times as long
Ranges = dict[str, tuple[float, float]]
LEAST = 0.05  # of the step times, however wide the interval
_STATS = ("mean", "p50", "p90", "p99")
_TTFT = tuple(f"ttft_ms.{stat}" for stat in _STATS)
_LATENCIES = tuple(f"{name}.{stat}" for name in ("tpot_ms", "itl_ms", "e2e_ms") for stat in _STATS)
_RATES = ("output_tokens_per_s", "request_throughput_rps")
_SLO = ("goodput_rps", "slo_attainment")


def interval(run: RunResult, play: Play, slo: SloSpec | None) -> Interval:
    """The interval of `run`; `play` plays it again."""
    width = half_width(run)
    known = run_residuals(run, width)
    kernels = (max(1.0 - width, LEAST), 1.0 + width)
    steps = (1.0 / known["tpot"].factor, known["tpot"].factor) if "tpot" in known else kernels
    ends = [play(factor).metrics.to_dict() for factor in steps]
    ranges = _between(ends, (*_TTFT, *_LATENCIES, *_RATES, *_SLO))
    if "tpot" in known:
        ranges |= _around(run, _LATENCIES, known["tpot"].factor)
    if "ttft" in known:
        ranges |= _around(run, _TTFT, known["ttft"].factor)
    elif "tpot" in known:
        ranges |= _between([play(factor).metrics.to_dict() for factor in kernels], _TTFT)
    if slo is not None and len(known) == 2:
        ranges |= _attained(run, slo, known, ranges["request_throughput_rps"])
    sources = {metric: known[metric].source if metric in known else KERNELS for metric in ("ttft", "tpot")}
    factors = {metric: round(residual.factor, 4) for metric, residual in known.items()}
    return Interval(round(width, 4), ranges, sources, factors)


def _between(ends: list[dict[str, Any]], names: tuple[str, ...]) -> Ranges:
    """From the least to the most of each metric that all runs have."""
    found = {name: [_value(end, name) for end in ends] for name in names}
    return {
        name: (min(numbers), max(numbers))
        for name, values in found.items()
        if len(numbers := [value for value in values if value is not None]) == len(ends)
    }


def _around(run: RunResult, names: tuple[str, ...], factor: float) -> Ranges:
    """From the prediction over a factor to the prediction times it."""
    metrics = run.metrics.to_dict()
    values = ((name, _value(metrics, name)) for name in names)
    return {name: (value / factor, value * factor) for name, value in values if value is not None}


def _attained(run: RunResult, slo: SloSpec, known: Mapping[str, Residual], rates: tuple[float, float]) -> Ranges:
    """SLO attainment with all latencies at either end, and goodput: as much of the throughput there."""
    up = {"ttft": known["ttft"].factor, "tpot": known["tpot"].factor, "e2e": known["tpot"].factor}
    slow, fast = (attainment(run.trace, slo, {m: f**way for m, f in up.items()}) for way in (1, -1))
    return {"slo_attainment": (slow, fast), "goodput_rps": (slow * rates[0], fast * rates[1])}


def _value(metrics: Mapping[str, Any], name: str) -> float | None:
    """A metric by its dotted name; None for none."""
    key, _, stat = name.partition(".")
    found = metrics.get(key)
    value = found[stat] if stat and found else found
    return float(value) if isinstance(value, int | float) else None
