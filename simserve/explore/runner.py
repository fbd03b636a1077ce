"""Run a search: feasible configurations, in the screen's order, simulated under Optuna, the best first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import Infeasible, SpecError
from simserve.explore import executors, replicate, samplers
from simserve.explore import storage as storages
from simserve.explore.candidates import KEPT, Candidates, candidates
from simserve.explore.evaluate import evaluate, reduce
from simserve.explore.feasible import Rejected, split
from simserve.explore.learned import Learned
from simserve.explore.load import Load, summarise
from simserve.explore.objective import Interval, Outcome, ranked
from simserve.explore.provenance import fingerprint, provenance
from simserve.explore.prune import Pruned
from simserve.explore.result import SearchResult
from simserve.explore.space import from_study
from simserve.explore.trials import Trials
from simserve.spec.study import BATCH

if TYPE_CHECKING:
    from simserve.explore.repeats import Repeat
    from simserve.run import RunResult
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.study import StudySpec
    from simserve.workload.requests import RequestSet

DEFAULT_TRIALS = 40
_SHOWN_MISSES = 3
Progress = Callable[[int, int, Outcome | None], None]  # (done, of, the latest outcome)


@dataclass(frozen=True)
class Inputs:
    """A study with its model and requests in hand."""

    study: StudySpec
    model: ModelSpec
    workload: RequestSet
    load: Load
    base_dir: Path | None = None


def prepare(study: StudySpec, *, base_dir: Path | None, requests: int | None = None) -> Inputs:
    """Load the model and build the workload of a study; `requests` keeps only the first so many.

    base_dir: folder that relative paths in the study refer to. Raises SpecError, UnknownName, MissingData.
    """
    from simserve.diffusion import check_kind
    from simserve.pooled import resolve_pools
    from simserve.spec.model import load_model
    from simserve.workload.build import study_requests

    study = study.model_copy(update={"deployment": resolve_pools(study.deployment)})
    model = load_model(study.model)
    workload = study_requests(study, seed=study.seed, base_dir=base_dir)
    if requests is not None and requests < len(workload):
        workload = workload.head(requests)
    check_kind(model, workload.confidence is not None)
    load = summarise(workload)
    if load.shortest_tokens > model.max_position_embeddings:
        raise SpecError(
            f"every request is longer than the context of {model.name} "
            f"({model.max_position_embeddings} tokens); the shortest has {load.shortest_tokens}",
            key="workload",
        )
    return Inputs(study, model, workload, load, base_dir)


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
    """The 90 % prediction interval of a run of the study's deployment, or of another; see `explore.interval`."""
    from simserve.explore.interval import interval
    from simserve.run import simulate

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
    executor: executors.Executor | None = None,
    interval: bool = True,
) -> SearchResult:
    """Search the study's space; the result is the same for any `jobs`, on a cluster, and for a resumed search.

    out_dir: where the journal lies that `resume` takes up; None keeps the trials in memory. storage: another place
    for them, `journal:PATH` or `postgresql://...`. ray: the address of a Ray cluster (`executors.make`). executor: one
    of `executor_for` that is open, instead of `jobs` and `ray`. interval: play the recommended run for its prediction
    interval. Raises Infeasible when no configuration is possible. A result in which nothing meets the SLO is still a
    result.
    """
    samplers.check(_sampler(inputs.study))
    further = replicate.further(inputs.study, inputs.base_dir, len(inputs.workload))
    with executor_for(inputs, jobs, ray) if executor is None else nullcontext(executor) as players:
        place = storages.place(storage, out_dir)
        result = _searched(inputs, players, place, storage is not None, resume, progress)
        result = _replicated(result, inputs, further, jobs, ray) if further else result
        return _with_interval(result, inputs, players) if interval else result


def executor_for(inputs: Inputs, jobs: int, ray: str | None) -> executors.Executor:
    """What plays the trials of a search, a context manager; its tasks' functions are called with `inputs`."""
    return executors.make(_play, inputs, jobs=jobs, ray=ray)


def _sampler(study: StudySpec) -> str:
    return study.search.sampler if study.search is not None else "tpe"


def _searched(
    inputs: Inputs, executor: executors.Executor, place: storages.Place, named: bool, resume: bool,
    progress: Progress | None,
) -> SearchResult:  # fmt: skip
    """The trials played and ranked. named: the place was asked for by name, so only a journal of this study is moved.
    """
    study, asked = inputs.study, inputs.study.search
    objective, budget = (asked.objective, asked.trials) if asked is not None else ("throughput", DEFAULT_TRIALS)
    space = from_study(study)
    possible = candidates(
        space, inputs.model, inputs.load, study.slo, objective=objective, most=max(KEPT, budget)
    )  # fmt: skip
    record = provenance(study, inputs.model, inputs.workload)
    learned = Learned(possible.deployments, possible.screen, possible.layouts, study.slo, objective)
    with storages.opened(
        place, fingerprint(record), resume=resume, name=study.name, keep=named
    ) as optuna_study:  # fmt: skip
        trials = Trials(
            optuna_study, space.among(possible.deployments), possible.deployments, budget, study.seed, _sampler(study),
            learned, objective, asked.batch if asked is not None else BATCH,
        )  # fmt: skip
        kept = storages.kind(place)
        record["execution"] = {"executor": executor.name, "workers": executor.workers, "storage": kept}
        if not _simulate_all(trials, inputs, executor, progress):
            assert asked is not None
            record["execution"]["stopped"] = f"after the time limit of {asked.timeout_s:g} s"
    return _result(inputs, possible, trials, record, objective)


