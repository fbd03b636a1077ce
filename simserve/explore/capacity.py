"""The highest load that a deployment bears within its SLO: bisection, repeated over seeds.

Each seed's requests are sent faster or slower (`repeats.at_load`) until a load that keeps the SLO lies next to one that
does not, within a tolerance. Over the seeds the capacity has a mean and Student's interval, brackets included.
Bisection takes for granted that what breaks at one load does not hold at a higher one; what it finds is one such
crossing.

Of an open loop the deployment must keep up besides: requests finish at 90 % of the rate at least at which they arrive
[guessed]; a bound on TPOT says nothing about queues. And the requests must suffice for a steady state, or a high load
is over before it is one: they arrive over at least STEADY times the mean E2E [guessed].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from simserve.explore.intervals import DEFAULT_CONFIDENCE, Mean, mean
from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.repeats import Repeat, at_load, keeps_up, load_of, mapped

if TYPE_CHECKING:
    from simserve.sim.trace import Trace
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec
    from simserve.workload.requests import RequestSet

REACH = 1024  # times and parts of the load that the search begins with
STEADY = 5
TOO_FEW = "too few requests for a steady state"
NEAR = 0.1  # seeds after the first begin at its capacity, in strides of so much
RATE, SESSIONS, CONCURRENCY = "requests/s", "sessions/s", "concurrent requests"
_FINISHED = 0


@dataclass(frozen=True)
class Reading:
    """A run at one load: whether the SLO held, and what came nearest to breaking, or broke most (value / bound - 1)."""

    met: bool
    nearest: str
    excess: float


@dataclass(frozen=True)
class Bracket:
    """Where one seed's capacity lies.

    low: the highest load that kept the SLO, None if none did down to a REACH-th of the first; high: the lowest above it
    that did not, None if all did up to REACH times the first; broke: what did at `high`; tried: (load, reading).
    """

    low: float | None
    high: float | None
    broke: str = ""
    tried: list[tuple[float, Reading]] = field(default_factory=list)


def bisect(
    read: Callable[[float], Reading], start: float, *, tolerance: float, whole: bool = False, most: float = inf,
    stride: float = 2.0,
) -> Bracket:  # fmt: skip
    """Bracket the load where `read` turns, from `start` in strides of a factor, then by bisection.

    tolerance: high / low - 1 at the end; whole: loads are whole numbers from 1 on, and one apart is close enough;
    most: no load above this is tried.
    """
    tried: list[tuple[float, Reading]] = []

    def at(load: float) -> bool:
        tried.append((load, read(load)))
        return tried[-1][1].met

    low, high = _enclose(at, float(round(start)) if whole else start, whole, most, stride)
    while low is not None and high is not None and not _close(low, high, tolerance, whole):
        middle = round((low + high) / 2) if whole else (low * high) ** 0.5
        low, high = (middle, high) if at(middle) else (low, middle)
    broke = next((reading.nearest for load, reading in tried if load == high and not reading.met), "")
    return Bracket(low, high, broke, tried)


def _enclose(
    at: Callable[[float], bool], start: float, whole: bool, most: float, stride: float
) -> tuple[float | None, float | None]:
    """(a load that holds, one above that does not), None for one that is not within reach."""
    lowest, highest = (1.0, min(most, start * REACH)) if whole else (start / REACH, min(most, start * REACH))
    load = min(start, most)
    if at(load):
        while load < highest:
            below, load = load, min(highest, max(load + 1, round(load * stride)) if whole else load * stride)
            if not at(load):
                return below, load
        return load, None
    while load > lowest:
        above, load = load, max(lowest, min(load - 1, round(load / stride)) if whole else load / stride)
        if at(load):
            return load, above
    return None, load


def _close(low: float, high: float, tolerance: float, whole: bool) -> bool:
    return high <= low * (1 + tolerance) or (whole and high - low <= 1)


@dataclass(frozen=True)
class Capacity:
    """The answer: per seed its bracket, over all the mean of the highest loads that held.

    unit: RATE, SESSIONS or CONCURRENCY; mean: None if a seed has no bracket; tolerance: of each seed, relative.
    """

    unit: str
    seeds: list[tuple[int, Bracket]]
    mean: Mean | None
    tolerance: float
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "unit": self.unit, "capacity": None if self.mean is None else asdict(self.mean),
            "tolerance": self.tolerance, "confidence": self.confidence,
            "brackets": [{"seed": seed, **asdict(b), "tried": [{"load": x, **asdict(r)} for x, r in b.tried]}
                         for seed, b in self.seeds],
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """Every run, in the order in which it was played."""
        return [{"seed": seed, "load": load, **asdict(r)} for seed, b in self.seeds for load, r in b.tried]

    def problem(self) -> str | None:
        """Why there is no capacity, in one line; None if there is one."""
        for seed, bracket in self.seeds:
            if bracket.broke == TOO_FEW:
                return f"{bracket.high:.4g} {self.unit} (seed {seed}) keep the SLO, but that is {TOO_FEW}; ask for more"
            if bracket.low is None and bracket.tried:
                load, reading = bracket.tried[-1]
                at = f"even at {load:.4g} {self.unit} (seed {seed})"
                return f"no load keeps the SLO: {at} {reading.nearest} is broken"
            if bracket.high is None:
                return f"no load breaks the SLO, up to {bracket.low:.4g} {self.unit} (seed {seed})"
        return None


Play = Callable[["RequestSet"], Reading]


def capacity(
    play: Play, repeats: list[Repeat], *, rate_rps: float | None = None, tolerance: float = 0.02,
    confidence: float = DEFAULT_CONFIDENCE, jobs: int = 1,
) -> Capacity:  # fmt: skip
    """Bracket the capacity of every repeat; rate_rps: the load of a repeat as the study states it, if it does.

    The first seed's bracket is where the others begin, so that `jobs` changes no number.
    """
    whole = repeats[0].workload.concurrency is not None
    loads = [load_of(repeat.workload, rate_rps) for repeat in repeats]
    first = _of_seed(play, repeats[0], loads[0], loads[0], 2.0, tolerance)
    near = first.low is not None and first.high is not None
    start, stride = (first.low, 1.0 + max(NEAR, tolerance)) if near else (loads[0], 2.0)
    rest = mapped(_of_seed, [(play, r, own, start, stride, tolerance)
                             for r, own in zip(repeats[1:], loads[1:], strict=True)], jobs)  # fmt: skip
    brackets = [first, *rest]
    found = _over_seeds(brackets, confidence)
    seeds = [repeat.seed for repeat in repeats]
    unit = CONCURRENCY if whole else SESSIONS if repeats[0].workload.after is not None and rate_rps else RATE
    return Capacity(unit, list(zip(seeds, brackets, strict=True)), found, tolerance, confidence)


def _over_seeds(brackets: list[Bracket], confidence: float) -> Mean | None:
    """The mean of the loads that held; its interval reaches from that of the low ends to that of the high ones."""
    ends = [(b.low, b.high) for b in brackets if b.low is not None and b.high is not None and b.broke != TOO_FEW]
    if len(ends) < len(brackets):
        return None
    lows, highs = (mean([float(end[i]) for end in ends], confidence) for i in (0, 1))
    return Mean(lows.value, lows.low, highs.high)


def _of_seed(play: Play, repeat: Repeat, own: float, start: float, stride: float, tolerance: float) -> Bracket:
    """One seed's bracket; no closed loop has more requests in flight than there are."""
    whole, count = repeat.workload.concurrency is not None, len(repeat.workload)
    return bisect(
        lambda load: play(at_load(repeat.workload, load, own)), start,
        tolerance=tolerance, whole=whole, most=count if whole else inf, stride=stride,
    )  # fmt: skip


