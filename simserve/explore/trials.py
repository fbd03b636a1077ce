"""The trials of a search in an Optuna journal: which configuration is next, what came out, how to go on.

A trial that was accepted for simulation carries its slot (0, 1, 2, ...) and, when done, its outcome. Slots
are asked for in batches before any of the batch is simulated, and the sampler is seeded per slot,
so that the same seed gives the same trials with any number of workers, and a resumed search those of one
that was never interrupted. The first slots go to the most promising configurations of the screen; then the sampler
proposes. A proposal that is impossible, not promising or was simulated before is marked failed, and its slot goes to
the next of the screen's order: no configuration is simulated twice.
"""

from __future__ import annotations

import warnings
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simserve.explore import samplers
from simserve.explore.objective import Outcome, goal, outcome_from_dict
from simserve.explore.prune import GivenUp
from simserve.explore.space import SearchSpace
from simserve.spec.study import BATCH

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from simserve.explore.learned import Learned
    from simserve.spec.deployment import DeploymentSpec

_WHY = (("reason", "failed"), ("missed", ""))  # names of a trial's attributes without an outcome, and what if absent
_METRICS = {"gpus": "minus_gpus", "cost": "minus_usd_per_hour"}
_SCREENED_SHARE = 0.5  # of the trials that the screen chooses before TPE proposes
_PROPOSED_SHARE, _PROPOSED_AT_LEAST = 0.5, 256  # of the order: proposals behind that are not worth a simulation


