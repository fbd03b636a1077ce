"""What a simulated configuration is judged by: latency at the SLO's percentile, throughput, cost, energy.

Objectives: total tokens (prompt + output) per second and GPU in steady state, to maximise; TPOT at the
SLO's percentile, to minimise. Constraints, each met at or below zero: value / bound - 1 for every SLO, and
the number of requests that the deployment turned away although the model could have served them.

A percentile P here is the smallest value that P % of the requests do not exceed (nearest rank), with
requests that never finished counted as infinitely slow, so that "P90 <= bound" is the same statement as
"at least 90 % of the requests are within the bound".
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simserve.explore.replicate import Replications, from_dict
from simserve.explore.space import uses_host
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.sim.trace import Trace
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.slo import SloSpec

DEFAULT_PERCENTILE = 90.0
NEVER_MS = 1e12  # stands for "never" where a finite number is needed (JSON, Optuna)
KERNELS = "kernel error"  # what an interval rests on where nothing was calibrated
OBJECTIVES = ("throughput", "gpus", "cost", "front")
_BY_SEEDS = ("throughput", "front")  # ranked by the mean over replications where there are some
TIE = 0.01  # throughputs within 1 % are a tie: run-to-run differences of a workload are larger
_FINISHED = 0
_STEADY_REQUESTS, _EDGE = 100, 0.05


@dataclass(frozen=True)
class SloValue:
    """One service level objective of one run.

    value_ms: NEVER_MS where too many requests never finished; None, and met, where no request has such a value
    (the TPOT of outputs of one token).
    """

    name: str
    percentile: float
    value_ms: float | None
    bound_ms: float

    @property
    def excess(self) -> float:
        """value / bound - 1: at most zero where the objective is met."""
        return -1.0 if self.value_ms is None else self.value_ms / self.bound_ms - 1.0


@dataclass(frozen=True)
class Interval:
    """A 90 % prediction interval; arrivals are the same. `simserve.explore.interval` works it out.

    half_width: of the step times for errors of kernel prices and the host constant, relative; ranges: dotted name of a
    metric -> (low, high), in its own unit; sources: 'ttft', and 'tpot' for all else -> what the interval rests on;
    factors: of those with residuals of a calibration, that between prediction and either end.
    """

    half_width: float
    ranges: dict[str, tuple[float, float]]
    sources: dict[str, str] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Energy:
    """Board power of the GPUs, modelled by `simserve.metrics.energy`, over the steady part of a run.

    watts_per_gpu: on average over all GPUs; joules_per_token: prompt + output tokens; error: half-width of both,
    relative.
    """

    watts_per_gpu: float
    joules_per_token: float
    error: float


@dataclass(frozen=True)
class Outcome:
    """One simulated configuration, as numbers that survive JSON.

    tpot_ms, ttft_ms: at the SLO's percentile, None where no request has one. sources: share of the simulated
    busy time by source of the kernel numbers. turned_away: requests that this deployment rejected although the
    model's context holds them. usage: how the run used its GPUs, by pool (`simserve.explore.usage`).
    """

    deployment: DeploymentSpec
    num_gpus: int
    num_gpu_blocks: int
    tokens_per_s_per_gpu: float
    ttft_ms: float | None
    tpot_ms: float | None
    usd_per_hour: float
    usd_per_million_tokens: float
    slo: tuple[SloValue, ...]
    turned_away: int
    metrics: dict[str, Any]
    sources: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    pools: tuple[dict[str, Any], ...] = ()
    interval: Interval | None = None
    usage: tuple[dict[str, Any], ...] = ()
    energy: Energy | None = None
    replications: Replications | None = None

    @property
    def meets_slo(self) -> bool:
        """Every objective holds and nobody was turned away; on average over the replications, if there are any."""
        if self.replications is not None:
            return self.turned_away == 0 and self.replications.keeps_slo
        return self.turned_away == 0 and all(s.excess <= 0.0 for s in self.slo)

    @property
    def misses_on_average(self) -> bool:
        """Its own run keeps the SLO, the mean over its replications does not."""
        return self.replications is not None and self.worst_excess <= 0.0 and not self.replications.keeps_slo

    @property
    def tpot_order(self) -> float:
        """TPOT for comparisons: 0 where no request has one."""
        return 0.0 if self.tpot_ms is None else self.tpot_ms

    @property
    def tokens_per_s_per_user(self) -> float | None:
        """1 / TPOT at the SLO's percentile: what one reader sees; None where no request has a TPOT."""
        return 1e3 / self.tpot_ms if self.tpot_ms else None

    @property
    def worst_excess(self) -> float:
        """The largest relative excess over a bound; at most zero where all are met."""
        return max((s.excess for s in self.slo), default=0.0)

    def constraints(self) -> dict[str, float]:
        """Name -> value, met at or below zero; the form that Optuna takes."""
        return {**{s.name: s.excess for s in self.slo}, "turned_away": float(self.turned_away)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; the inverse is `outcome_from_dict`."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["deployment"] = self.deployment.model_dump(mode="json")
        plain["slo"] = [asdict(s) for s in self.slo]
        plain["interval"] = None if self.interval is None else asdict(self.interval)
        plain["energy"] = None if self.energy is None else asdict(self.energy)
        plain["replications"] = None if self.replications is None else asdict(self.replications)
        return plain


def outcome_from_dict(data: dict[str, Any]) -> Outcome:
    """An Outcome from what `Outcome.to_dict` gave."""
    from simserve.spec.deployment import DeploymentSpec

    deployment = DeploymentSpec.model_validate(data["deployment"])
    slo = tuple(SloValue(**s) for s in data["slo"])
    ranged = data.get("interval")
    pairs = {name: (low, high) for name, (low, high) in ranged["ranges"].items()} if ranged else {}
    interval = Interval(**{**ranged, "ranges": pairs}) if ranged else None
    energy = Energy(**data["energy"]) if data.get("energy") else None
    pools, usage = (tuple(data.get(name, ())) for name in ("pools", "usage"))
    plain = {"deployment": deployment, "slo": slo, "pools": pools, "interval": interval, "usage": usage,
             "energy": energy, "replications": from_dict(data.get("replications"))}  # fmt: skip
    return Outcome(**{**data, **plain})


def latencies_ms(trace: Trace) -> dict[str, NDArray[np.float64]]:
    """ttft, tpot, e2e per request in ms, inf where the request never finished; tpot skips 1-token outputs."""
    from simserve.metrics import latencies_ms as as_measured

    rows = trace.requests
    done = rows["outcome"] == _FINISHED
    measured = as_measured(trace)
    late = {name: np.where(done, measured[name], np.inf) for name in ("ttft", "tpot", "e2e")}
    return {**late, "tpot": late["tpot"][(rows["output_tokens"] > 1) | ~done]}


def at_percentile(values: NDArray[np.float64], percentile: float) -> float | None:
    """The smallest value that `percentile` % of `values` do not exceed; None for none, NEVER_MS for infinite."""
    if len(values) == 0:
        return None
    value = float(np.percentile(values, percentile, method="inverted_cdf"))
    return value if np.isfinite(value) else NEVER_MS


def steady_window_ns(trace: Trace) -> tuple[int, int] | None:
    """From the finish of the first to that of the last 5 % of the requests; None for too short a run."""
    rows = trace.requests
    finish = rows["finish_ns"][rows["outcome"] == _FINISHED]
    count = len(finish)
    if count < _STEADY_REQUESTS:
        return None
    first, last = np.sort(finish)[[int(count * _EDGE), int(count * (1 - _EDGE))]]
    return (int(first), int(last)) if last > first else None


def steady_tokens_per_s(trace: Trace) -> float | None:
    """Prompt + output tokens per second while the run is in full swing; None for too short a run.

    Counted in `steady_window_ns`: over the whole run, a slow but sufficient GPU would lose to a fast one by the
    drain at the end of a finite trace, and the answer would depend on the trace's length. Where requests begin together
    and end in a burst (hybrid schedulers in closed loops of few requests) it says too much.
    """
    window = steady_window_ns(trace)
    if window is None:
        return None
    rows, (first, last) = trace.requests, window
    inside = (rows["outcome"] == _FINISHED) & (rows["finish_ns"] > first) & (rows["finish_ns"] <= last)
    tokens = int((rows["prompt_tokens"] + rows["output_tokens"])[inside].sum())
    return tokens * NS_PER_S / (last - first)


def slo_values(trace: Trace, slo: SloSpec | None) -> tuple[SloValue, ...]:
    """The bounded latencies of a run at the SLO's percentile."""
    if slo is None:
        return ()
    measured = latencies_ms(trace)
    bounds = (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms))
    return tuple(
        SloValue(name, float(slo.percentile), at_percentile(measured[name], slo.percentile), float(bound))
        for name, bound in bounds
        if bound is not None
    )


