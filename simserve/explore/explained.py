"""Why a saved result says what it says, as data: `simserve explain RESULT`.

Schema "simserve.explanation/1":

    chosen        index of the run in `runs` of the result;  configuration: in words;  meets_slo
    runner_up     {place, configuration, decided_by, chosen, other}: the next one that meets the SLO, and the first
                  thing in which the two differ by the rules of the ranking; null if there is none
    missed        {what: runs} that were simulated and failed: the bound that each missed most, or what else; those
                  given up on the way too
    rejected      [{reason, configurations}] that cannot exist
    hosting       whether keeping KV on a host pays: {verdict, chosen, others: the best run of every other strategy
                  (see `simserve.explore.hosting`)}; null where nothing of the kind was compared
    rivals        of a diffusion model, the best run of every other scheduler: [{scheduler, simulated: how many,
                  place, configuration, goal, misses, limits: sentences}]
    limits        [{name, kind, reached, bound, nearness, time_at}]: SLO bounds, nearest first, then resources and
                  shares of time
    binds         names of what is at its limit or nearest to it;  why: what limits the run, in sentences
    buys          [{what, source, configuration, place, values {metric: value}, capacity, unknown, note}]: the chosen
                  one itself (what: 'as it is'), one more replica, each bound of the SLO LOOSER; source: 'result' (a run
                  in it), 'simulated' (now); capacity: the highest load within the SLO as a multiple of the study's,
                  always simulated, with the study's seed; unknown: why there is none
    numbers       share of the time by source, half_width of the step times, ranges {metric: [low, high]}, rests_on
                  {ttft, tpot: what the interval of TTFT, of all else rests on}, families
                  {family: {share, half_width}}, energy
    notes         what could not be found out, and why
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from simserve.errors import Infeasible, MissingData, SimserveError
from simserve.explore.hosting import Hosting, hosting
from simserve.explore.limits import limits
from simserve.explore.objective import Outcome, SloValue, coarse, recommend, standing
from simserve.explore.pressure import RESOURCE, Gauge, gauges, slo_gauges
from simserve.explore.result import describe
from simserve.explore.rivals import GOALS, Rival, rivals
from simserve.explore.saved import Saved, inputs_of
from simserve.explore.values import value
from simserve.pooled import resolve_pools
from simserve.spec.stages import one_more as one_more_place
from simserve.spec.stages import parse_stages

if TYPE_CHECKING:
    from simserve.explore.runner import Inputs
    from simserve.run import RunResult
    from simserve.spec.deployment import DeploymentSpec

LOOSER = 1.2
AS_IS = "as it is"
METRICS = ("num_gpus", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "usd_per_hour", "usd_per_million_tokens",
           "joules_per_token")  # fmt: skip
NEAR = 0.9
_CAPACITY_TOLERANCE = 0.05


@dataclass(frozen=True)
class Purchase:
    """What a change would buy; see the module docstring."""

    what: str
    source: str
    outcome: Outcome | None = None
    place: int | None = None
    capacity: float | None = None
    unknown: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        found = None if self.outcome is None else {name: value(self.outcome, name) for name in METRICS}
        words = None if self.outcome is None else describe(self.outcome)
        return {"what": self.what, "source": self.source, "configuration": words, "place": self.place, "values": found,
                "capacity": self.capacity, "unknown": self.unknown, "note": self.note}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """See the module docstring."""

    saved: Saved
    runner_up: dict[str, Any] | None
    missed: dict[str, int]
    limits: list[Gauge]
    binds: list[str]
    buys: list[Purchase]
    numbers: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def hosting(self) -> Hosting | None:
        """Whether a host for KV pays, where the result can say."""
        return hosting(self.saved.runs, self.saved.outcome)

    @property
    def rivals(self) -> list[Rival]:
        """Other schedulers of a diffusion model."""
        return rivals(self.saved.runs, self.saved.outcome, self.saved.objective)

    @property
    def why(self) -> list[str]:
        """What limits the chosen run, in sentences: those of the HTML report."""
        told = limits(self.saved.outcome)
        return [told.summary, *(f"{limit.text}." for limit in told.found)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        chosen, hosted = self.saved.outcome, self.hosting
        return {
            "result": self.saved.path.name, "objective": self.saved.objective, "chosen": self.saved.chosen,
            "configuration": describe(chosen), "meets_slo": chosen.meets_slo, "runner_up": self.runner_up,
            "missed": self.missed, "rejected": self.saved.document.get("rejected", []),
            "hosting": None if hosted is None else hosted.to_dict(),
            "rivals": [rival.to_dict() for rival in self.rivals],
            "why": self.why, "limits": [{**asdict(limit), "nearness": limit.nearness} for limit in self.limits],
            "binds": self.binds,
            "buys": [buy.to_dict() for buy in self.buys], "numbers": self.numbers,
            "notes": self.notes,
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per thing that could be bought."""
        plain = [buy.to_dict() for buy in self.buys]
        return [{**{k: v for k, v in row.items() if k != "values"}, **(row["values"] or {})} for row in plain]


