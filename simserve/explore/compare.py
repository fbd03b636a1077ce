"""Named deployments side by side: all play the same requests under the same seeds, differences are taken by pairs.

Two tie in a metric if the confidence interval of their difference holds zero, or if they differ by less than 1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simserve.explore.intervals import DEFAULT_CONFIDENCE, Mean, mean, paired
from simserve.explore.objective import TIE, Outcome
from simserve.explore.repeats import Repeat, mapped
from simserve.explore.values import LARGER_IS_BETTER, value

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec
    from simserve.workload.requests import RequestSet

METRICS = ("tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "e2e_ms.p90", "usd_per_hour", "usd_per_million_tokens",
           "joules_per_token")  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A deployment with a name, and what it plays."""

    name: str
    model: ModelSpec
    deployment: DeploymentSpec
    slo: SloSpec | None
    repeats: Sequence[Repeat]


@dataclass(frozen=True)
class Played:
    """A candidate's outcomes, one per seed in order."""

    name: str
    deployment: DeploymentSpec
    outcomes: list[Outcome]

    @property
    def met(self) -> int:
        """How many of the seeds kept the SLO."""
        return sum(outcome.meets_slo for outcome in self.outcomes)

    def values(self, metric: str) -> list[float] | None:
        """The metric of each seed; None if any has none."""
        found = [value(outcome, metric) for outcome in self.outcomes]
        known = [v for v in found if v is not None]
        return known if len(known) == len(found) else None


@dataclass(frozen=True)
class Difference:
    """How far one lies from another in a metric, on average over the seeds; relative: to the other's mean."""

    mean: Mean
    relative: float
    tie: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**asdict(self.mean), "relative": self.relative, "tie": self.tie}


@dataclass(frozen=True)
class Comparison:
    """The answer: every deployment's outcomes; metrics: the first one decides which is best."""

    metrics: tuple[str, ...]
    played: list[Played]
    baseline: str
    confidence: float
    same_requests: bool

    def value(self, played: Played, metric: str) -> Mean | None:
        """The mean over the seeds; None where a seed has no value."""
        values = played.values(metric)
        return None if values is None else mean(values, self.confidence)

    def difference(self, played: Played, other: Played, metric: str) -> Difference | None:
        """`played` less `other`; None where one of them has no value."""
        own, theirs = played.values(metric), other.values(metric)
        if own is None or theirs is None:
            return None
        found = paired(own, theirs, self.confidence)
        centre = sum(theirs) / len(theirs)
        relative = found.value / centre if centre else 0.0
        return Difference(found, relative, found.holds_zero or abs(relative) < TIE)

    @property
    def best(self) -> Played | None:
        """The best in the first metric of those that keep the SLO under most seeds; of all if no one does."""
        good = [p for p in self.played if 2 * p.met > len(p.outcomes)] or self.played
        metric = self.metrics[0]
        sign = -1.0 if metric in LARGER_IS_BETTER else 1.0
        known = [(sign * m.value, place) for place, p in enumerate(good) if (m := self.value(p, metric)) is not None]
        return good[min(known)[1]] if known else None

    @property
    def ties(self) -> list[Played]:
        """Those that tie with the best in the first metric, and keep the SLO if it does."""
        best = self.best
        if best is None:
            return []
        keeps = 2 * best.met > len(best.outcomes)
        others = [p for p in self.played if p is not best and (not keeps or 2 * p.met > len(p.outcomes))]
        return [p for p in others if (d := self.difference(p, best, self.metrics[0])) is not None and d.tie]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; see `simserve.report.answers`."""
        base = next(p for p in self.played if p.name == self.baseline)
        return {
            "metrics": list(self.metrics), "baseline": self.baseline, "confidence": self.confidence,
            "same_requests": self.same_requests, "best": self.best.name if self.best else None,
            "ties": [p.name for p in self.ties],
            "deployments": [
                {"name": p.name, "deployment": p.deployment.model_dump(mode="json"), "num_gpus": p.deployment.num_gpus,
                 "met": p.met, "of": len(p.outcomes),
                 "values": {m: asdict(v) if (v := self.value(p, m)) else None for m in self.metrics},
                 "differences": {m: d.to_dict() if (d := self.difference(p, base, m)) else None for m in self.metrics}}
                for p in self.played
            ],
        }  # fmt: skip

    def rows(self, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Every run: one row per deployment and seed."""
        return [
            {"deployment": p.name, "seed": seed, "meets_slo": o.meets_slo, **{m: value(o, m) for m in self.metrics}}
            for p in self.played for seed, o in zip(seeds, p.outcomes, strict=True)
        ]  # fmt: skip


def compare(
    candidates: Sequence[Candidate], *, metrics: Sequence[str] = METRICS, baseline: str = "",
    confidence: float = DEFAULT_CONFIDENCE, jobs: int = 1,
) -> Comparison:  # fmt: skip
    """Play every candidate under every seed; baseline: the name that differences are from, the first if empty.

    Infeasible names the candidate that cannot exist.
    """
    from simserve.explore.provenance import columns_digest

    tasks = [(c.name, c.model, c.deployment, r.workload, c.slo) for c in candidates for r in c.repeats]
    outcomes = iter(mapped(_play, tasks, jobs))
    played = [Played(c.name, c.deployment, [next(outcomes) for _ in c.repeats]) for c in candidates]
    same = len({tuple(columns_digest(r.workload) for r in c.repeats) for c in candidates}) == 1
    return Comparison(tuple(metrics), played, baseline or played[0].name, confidence, same)


def _play(
    name: str, model: ModelSpec, deployment: DeploymentSpec, workload: RequestSet, slo: SloSpec | None
) -> Outcome:
    from simserve.errors import Infeasible
    from simserve.explore.evaluate import evaluate

    try:
        return evaluate(model, deployment, workload, slo)
    except Infeasible as error:
        raise Infeasible(f"{name}: {error}") from None
