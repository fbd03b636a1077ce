"""The few physical constants of an engine profile, fitted to measured points by playing them.

Fitted are host times, API times, one factor per kernel family and one for experts in fp8; never the predictions
themselves. The residuals are log(predicted / measured) of TTFT and TPOT; soft_l1 keeps points that something else
explains from pulling; each constant is held near where it started by a prior of the width below, so that what the
points do not show does not move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, log, nan

import numpy as np

from simserve.accuracy.judge import Floats, play
from simserve.accuracy.points import Point
from simserve.errors import MissingData, UnknownName
from simserve.perf.host import EngineProfile


@dataclass(frozen=True, slots=True)
class Constant:
    """One number of a profile: additive in units of `scale`, or a factor (scale 0, fitted by its logarithm).

    width: standard deviation of its prior, in the fitted units; high: the most it may become.
    """

    scale: float
    width: float
    high: float

    @property
    def step(self) -> float:
        """Of differences, in the fitted units: 5 % of a factor, a twentieth of the width of others."""
        return 0.05 * self.width if self.scale else 0.05


CONSTANTS = {
    "host_ns_per_step": Constant(200_000, 10, 20_000_000),
    "host_ns_per_seq": Constant(5_000, 10, 200_000),
    "verify_ns_per_seq": Constant(50_000, 10, 2_000_000),
    "api_ns": Constant(10_000_000, 10, 1_000_000_000),
    "api_ns_per_request": Constant(10_000_000, 3, 100_000_000),
    "api_ns_per_token": Constant(5_000, 3, 100_000),
    "api_ns_per_output_token": Constant(10_000, 5, 200_000),
    "eager_ns_per_op": Constant(20_000, 6, 400_000),
    "gemm_time_factor": Constant(0, 0.2, 2),
    "moe_time_factor": Constant(0, 0.2, 2),
    "fp8_moe_time_factor": Constant(0, 0.2, 2),
    "prefill_attention_time_factor": Constant(0, 0.2, 2),
    "decode_attention_time_factor": Constant(0, 0.2, 2),
    "all_reduce_time_factor": Constant(0, 0.3, 3),
}
EAGER_SEED_NS = 60_000  # where the search for it starts: near 0 kernels hide it, and no difference shows a slope
SOFT = 0.25  # residuals beyond count by their size, not its square
Evaluate = Callable[[EngineProfile], Floats]


@dataclass(frozen=True)
class Fit:
    """The profile that was found, its constants with standard errors, and the robust loss before and after."""

    profile: EngineProfile
    errors: dict[str, float]
    points: int
    loss_before: float
    loss_after: float


def residuals(points: Sequence[Point], profile: EngineProfile, jobs: int = 1) -> Floats:
    """log(predicted / measured), TTFT and TPOT of each point; NaN where one is not measured or cannot be played."""
    from joblib import Parallel, delayed

    work = Parallel(n_jobs=jobs, batch_size=4)(delayed(_errors)(point, profile) for point in points)
    return np.array(list(work), dtype=np.float64).ravel()


def _errors(point: Point, profile: EngineProfile) -> tuple[float, float]:
    found = play(point, profile=profile)
    if found is None:
        return nan, nan
    pairs = zip(found[:2], (point.ttft_ms, point.tpot_ms), strict=True)
    ttft, tpot = (log(predicted / measured) if measured and predicted > 0 else nan for predicted, measured in pairs)
    return ttft, tpot


def fit(
    start: EngineProfile, evaluate: Evaluate, points: int, names: Iterable[str] = tuple(CONSTANTS), rounds: int = 4,
    begin: EngineProfile | None = None,
) -> Fit:  # fmt: skip
    """Constants that make `evaluate`'s residuals small; at most so many rounds of derivatives by differences.

    start: where the priors hold them; begin: where the search begins instead, for there are several hollows.
    """
    from scipy.optimize import least_squares

    chosen = list(names)
    for name in chosen:
        if name not in CONSTANTS:
            raise UnknownName("constant", name, CONSTANTS)
    if not points or np.isnan(evaluate(start)).all():
        raise MissingData("no points to fit to that have TTFT or TPOT and can be played (simserve validate says why)")
    first = np.array([_inward(name, start) for name in chosen])
    begin = begin or start
    seeded = replace(begin, eager_ns_per_op=begin.eager_ns_per_op or EAGER_SEED_NS)
    origin = np.array([_inward(name, seeded) for name in chosen])
    bounds = ([0.0 if CONSTANTS[n].scale else -log(CONSTANTS[n].high) for n in chosen], [_top(n) for n in chosen])
    widths = np.array([CONSTANTS[name].width for name in chosen])

    def robust(x: Floats) -> Floats:
        own = np.nan_to_num(evaluate(_profile(start, chosen, x)) / SOFT)
        soft = np.sign(own) * np.sqrt(2 * (np.sqrt(1 + own**2) - 1))
        return np.concatenate([soft, (x - first) / widths])

    def slopes(x: Floats) -> Floats:
        """Differences over a step that outlasts the rounding of times to ns and moves every prediction."""
        here, steps = robust(x), np.array([CONSTANTS[name].step for name in chosen])
        steps = np.where(x + steps > bounds[1], -steps, steps)
        return np.array([(robust(x + h * unit) - here) / h for h, unit in zip(steps, np.eye(len(x)), strict=True)]).T

    before = robust(first)
    low, high = np.array(bounds)
    inside = np.clip(origin, low + 1e-6, high - 1e-6)
    # In widths of the priors, from where they hold: so far the first step may go, however small a constant is.
    found = least_squares(
        lambda z: robust(first + z * widths), (inside - first) / widths, lambda z: slopes(first + z * widths) * widths,
        bounds=((low - first) / widths, (high - first) / widths), max_nfev=rounds + 1, ftol=1e-3, xtol=1e-3,
    )  # fmt: skip
    spread = np.sqrt(np.diag(np.linalg.inv(found.jac.T @ found.jac))) * widths
    best = first + found.x * widths
    profile = _profile(start, chosen, best)
    errors = {name: _outward_error(name, x, s) for name, x, s in zip(chosen, best, spread, strict=True)}
    return Fit(profile, errors, points, float(before @ before) / 2, float(found.cost))


def _inward(name: str, profile: EngineProfile) -> float:
    value, scale = float(getattr(profile, name)), CONSTANTS[name].scale
    return value / scale if scale else log(value)


def _top(name: str) -> float:
    constant = CONSTANTS[name]
    return constant.high / constant.scale if constant.scale else log(constant.high)


def _profile(start: EngineProfile, names: Sequence[str], x: Floats) -> EngineProfile:
    """Integers stay integers: times in ns; factors keep four digits."""
    values = {
        name: round(float(v) * CONSTANTS[name].scale) if CONSTANTS[name].scale else round(exp(float(v)), 4)
        for name, v in zip(names, x, strict=True)
    }
    return replace(start, **values)  # type: ignore[arg-type]


def _outward_error(name: str, x: float, spread: float) -> float:
    scale = CONSTANTS[name].scale
    return float(spread * scale if scale else exp(x) * spread)