@dataclass(frozen=True)
class Deployed:
    """A deployment as something that `capacity` can play."""

    model: ModelSpec
    deployment: DeploymentSpec
    slo: SloSpec | None

    def __call__(self, workload: RequestSet) -> Reading:
        """Simulate and judge."""
        from simserve.explore.evaluate import reduce
        from simserve.run import simulate

        run = simulate(self.model, self.deployment, workload, slo=self.slo)
        outcome = reduce(run, self.model, self.deployment, self.slo)
        return judged(outcome, _unsteady(run.trace) if workload.concurrency is None else "")


def _unsteady(trace: Trace) -> str:
    """Why a run of an open loop says nothing about a load that lasts; '' where it does."""
    done = trace.requests["outcome"] == _FINISHED
    came, left = (trace.requests[name][done] for name in ("arrival_ns", "finish_ns"))
    if not keeps_up(came, left):
        return "keeping up with arrivals"
    enough = not len(came) or float(came.max() - came.min()) >= STEADY * float((left - came).mean())
    return "" if enough else TOO_FEW


def judged(outcome: Outcome, unsteady: str = "") -> Reading:
    """Whether the SLO is met, and what is nearest to its bound; unsteady: why that would not last, '' if it would."""
    if outcome.turned_away:
        return Reading(False, "requests turned away", float(outcome.turned_away))
    worst = max(outcome.slo, key=lambda s: s.excess, default=None)
    if unsteady and outcome.meets_slo:
        return Reading(False, unsteady, 0.0)
    if worst is None:
        return Reading(True, "", 0.0)
    return Reading(outcome.meets_slo, f"{worst.name.upper()} P{worst.percentile:g}", min(worst.excess, NEVER_MS))
