"""`simserve compare`: named deployments side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simserve.asked.flags import COMMAND_LINE, words
from simserve.asked.names import check_names, located
from simserve.cli import answers, complete
from simserve.cli import options as opt
from simserve.cli.study_file import study_file
from simserve.errors import SpecError, UnknownName
from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.explore.compare import Candidate
    from simserve.explore.runner import Inputs
    from simserve.spec.study import StudySpec


def compare(
    studies: Annotated[
        list[Path], typer.Argument(help="Study files, or one with `deployments`.", autocompletion=complete.studies)
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="What to compare, as in runs.csv or ttft_ms.p99; the first decides.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Differences are from this one (default: the first).")] = None,
    requests: Annotated[int | None, typer.Option(help="The first so many requests.", min=1)] = None,
    seed: opt.Seed = None,
    seeds: answers.Seeds = 5,
    confidence: answers.Confidence = 95.0,
    jobs: answers.Jobs = 1,
    json_out: opt.Json = None,
    out: opt.OutDir = None,
) -> None:
    """Play the deployments of some studies, or all named in one, with the same requests, and print the differences.

    Examples:
      # the `deployments` of a study that comes with simserve
      simserve compare compare
      # two studies, by two numbers
      simserve compare a.yaml b.yaml --metric ttft_ms.p99 --metric usd_per_hour --seeds 10
    """
    from simserve.explore.compare import METRICS
    from simserve.explore.compare import compare as play
    from simserve.explore.values import check_value
    from simserve.report.answers import answer
    from simserve.report.questions import print_comparison

    metrics = words(metric, "--metric") or list(METRICS)
    for name in metrics:
        check_value(name, "--metric")
    answers.check_answer_targets(out, json_out)
    read = [_read(path, seed, requests, seeds) for path in studies]
    candidates = [candidate for _, own in read for candidate in own]
    _check_candidates(candidates, baseline)
    with make_console(stderr=True).status("simulating"):
        found = play(candidates, metrics=metrics, baseline=baseline or "", confidence=confidence / 100,
                     jobs=answers.processes(jobs))  # fmt: skip
    console = make_console()
    if json_out != "-":
        print_comparison(console, found)
    inputs, first = read[0][0], candidates[0]
    numbers = [r.seed for r in first.repeats]
    record = answers.provenance_of(inputs, first.repeats)
    record["studies"] = [own.study.model_dump(mode="json") for own, _ in read]
    content = {"seeds": numbers, **found.to_dict()}
    answers.store_answer(
        console, answer("compare", inputs.study.name, inputs.model.name, record, content, found.rows(numbers)),
        out, json_out,
    )  # fmt: skip


def _read(path: Path, seed: int | None, requests: int | None, seeds: int) -> tuple[Inputs, list[Candidate]]:
    """The candidates of one study: all named ones, or its one deployment under the study's name."""
    from simserve.explore.compare import Candidate
    from simserve.explore.repeats import repeats
    from simserve.explore.runner import prepare
    from simserve.pooled import resolve_pools
    from simserve.spec.study import load_study

    found = study_file(path)
    assert found is not None
    study: StudySpec = load_study(found)
    if seed is not None:
        study = study.model_copy(update={"seed": seed})
    check_names(study, found)
    with located(found):
        named = {name: resolve_pools(d) for name, d in (study.deployments or {}).items()}
        inputs = prepare(study, base_dir=opt.base_dir(found), requests=requests)
        played = repeats(inputs.study, seeds, base_dir=opt.base_dir(found), requests=requests)
    named = named or {study.name: inputs.study.deployment}
    return inputs, [Candidate(name, inputs.model, d, study.slo, played) for name, d in named.items()]


def _check_candidates(candidates: list[Candidate], baseline: str | None) -> None:
    """SpecError unless there are two or more, all with names of their own, the baseline among them."""
    names = [c.name for c in candidates]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise SpecError("two deployments have this name; give the studies different ones", key="name", value=double)
    if len(names) < 2:
        raise SpecError("there is one deployment; name several studies, or add `deployments` to one", key="deployments")
    if baseline is not None and baseline not in names:
        raise UnknownName("deployment", baseline, names, file=COMMAND_LINE, key="--baseline")