@dataclass
class Trials:
    """The trials of one search.

    order: feasible deployments, the most promising first; budget: how many to simulate at most; sampler: as in
    `SearchSpec`; learned: makes the order anew when a batch is done; objective: what the sampler is told, as large as
    possible, beside TPOT; batch: as in `SearchSpec`; pruned: (deployment, why its simulation was given up). What came
    out stands in the order of slots, whoever ended first: equal runs are ranked by it.
    """

    study: Study
    space: SearchSpace
    order: Sequence[DeploymentSpec]
    budget: int
    seed: int
    sampler: str = "tpe"
    learned: Learned | None = None
    objective: str = "throughput"
    batch: int = BATCH
    pending: list[tuple[Trial, DeploymentSpec]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failed: list[tuple[DeploymentSpec, str]] = field(default_factory=list)
    pruned: list[tuple[DeploymentSpec, GivenUp]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return len(self.outcomes) + len(self.failed) + len(self.pruned)

    def __post_init__(self) -> None:
        self.budget = min(self.budget, len(set(self.order)))
        self._possible: set[DeploymentSpec] = set()
        self._waiting: Iterator[DeploymentSpec] = iter(())
        self._tried: dict[DeploymentSpec, int] = {}  # and their slots
        self._slots = 0
        self._screened = self.budget
        if len(self.order) > self.budget:
            self._screened = max(1, int(self.budget * _SCREENED_SHARE))
        from optuna.exceptions import ExperimentalWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study.set_metric_names([_METRICS.get(self.objective, "tokens_per_s_per_gpu"), "tpot_ms"])
        self._restore()
        self._reorder()
        if self.pending and len(self.pending) == self._slots % self.batch:  # killed while it asked for a batch
            self._fill(min(self.budget, (self._slots // self.batch + 1) * self.batch))

    def next_batch(self) -> list[tuple[Trial, DeploymentSpec]]:
        """The trials to simulate next, at most a batch; empty when the budget is used up."""
        if not self.pending:
            self._reorder()
            self._fill(min(self.budget, (self._slots // self.batch + 1) * self.batch))
        return self.pending

    def _fill(self, end: int) -> None:
        while self._slots < end:
            self.pending.append(self._accept())

    def finish(self, trial: Trial, deployment: DeploymentSpec, outcome: Outcome | str) -> None:
        """Record the outcome of a pending trial; a string says why it proved impossible, or was given up."""
        from optuna.trial import TrialState

        self.pending = [p for p in self.pending if p[0].number != trial.number]
        if isinstance(outcome, str):
            trial.set_user_attr("reason", outcome)
            if isinstance(outcome, GivenUp):
                trial.set_user_attr("missed", outcome.missed)
                trial.set_constraint("pruned", 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, state=TrialState.FAIL)
            self._note(deployment, outcome)
            return
        for name, value in outcome.constraints().items():
            trial.set_constraint(name, value)
        trial.set_user_attr("outcome", outcome.to_dict())
        self.study.tell(trial, [-goal(outcome, self.objective), outcome.tpot_order])
        self._add(outcome)

    def _reorder(self) -> None:
        """By all that earlier batches found, so that it does not matter who finished first within one."""
        if self.learned is not None:
            self.order = self.learned.order(self.outcomes, self.pruned)
        untried = [d for d in self.order if d not in self._tried]
        self._waiting = iter(untried)
        self._possible = set(untried[: max(_PROPOSED_AT_LEAST, int(len(untried) * _PROPOSED_SHARE))])

    def _accept(self) -> tuple[Trial, DeploymentSpec]:
        """Fill the next slot."""
        self.study.sampler = samplers.make(self.sampler, self.seed, self._slots, conditional=self.space.conditional)
        trial, deployment = None, None
        if self._slots >= self._screened:
            trial, deployment = self._propose()
        if trial is None or deployment is None:
            trial, deployment = self._enqueue(next(d for d in self._waiting if d not in self._tried))
        trial.set_user_attr("slot", self._slots)
        self._tried[deployment] = self._slots
        self._slots += 1
        return trial, deployment

    def _propose(self) -> tuple[Trial, DeploymentSpec] | tuple[None, None]:
        """The sampler's proposal for this slot, or nothing if that is impossible or known."""
        from optuna.trial import TrialState

        trial = self.study.ask()
        deployment = self.space.deployment(self._suggest(trial))
        if deployment in self._possible and deployment not in self._tried:
            return trial, deployment
        why = "simulated before" if deployment in self._tried else "not possible, or not promising"
        trial.set_user_attr("reason", why)
        self.study.tell(trial, state=TrialState.FAIL)
        return None, None

    def _enqueue(self, deployment: DeploymentSpec) -> tuple[Trial, DeploymentSpec]:
        self.study.enqueue_trial(self.space.combination(deployment))
        trial = self.study.ask()
        self._suggest(trial)
        return trial, deployment

    def _suggest(self, trial: Trial) -> dict[str, Any]:
        return self.space.suggest(lambda name, values: trial.suggest_categorical(name, list(values)))

    def _restore(self) -> None:
        """Take up what an earlier, interrupted search left in the journal."""
        from optuna.trial import Trial, TrialState

        for waiting in self.study.get_trials(states=(TrialState.WAITING,), deepcopy=False):
            del waiting
            self.study.tell(self.study.ask(), state=TrialState.FAIL)
        for frozen in self.study.get_trials(deepcopy=False):
            if "slot" not in frozen.user_attrs:
                if frozen.state == TrialState.RUNNING:
                    self.study.tell(frozen.number, state=TrialState.FAIL)
                continue
            self._slots += 1
            deployment = self.space.deployment(frozen.params)
            self._tried[deployment] = frozen.user_attrs["slot"]
            if frozen.state == TrialState.RUNNING:
                self.pending.append((Trial(self.study, frozen._trial_id), deployment))
            else:
                self._take(frozen, deployment)

    def _take(self, frozen: FrozenTrial, deployment: DeploymentSpec) -> None:
        if "outcome" in frozen.user_attrs:
            self._add(outcome_from_dict(frozen.user_attrs["outcome"]))
        else:
            why, missed = (str(frozen.user_attrs.get(name, default)) for name, default in _WHY)
            self._note(deployment, GivenUp(why, missed) if missed else why)

    def _add(self, outcome: Outcome) -> None:
        insort(self.outcomes, outcome, key=lambda found: self._tried[found.deployment])

    def _note(self, deployment: DeploymentSpec, reason: str) -> None:
        if isinstance(reason, GivenUp):
            insort(self.pruned, (deployment, reason), key=lambda found: self._tried[found[0]])
        else:
            insort(self.failed, (deployment, reason), key=lambda found: self._tried[found[0]])
