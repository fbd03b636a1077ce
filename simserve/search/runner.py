"""Run a search: feasible configurations, in the screen's order, simulated under Optuna, the best first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import Infeasible, SpecError
from simserve.search import executors, screen
from simserve.search import storage as storages
from simserve.search.evaluate import evaluate, reduce
from simserve.search.feasible import Feasible, Rejected, split
from simserve.search.load import Load, summarise
from simserve.search.objective import Interval, Outcome, ranked, recommend
from simserve.search.provenance import fingerprint, provenance
from simserve.search.result import SearchResult
from simserve.search.space import from_study
from simserve.search.trials import Trials

if TYPE_CHECKING:
    from simserve.run import RunResult
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec
    from simserve.spec.study import StudySpec
    from simserve.workload.requests import RequestSet

DEFAULT_TRIALS = 40
Progress = Callable[[int, int, Outcome | None], None]  # (done, of, the latest outcome)


@dataclass(frozen=True)
class Inputs:
    """A study with its model and requests in hand."""

    study: StudySpec
    model: ModelSpec
    workload: RequestSet
    load: Load


def prepare(study: StudySpec, *, base_dir: Path | None, requests: int | None = None) -> Inputs:
    """Load the model and build the workload of a study; `requests` keeps only the first so many.

    base_dir: folder that relative paths in the study refer to. Raises SpecError, UnknownName, MissingData.
    """
    from simserve.build import resolve_pools
    from simserve.spec.model import load_model
    from simserve.workload.build import build_workload

    study = study.model_copy(update={"deployment": resolve_pools(study.deployment)})
    model = load_model(study.model)
    workload = build_workload(study.workload, seed=study.seed, base_dir=base_dir)
    if requests is not None and requests < len(workload):
        workload = workload.head(requests)
    load = summarise(workload)
    if load.shortest_tokens > model.max_position_embeddings:
        raise SpecError(
            f"every request is longer than the context of {model.name} "
            f"({model.max_position_embeddings} tokens); the shortest has {load.shortest_tokens}",
            key="workload",
        )
    return Inputs(study, model, workload, load)


def play(inputs: Inputs) -> RunResult:
    """The run of the study's one deployment, with its trace; Infeasible if it cannot exist."""
    from simserve.run import simulate

    study = inputs.study
    split(inputs.model, [study.deployment], longest_tokens=inputs.load.shortest_tokens)
    return simulate(inputs.model, study.deployment, inputs.workload, slo=study.slo)


def replay(inputs: Inputs, outcome: Outcome) -> RunResult:
    """The run behind an outcome once more, with its trace: the same requests give the same run."""
    from simserve.run import simulate

    return simulate(inputs.model, outcome.deployment, inputs.workload, slo=inputs.study.slo)


def with_interval(inputs: Inputs, run: RunResult, deployment: DeploymentSpec | None = None) -> Interval:
    """The 90 % prediction interval of a run of the study's deployment, or of another; see `search.interval`."""
    from simserve.run import simulate
    from simserve.search.interval import interval

    study = inputs.study
    asked = deployment or study.deployment

    def again(factor: float) -> RunResult:
        return simulate(inputs.model, asked, inputs.workload, slo=study.slo, cost_factor=factor)

    return interval(run, again, study.slo)


def simulated(inputs: Inputs, run: RunResult, interval: Interval | None = None) -> SearchResult:
    """The result of a study whose one deployment was played."""
    study = inputs.study
    outcome = replace(reduce(run, inputs.model, study.deployment, study.slo), interval=interval)
    record = provenance(study, inputs.model, inputs.workload)
    return SearchResult("simulate", study.name, [outcome], provenance=record)


def run_search(
    inputs: Inputs,
    *,
    out_dir: Path | None = None,
    jobs: int = 1,
    resume: bool = False,
    progress: Progress | None = None,
    ray: str | None = None,
    storage: str | None = None,
) -> SearchResult:
    """Search the study's space; the result is the same for any `jobs`, on a cluster, and for a resumed search.

    out_dir: where the journal lies that `resume` takes up; None keeps the trials in memory. storage: another place
    for them, `journal:PATH` or `postgresql://...`. ray: the address of a Ray cluster (`executors.make`). Raises
    Infeasible when no configuration is possible. A result in which nothing meets the SLO is still a result.
    """
    study = inputs.study
    space = from_study(study)
    possible = split(inputs.model, space.deployments(), longest_tokens=inputs.load.longest_tokens)
    estimate = screen.estimate(inputs.model, possible.deployments, possible.num_gpu_blocks, inputs.load)
    objective = study.search.objective if study.search is not None else "throughput"
    order = [possible.deployments[i] for i in screen.order(estimate, possible.deployments, study.slo, objective)]
    record = provenance(study, inputs.model, inputs.workload)
    place = storages.place(storage, out_dir)
    budget = study.search.trials if study.search is not None else DEFAULT_TRIALS
    with storages.opened(place, fingerprint(record), resume=resume, name=study.name) as optuna_study:
        trials = Trials(optuna_study, space, order, budget, study.seed)
        with executors.make(_play, (inputs.model, inputs.workload, study.slo), jobs=jobs, ray=ray) as executor:
            kept = storages.kind(place)
            record["execution"] = {"executor": executor.name, "workers": executor.workers, "storage": kept}
            _simulate_all(trials, inputs, executor, progress)
    return _result(inputs, possible, trials, record)


def _simulate_all(trials: Trials, inputs: Inputs, executor: executors.Executor, progress: Progress | None) -> None:
    limit_s = inputs.study.search.timeout_s if inputs.study.search is not None else None
    start = time.monotonic()
    report = progress or (lambda done, total, outcome: None)
    report(len(trials.outcomes), trials.budget, None)
    while batch := list(trials.next_batch()):
        for index, outcome in executor.run([deployment for _, deployment in batch]):
            trials.finish(*batch[index], outcome)
            done = len(trials.outcomes) + len(trials.failed)
            report(done, trials.budget, outcome if isinstance(outcome, Outcome) else None)
        if limit_s is not None and time.monotonic() - start > limit_s:
            break


def _result(inputs: Inputs, possible: Feasible, trials: Trials, record: dict[str, Any]) -> SearchResult:
    failed = [Rejected(deployment, reason) for deployment, reason in trials.failed]
    if not trials.outcomes:
        raise Infeasible(failed[0].reason if failed else "the time limit ended before any simulation")
    objective = inputs.study.search.objective if inputs.study.search is not None else "throughput"
    return SearchResult(
        kind="search",
        name=inputs.study.name,
        runs=_interval_of_the_best(inputs, ranked(trials.outcomes, objective), objective),
        rejected=[*possible.rejected, *failed],
        configurations=len(possible.deployments) - len(failed),
        provenance=record,
        objective=objective,
    )


def _interval_of_the_best(inputs: Inputs, runs: list[Outcome], objective: str) -> list[Outcome]:
    """The runs, the recommended one with its interval: played again, faster and slower."""
    from simserve.run import simulate

    best, _ = recommend(runs, objective)
    if best is None:
        return runs
    run = simulate(inputs.model, best.deployment, inputs.workload, slo=inputs.study.slo)
    known = replace(best, interval=with_interval(inputs, run, best.deployment))
    return [known if outcome is best else outcome for outcome in runs]


def _play(inputs: tuple[ModelSpec, RequestSet, SloSpec | None], deployment: DeploymentSpec) -> Outcome | str:
    """The outcome of a deployment, or why it proved impossible; what the workers of a search run."""
    model, workload, slo = inputs
    try:
        return evaluate(model, deployment, workload, slo)
    except Infeasible as error:
        return str(error)
