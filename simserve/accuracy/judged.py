"""Measured records of requests and stages beside what was predicted for them, and their scores by regime."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from simserve.accuracy.judge import Score, score

Regime = tuple[str, str]
ALL: Regime = ("all", "")


@dataclass(frozen=True, slots=True)
class Judged:
    """One measured record and its prediction, by metric in ms; problem: why there is none.

    regimes: the groups that it is scored in, none for a summary of other records; scenario: records that may be ranked
    against each other; listed: shown with measured and predicted value, not only in scores; half_width: of the 90 %
    interval of step times.
    """

    id: str
    measured: Mapping[str, float]
    predicted: Mapping[str, float] = field(default_factory=dict)
    regimes: tuple[Regime, ...] = (ALL,)
    scenario: Hashable = None
    listed: bool = True
    half_width: float | None = None
    problem: str = ""

    def errors(self) -> dict[str, float]:
        """Relative error of each metric that was measured, not as 0, and predicted."""
        both = {m: v for m, v in self.measured.items() if v and m in self.predicted}
        return {metric: self.predicted[metric] / value - 1 for metric, value in both.items()}


def by_regime(records: Sequence[Judged]) -> list[tuple[str, str, Score]]:
    """(regime, value, score) per metric: over all, then in the order in which regimes and metrics occur."""
    groups: dict[Regime, dict[str, list[tuple[Hashable, float, float]]]] = {}
    for record in records:
        for regime in record.regimes:
            for metric in record.errors():
                row = (record.scenario, record.predicted[metric], record.measured[metric])
                groups.setdefault(regime, {}).setdefault(metric, []).append(row)
    order = list(dict.fromkeys([ALL[0], *(name for name, _ in groups)]))
    ordered = sorted(groups, key=lambda regime: order.index(regime[0]))
    return [(*regime, score(metric, rows)) for regime in ordered for metric, rows in groups[regime].items()]
