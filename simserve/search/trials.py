"""The trials of a search in an Optuna journal: which configuration is next, what came out, how to go on.

A trial that was accepted for simulation carries its slot (0, 1, 2, ...) and, when done, its outcome. Slots
are asked for in batches of BATCH before any of the batch is simulated, and the sampler is seeded per slot,
so that the same seed gives the same trials with any number of workers, and a resumed search those of one
that was never interrupted. The first slots go to the most promising configurations of the screen; then TPE
proposes. A proposal that is impossible or was simulated before is marked failed, and its slot goes to the
next of the screen's order: no configuration is simulated twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simserve.search.objective import Outcome, outcome_from_dict
from simserve.search.space import SearchSpace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

    from simserve.spec.deployment import DeploymentSpec

BATCH = 8
_SCREENED_SHARE = 0.5  # of the trials that the screen chooses before TPE proposes


@dataclass
class Trials:
    """The trials of one search.

    order: feasible deployments, the most promising first; budget: how many to simulate at most.
    """

    study: Study
    space: SearchSpace
    order: Sequence[DeploymentSpec]
    budget: int
    seed: int
    pending: list[tuple[Trial, DeploymentSpec]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    failed: list[tuple[DeploymentSpec, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.budget = min(self.budget, len(self.order))
        self._possible = set(self.order)
        self._tried: set[DeploymentSpec] = set()
        self._slots = 0
        self._screened = self.budget
        if len(self.order) > self.budget:
            self._screened = max(1, int(self.budget * _SCREENED_SHARE))
        self._restore()

    def next_batch(self) -> list[tuple[Trial, DeploymentSpec]]:
        """The trials to simulate next, at most BATCH; empty when the budget is used up."""
        if not self.pending:
            end = min(self.budget, (self._slots // BATCH + 1) * BATCH)
            while self._slots < end:
                self.pending.append(self._accept())
        return self.pending

    def finish(self, trial: Trial, deployment: DeploymentSpec, outcome: Outcome | str) -> None:
        """Record the outcome of a pending trial; a string says why the deployment proved impossible."""
        from optuna.trial import TrialState

        self.pending = [p for p in self.pending if p[0].number != trial.number]
        if isinstance(outcome, str):
            trial.set_user_attr("reason", outcome)
            self.study.tell(trial, state=TrialState.FAIL)
            self.failed.append((deployment, outcome))
            return
        for name, value in outcome.constraints().items():
            trial.set_constraint(name, value)
        trial.set_user_attr("outcome", outcome.to_dict())
        self.study.tell(trial, [outcome.tokens_per_s_per_gpu, outcome.tpot_order])
        self.outcomes.append(outcome)

    def _accept(self) -> tuple[Trial, DeploymentSpec]:
        """Fill the next slot."""
        trial, deployment = None, None
        if self._slots >= self._screened:
            trial, deployment = self._propose()
        if trial is None or deployment is None:
            trial, deployment = self._enqueue(next(d for d in self.order if d not in self._tried))
        trial.set_user_attr("slot", self._slots)
        self._slots += 1
        self._tried.add(deployment)
        return trial, deployment

    def _propose(self) -> tuple[Trial, DeploymentSpec] | tuple[None, None]:
        """TPE's proposal for this slot, or nothing if that is impossible or known."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        self.study.sampler = TPESampler(seed=_mix(self.seed, self._slots), multivariate=True)
        trial = self.study.ask()
        deployment = self.space.deployment(self._suggest(trial))
        if deployment in self._possible and deployment not in self._tried:
            return trial, deployment
        why = "simulated before" if deployment in self._tried else "not possible"
        trial.set_user_attr("reason", why)
        self.study.tell(trial, state=TrialState.FAIL)
        return None, None

    def _enqueue(self, deployment: DeploymentSpec) -> tuple[Trial, DeploymentSpec]:
        self.study.enqueue_trial(self.space.combination(deployment))
        trial = self.study.ask()
        self._suggest(trial)
        return trial, deployment

    def _suggest(self, trial: Trial) -> dict[str, Any]:
        return {knob: trial.suggest_categorical(knob, list(values)) for knob, values in self.space.choices.items()}

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
            self._tried.add(deployment)
            if frozen.state == TrialState.RUNNING:
                self.pending.append((Trial(self.study, frozen._trial_id), deployment))
            else:
                self._take(frozen, deployment)

    def _take(self, frozen: FrozenTrial, deployment: DeploymentSpec) -> None:
        if "outcome" in frozen.user_attrs:
            self.outcomes.append(outcome_from_dict(frozen.user_attrs["outcome"]))
        else:
            self.failed.append((deployment, str(frozen.user_attrs.get("reason", "failed"))))


def _mix(seed: int, slot: int) -> int:
    digest = hashlib.sha256(f"tpe:{seed}:{slot}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