def ranked(outcomes: list[Outcome], objective: str = "throughput") -> list[Outcome]:
    """The best first; the first is the one to run if it meets the SLO.

    Those that meet the SLO come by the objective, in groups that tie in it (`_tied_groups`). The others follow by
    how far they miss.
    """
    good = [o for o in outcomes if o.meets_slo]
    bad = [o for o in outcomes if not o.meets_slo]
    bad.sort(key=lambda o: (o.turned_away > 0, max(o.worst_excess, 0.0), -o.tokens_per_s_per_gpu, _name(o)))
    return [o for group in _tied_groups(good, objective) for o in group] + bad


def recommend(outcomes: list[Outcome], objective: str = "throughput") -> tuple[Outcome | None, list[Outcome]]:
    """(the configuration to run, those that tie with it); (None, []) if none meets the SLO."""
    groups = _tied_groups([o for o in outcomes if o.meets_slo], objective)
    return (groups[0][0], groups[0][1:]) if groups else (None, [])


def goal(outcome: Outcome, objective: str) -> float:
    """What the objective makes as small as possible: -tokens/s/GPU (also of a front), GPUs, or USD per hour."""
    if objective == "gpus":
        return float(outcome.num_gpus)
    return outcome.usd_per_hour if objective == "cost" else -outcome.tokens_per_s_per_gpu