def _simulate_all(trials: Trials, inputs: Inputs, executor: executors.Executor, progress: Progress | None) -> bool:
    """Play trials until the budget or the time is used up; False if it was the time."""
    limit_s = inputs.study.search.timeout_s if inputs.study.search is not None else None
    start = time.monotonic()
    report = progress or (lambda done, total, outcome: None)
    report(len(trials.outcomes), trials.budget, None)
    while batch := list(trials.next_batch()):
        for index, outcome in executor.run([deployment for _, deployment in batch]):
            trials.finish(*batch[index], outcome)
            report(trials.done, trials.budget, outcome if isinstance(outcome, Outcome) else None)
        if limit_s is not None and time.monotonic() - start > limit_s and trials.done < trials.budget:
            return False
    return True


def _result(
    inputs: Inputs, possible: Candidates, trials: Trials, record: dict[str, Any], objective: str
) -> SearchResult:
    failed = [Rejected(deployment, reason) for deployment, reason in trials.failed]
    pruned = [Rejected(deployment, reason) for deployment, reason in trials.pruned]
    runs = trials.outcomes or _nearest(inputs, pruned)
    if not runs:
        raise Infeasible(failed[0].reason if failed else "the time limit ended before any simulation")
    return SearchResult(
        kind="search",
        name=inputs.study.name,
        runs=ranked(runs, objective),
        rejected=[*possible.rejected, *failed],
        configurations=possible.configurations - len(failed),
        provenance=record,
        objective=objective,
        pruned=[p for p in pruned if all(p.deployment != run.deployment for run in runs)],
    )


def _replicated(
    result: SearchResult, inputs: Inputs, further: Sequence[Repeat], jobs: int, ray: str | None
) -> SearchResult:
    """The runs that rank first on further workload seeds, until the one that ranks first by what those say is one."""
    asked = inputs.study.search
    assert asked is not None
    study = inputs.study.model_copy(update={"search": asked.model_copy(update={"prune": False})})
    inputs = replace(inputs, study=study)
    tried: set[DeploymentSpec] = set()
    while result.runs[0].deployment not in tried:
        few = [run for run in result.runs if run.deployment not in tried][: replicate.REPLICATED]
        tried |= {run.deployment for run in few}
        again = {own.deployment: own for own in _repeated(few, inputs, further, jobs, ray)}
        runs = [again.get(run.deployment, run) for run in result.runs]
        result = replace(result, runs=ranked(runs, result.objective))
    return result


def _repeated(
    few: Sequence[Outcome], inputs: Inputs, further: Sequence[Repeat], jobs: int, ray: str | None
) -> list[Outcome]:
    """Some runs with what they find on further seeds."""
    found: list[list[Outcome]] = [[run] for run in few]
    for repeat in further:
        with executor_for(replace(inputs, workload=repeat.workload), jobs, ray) as executor:
            for index, outcome in executor.run([run.deployment for run in few]):
                if isinstance(outcome, Outcome):
                    found[index].append(outcome)
    whole = (inputs.study.seed, *(repeat.seed for repeat in further))
    return [_with_replications(own, whole) for own in found]


def _with_replications(samples: list[Outcome], seeds: tuple[int, ...]) -> Outcome:
    """The study's own run with what it and the further ones found; as it was if one of them failed."""
    if len(samples) < len(seeds):
        return samples[0]
    numbers = ((o.tokens_per_s_per_gpu, o.worst_excess) for o in samples)
    per_gpu, excess = zip(*numbers, strict=True)
    return replace(samples[0], replications=replicate.Replications(seeds, per_gpu, excess))


def _nearest(inputs: Inputs, pruned: Sequence[Rejected]) -> list[Outcome]:
    """Where everything was given up, the most promising few played to their end: what the SLO would have to be."""
    return [evaluate(inputs.model, p.deployment, inputs.workload, inputs.study.slo) for p in pruned[:_SHOWN_MISSES]]


def _with_interval(result: SearchResult, inputs: Inputs, executor: executors.Executor) -> SearchResult:
    """The result, its recommended run with an interval: played again, faster and slower."""
    best = result.recommended
    if best is None:
        return result
    found = dict(executor.run([best.deployment], _interval_of))[0]
    return result.with_interval(found) if isinstance(found, Interval) else result


def _interval_of(inputs: Inputs, deployment: DeploymentSpec) -> Interval:
    """The prediction interval of a deployment; what the workers of a search run at its end."""
    from simserve.run import simulate

    run = simulate(inputs.model, deployment, inputs.workload, slo=inputs.study.slo)
    return with_interval(inputs, run, deployment)


def _play(inputs: Inputs, deployment: DeploymentSpec) -> Outcome | str:
    """The outcome of a deployment, or why it proved impossible or was given up; what the workers of a search run."""
    study = inputs.study
    prune = study.search is not None and study.search.prune
    try:
        return evaluate(inputs.model, deployment, inputs.workload, study.slo, prune=prune)
    except Pruned as error:
        return error.reason
    except Infeasible as error:
        return str(error)