def explain(saved: Saved, *, simulate: bool = True) -> Explanation:
    """The explanation of a result; simulate: play the chosen one and its neighbours again where that helps."""
    chosen, notes = saved.outcome, list[str]()
    inputs, run = None, None
    if simulate:
        try:
            inputs = inputs_of(saved)
            run = _played(inputs, chosen.deployment)
        except (MissingData, Infeasible) as error:
            notes.append(str(error))
    found = [*slo_gauges(chosen), *(gauges(run) if run is not None else [])]
    given_up = len(saved.document.get("pruned", []))
    return Explanation(
        saved, runner_up(saved), missed(saved.runs, given_up), found, binding(found, run is not None),
        [*_as_is(saved, inputs), *_replicas(saved, inputs), *_looser(saved, inputs)],
        _numbers(chosen, inputs, run), notes,
    )  # fmt: skip


def runner_up(saved: Saved) -> dict[str, Any] | None:
    """The next run that meets the SLO, and what decided between the two."""
    best = saved.outcome
    others = [(place, o) for place, o in enumerate(saved.runs) if place != saved.chosen and o.meets_slo]
    if saved.document.get("kind") != "search" or not best.meets_slo or not others:
        return None
    place, other = others[0]
    name, own, theirs = decided_by(best, other, saved.objective)
    return {"place": place, "configuration": describe(other), "decided_by": name, "chosen": own, "other": theirs}


def decided_by(best: Outcome, other: Outcome, objective: str) -> tuple[str, float | None, float | None]:
    """(what, of the better one, of the other): the first criterion of the ranking in which they differ."""
    if other not in recommend([best, other], objective)[1]:
        sign = -1.0 if objective in ("throughput", "front") else 1.0
        words = GOALS[objective]
        if objective in ("throughput", "front") and best.replications is not None:
            words += ", the mean over the seeds" + ("" if other.replications is not None else " against its own seed's")
        return words, sign * standing(best, objective), sign * standing(other, objective)
    if objective == "gpus" and best.usd_per_hour != other.usd_per_hour:
        return "USD per hour", best.usd_per_hour, other.usd_per_hour
    costs = [coarse(o.usd_per_million_tokens) for o in (best, other)]
    if costs[0] != costs[1]:
        return "USD per million tokens", best.usd_per_million_tokens, other.usd_per_million_tokens
    if best.tpot_order != other.tpot_order:
        return "TPOT, ms", best.tpot_ms, other.tpot_ms
    return "nothing that is measured; the order is by name", None, None


def missed(runs: Sequence[Outcome], given_up: int = 0) -> dict[str, int]:
    """How many simulated runs failed for what: the bound that each missed most, or requests that it turned away."""
    found = Counter({"given up, sure to miss the SLO": given_up} if given_up else {})
    for run in runs:
        if run.turned_away:
            found["turned requests away"] += 1
        elif run.misses_on_average:
            found["the SLO, on average over seeds"] += 1
        elif not run.meets_slo:
            worst = max(run.slo, key=lambda s: s.excess)
            found[f"{worst.name.upper()} P{worst.percentile:g} above {worst.bound_ms:g} ms"] += 1
    return dict(found.most_common())


def binding(found: Sequence[Gauge], simulated: bool) -> list[str]:
    """Names of the SLO bounds within 10 % of being broken, or the nearest one, and of the resources that are full."""
    bounds = [limit for limit in found if limit.kind == "slo"]
    near = [limit for limit in bounds if limit.nearness >= NEAR] or bounds[:1]
    full = [limit for limit in found if limit.kind == RESOURCE and (limit.time_at or 0.0) >= 0.1] if simulated else []
    return [limit.name for limit in (*near, *full)]


def _as_is(saved: Saved, inputs: Inputs | None) -> list[Purchase]:
    borne = _capacity(inputs, saved.outcome.deployment)
    return [Purchase(AS_IS, "result", saved.outcome, saved.chosen, *borne)]


def _replicas(saved: Saved, inputs: Inputs | None) -> list[Purchase]:
    """One replica more, of each pool if there are several."""
    found = []
    for name, more in one_more(saved.outcome.deployment):
        what = f"one more replica{f' of {name}' if name else ''}"
        place = next((i for i, run in enumerate(saved.runs) if _alike(run.deployment, more)), None)
        if place is not None:
            more = saved.runs[place].deployment
        borne = _capacity(inputs, more)
        if place is not None:
            found.append(Purchase(what, "result", saved.runs[place], place, *borne))
        elif inputs is not None:
            try:
                found.append(Purchase(what, "simulated", _outcome(inputs, more), None, *borne))
            except Infeasible as error:
                found.append(Purchase(what, "not possible", note=str(error)))
    return found