def standing(outcome: Outcome, objective: str) -> float:
    """What runs are ranked by, as small as possible: the goal; of throughput the mean over the replications, if any."""
    if outcome.replications is not None and objective in _BY_SEEDS:
        return -outcome.replications.mean
    return goal(outcome, objective)


def _tied_groups(good: list[Outcome], objective: str = "throughput") -> list[list[Outcome]]:
    """Runs that tie with the best of their group, each by what comes next: cost, then TPOT.

    Of throughputs within 1 % the lower cost per million tokens wins; of equal numbers of GPUs the lower cost per hour;
    of costs per hour within 1 % the lower cost per million tokens. Two throughputs with replications tie where the
    interval of their difference reaches zero instead.
    """
    order = sorted(good, key=lambda o: (standing(o, objective), _name(o)))
    values = [standing(o, objective) for o in order]
    repeated = [o for o in order if o.replications is not None] if objective in _BY_SEEDS else []
    groups: list[list[Outcome]] = []
    taken: set[int] = set()
    for place, best in enumerate(order):
        if id(best) not in taken:
            near = order[place : bisect_right(values, values[place] + TIE * abs(values[place]))]
            near += repeated if best.replications is not None else []
            group = {id(o): o for o in near if id(o) not in taken and _ties(o, best, objective)}
            taken |= group.keys()
            groups.append(list(group.values()))
    # Costs that differ by less than the throughput does are no reason to prefer one.
    hourly = (lambda o: o.usd_per_hour) if objective == "gpus" else (lambda o: 0.0)
    return [
        sorted(g, key=lambda o: (hourly(o), coarse(o.usd_per_million_tokens), o.tpot_order, _name(o))) for g in groups
    ]


def _ties(outcome: Outcome, best: Outcome, objective: str) -> bool:
    """Whether the interval says so, of two with replications; others are within 1 % already."""
    if outcome is best or objective not in _BY_SEEDS or outcome.replications is None or best.replications is None:
        return True
    return outcome.replications.reaches(best.replications)


def coarse(cost: float) -> float:
    """A cost to two significant figures, as costs are ranked by."""
    return float(f"{cost:.2g}")


def _name(outcome: Outcome) -> tuple[Any, ...]:
    """A total order without meaning but that no host goes before one, so that equal results rank alike everywhere."""
    d = outcome.deployment
    return (outcome.num_gpus, d.gpu, d.split, d.dtype, d.max_num_batched_tokens, d.max_num_seqs, d.router,
            uses_host(d.scheduler), d.scheduler, str(d.scheduler_options), d.gpu_memory_utilization or 0.0)  # fmt: skip
