"""What a prediction depends on: every number moved down and up alone, with the same requests (a tornado)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from simserve.explore.factors import End, Factor, factors_of, reshaped
from simserve.explore.intervals import DEFAULT_CONFIDENCE, Mean, mean, paired
from simserve.explore.objective import Outcome
from simserve.explore.repeats import Repeat, mapped
from simserve.explore.values import value

if TYPE_CHECKING:
    from simserve.run import RunResult
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec
    from simserve.workload.requests import RequestSet

METRICS = ("tokens_per_s_per_gpu", "ttft_ms", "tpot_ms")
Values = dict[str, list[float] | None]  # metric -> value under each seed, None where one has none


@dataclass(frozen=True)
class Moved:
    """One end of a factor: the differences from the base, by metric; None where there is no value."""

    end: End
    differences: dict[str, Mean | None]


@dataclass(frozen=True)
class Bar:
    """A factor and what its ends change; note: why an end is missing."""

    factor: Factor
    ends: list[Moved]
    note: str = ""

    def swing(self, metric: str) -> float:
        """From the lowest to the highest value over base and ends."""
        found = [0.0, *(d.value for moved in self.ends if (d := moved.differences[metric]) is not None)]
        return max(found) - min(found)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        f = self.factor
        ends = [{"change": m.end.change, "what": m.end.what,
                 "differences": {k: None if d is None else asdict(d) for k, d in m.differences.items()}}
                for m in self.ends]  # fmt: skip
        return {"name": f.name, "group": f.group, "basis": f.basis, "note": self.note, "ends": ends}


@dataclass(frozen=True)
class Sensitivity:
    """The answer; base: the metrics as predicted."""

    metrics: tuple[str, ...]
    base: dict[str, Mean | None]
    bars: list[Bar]
    confidence: float

    def order(self, metric: str) -> list[Bar]:
        """The widest swing first; of equal ones by name."""
        return sorted(self.bars, key=lambda bar: (-bar.swing(metric), bar.factor.name))

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; see `simserve.report.answers`."""
        return {
            "metrics": list(self.metrics), "confidence": self.confidence,
            "base": {k: None if m is None else asdict(m) for k, m in self.base.items()},
            "factors": [bar.to_dict() for bar in self.bars],
            "order": {metric: [bar.factor.name for bar in self.order(metric)] for metric in self.metrics},
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per metric, factor and end, the widest swing first."""
        return [
            {"metric": metric, "factor": bar.factor.name, "group": bar.factor.group, "basis": bar.factor.basis,
             "change": m.end.change, "what": m.end.what, "base": base.value if (base := self.base[metric]) else None,
             "difference": d.value if (d := m.differences[metric]) else None,
             "low": d.low if d else None, "high": d.high if d else None}
            for metric in self.metrics for bar in self.order(metric) for m in bar.ends
        ]  # fmt: skip


def sensitivity(
    model: ModelSpec, deployment: DeploymentSpec, slo: SloSpec | None, repeats: Sequence[Repeat], *,
    metrics: Sequence[str] = METRICS, change: float | None = None, confidence: float = DEFAULT_CONFIDENCE,
    jobs: int = 1,
) -> Sensitivity:  # fmt: skip
    """Move every number of `factors.factors_of` alone, under every seed; change: by so much, relative."""
    from simserve.run import simulate

    first = repeats[0].workload
    run: RunResult = simulate(model, deployment, first, slo=slo)
    factors = factors_of(run, deployment, first, change)
    ends = [End(0.0, "", deployment), *(end for factor in factors for end in factor.ends)]
    tasks = [(model, end, repeat.workload, slo) for end in ends for repeat in repeats]
    played = mapped(_play, tasks, jobs)
    each = [played[i : i + len(repeats)] for i in range(0, len(played), len(repeats))]
    return tornado(factors, each[0], each[1:], metrics, confidence)


def tornado(
    factors: Sequence[Factor], base: Sequence[Outcome | str], ends: Sequence[Sequence[Outcome | str]],
    metrics: Sequence[str], confidence: float = DEFAULT_CONFIDENCE,
) -> Sensitivity:  # fmt: skip
    """Outcomes, or why there is none, put together: base by seed, ends of all factors in order, each by seed."""
    from simserve.errors import Infeasible

    problem = next((o for o in base if isinstance(o, str)), None)
    if problem is not None:
        raise Infeasible(problem)
    own, rest, bars = _values(base, metrics), list(ends), []
    for factor in factors:
        played, rest = rest[: len(factor.ends)], rest[len(factor.ends) :]
        notes = {o for outcomes in played for o in outcomes if isinstance(o, str)}
        moved = [
            Moved(end, {m: _difference(found[m], own[m], confidence) for m in metrics})
            for end, outcomes in zip(factor.ends, played, strict=True)
            if not any(isinstance(o, str) for o in outcomes) for found in [_values(outcomes, metrics)]
        ]  # fmt: skip
        bars.append(Bar(factor, moved, "; ".join(sorted(notes))))
    means = {m: None if (values := own[m]) is None else mean(values, confidence) for m in metrics}
    return Sensitivity(tuple(metrics), means, bars, confidence)


def _values(outcomes: Sequence[Outcome | str], metrics: Sequence[str]) -> Values:
    found: Values = {}
    for metric in metrics:
        values = [value(o, metric) for o in outcomes if isinstance(o, Outcome)]
        known = [v for v in values if v is not None]
        found[metric] = known if len(known) == len(values) else None
    return found


def _difference(own: list[float] | None, base: list[float] | None, confidence: float) -> Mean | None:
    return None if own is None or base is None else paired(own, base, confidence)


def _play(model: ModelSpec, end: End, workload: RequestSet, slo: SloSpec | None) -> Outcome | str:
    """The outcome at one end; a string says why there is none."""
    from simserve.errors import Infeasible
    from simserve.explore.evaluate import reduce
    from simserve.explore.feasible import check
    from simserve.run import simulate

    changed = workload if end.reshape is None else reshaped(workload, *end.reshape)
    if changed is None:
        return "the arrivals do not vary, or not so much can be had"
    try:
        check(model, end.deployment)
        run = simulate(model, end.deployment, changed, slo=slo, factors=end.factors)
    except Infeasible as error:
        return str(error)
    return reduce(run, model, end.deployment, slo)