def one_more(deployment: DeploymentSpec) -> list[tuple[str, DeploymentSpec]]:
    """(pool, or place of stages, the deployment with one replica more of it); a second replica gets a router that looks
    at the load."""
    if deployment.stages is not None:
        return [(place, resolve_pools(deployment.model_copy(update={"stages": more})))
                for place, more in one_more_place(deployment.stages)]  # fmt: skip
    if not deployment.pools:
        router = {"router": "least_loaded"} if deployment.replicas == 1 else {}
        return [("", deployment.model_copy(update={"replicas": deployment.replicas + 1, **router}))]
    own = {name: engine.replicas for name, engine in deployment.engines()}
    return [
        (grown, deployment.model_copy(update={"pools": tuple(
            (name, pool.model_copy(update={"replicas": own[name] + 1}) if name == grown else pool)
            for name, pool in deployment.pools
        )}))
        for grown in own
    ]  # fmt: skip


def _alike(one: DeploymentSpec, other: DeploymentSpec) -> bool:
    """Equal but for the router, and for how a layout of stages is written."""
    same = {"router": other.router}
    if one.stages is not None and other.stages is not None and parse_stages(one.stages) == parse_stages(other.stages):
        same["stages"] = other.stages
    return one.model_copy(update=same) == other


def _looser(saved: Saved, inputs: Inputs | None) -> list[Purchase]:
    """Each bound LOOSER: which run of the result would win then, and what load the chosen one would bear."""
    found = []
    for bound in saved.outcome.slo:
        runs = [loosened(run, bound.name, LOOSER) for run in saved.runs]
        now = _winner([loosened(run, bound.name, 1.0) for run in saved.runs], saved)
        best = _winner(runs, saved)
        place = saved.chosen if best in (None, now) else best
        note = "the same one wins" if place == saved.chosen else f"run {place + 1} wins"
        note += " of those played to the end" if saved.document.get("pruned") else ""
        borne = _capacity(inputs, saved.runs[place].deployment, {f"{bound.name}_ms": bound.bound_ms * LOOSER})
        what = f"{bound.name.upper()} {bound.bound_ms * LOOSER:g} ms instead of {bound.bound_ms:g}"
        found.append(Purchase(what, "result", runs[place], place, *borne, note if best is not None else ""))
    return found


def _winner(runs: Sequence[Outcome], saved: Saved) -> int | None:
    """The index of the one that a search would recommend; None for a simulation, and if none meets the SLO."""
    best = recommend(list(runs), saved.objective)[0] if saved.document.get("kind") == "search" else None
    return next((i for i, run in enumerate(runs) if run is best), None)


def loosened(run: Outcome, name: str, factor: float) -> Outcome:
    """A run judged by another bound on one latency; its own seed alone, as replications keep no latencies."""
    slo = tuple(SloValue(s.name, s.percentile, s.value_ms, s.bound_ms * factor) if s.name == name else s
                for s in run.slo)  # fmt: skip
    return replace(run, slo=slo, replications=None)


def _played(inputs: Inputs, deployment: DeploymentSpec) -> RunResult:
    from simserve.run import simulate

    return simulate(inputs.model, deployment, inputs.workload, slo=inputs.study.slo)


def _outcome(inputs: Inputs, deployment: DeploymentSpec) -> Outcome:
    from simserve.explore.evaluate import reduce

    return reduce(_played(inputs, deployment), inputs.model, deployment, inputs.study.slo)


def _capacity(
    inputs: Inputs | None, deployment: DeploymentSpec, bounds: Mapping[str, float] | None = None
) -> tuple[float | None, str]:
    """The highest load within the SLO as a multiple of the study's, or why there is none; bounds: others than its."""
    from simserve.explore.capacity import Deployed, capacity
    from simserve.explore.repeats import Repeat, load_of

    if inputs is None:
        return None, "nothing was simulated again"
    if inputs.study.slo is None:
        return None, "the study has no SLO that a higher load would break"
    slo = inputs.study.slo.model_copy(update=dict(bounds or {}))
    try:
        own = load_of(inputs.workload)
        found = capacity(Deployed(inputs.model, deployment, slo), [Repeat(inputs.study.seed, inputs.workload)],
                         rate_rps=own, tolerance=_CAPACITY_TOLERANCE)  # fmt: skip
    except SimserveError as error:
        return None, str(error)
    return (None, found.problem() or "") if found.mean is None else (found.mean.value / own, "")


def _numbers(chosen: Outcome, inputs: Inputs | None, run: RunResult | None) -> dict[str, Any]:
    """What the numbers of the chosen run rest on, and how sure they are."""
    from simserve.explore.runner import with_interval
    from simserve.run import families

    interval = chosen.interval
    if interval is None and inputs is not None and run is not None:
        study = inputs.study.model_copy(update={"deployment": chosen.deployment})
        interval = with_interval(replace(inputs, study=study), run)
    known = families(run) if run is not None else {}
    return {
        "sources": dict(chosen.sources), "half_width": None if interval is None else interval.half_width,
        "ranges": {} if interval is None else {name: list(ends) for name, ends in interval.ranges.items()},
        "rests_on": {} if interval is None else dict(interval.sources),
        "families": {name: {"share": share, "half_width": width} for name, (share, width) in known.items()},
        "energy": None if chosen.energy is None else asdict(chosen.energy),
    }  # fmt: skip
