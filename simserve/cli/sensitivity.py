"""`simserve sensitivity`: what a prediction depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simserve.asked.flags import words
from simserve.asked.names import check_names, located
from simserve.cli import answers, complete
from simserve.cli import options as opt
from simserve.cli.study_file import study_file
from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.explore.sensitivity import Sensitivity


def sensitivity(
    study: Annotated[
        Path,
        typer.Argument(help="Study YAML, or the name of one that comes with simserve.",
                       autocompletion=complete.studies),
    ],
    metric: Annotated[
        list[str] | None, typer.Option(help="Whose tornado; repeatable (default: tokens/s/GPU, TTFT, TPOT).")
    ] = None,
    change: Annotated[
        float | None,
        typer.Option(help="Move every number by so many percent (default: its own stated error, else 10)."),
    ] = None,
    requests: Annotated[int | None, typer.Option(help="The first so many requests.", min=1)] = None,
    seed: opt.Seed = None,
    seeds: answers.Seeds = 3,
    confidence: answers.Confidence = 95.0,
    jobs: answers.Jobs = 1,
    json_out: opt.Json = None,
    out: opt.OutDir = None,
) -> None:
    """Move every number of hardware, workload and deployment down and up, and show what it changes: a tornado.

    Examples:
      # every number by its own error
      simserve sensitivity quickstart
      # by 20 percent each, saved
      simserve sensitivity distserve --metric ttft_ms.p99 --change 20 -o results
    """
    from simserve.explore.repeats import repeats
    from simserve.explore.runner import prepare
    from simserve.explore.sensitivity import METRICS
    from simserve.explore.sensitivity import sensitivity as find
    from simserve.explore.values import check_value
    from simserve.report.answers import answer
    from simserve.report.tornado import tornado_html
    from simserve.spec.study import load_study

    metrics = words(metric, "--metric") or list(METRICS)
    for name in metrics:
        check_value(name, "--metric")
    by = None if change is None else answers.share(change, "--change")
    answers.check_answer_targets(out, json_out)
    path = study_file(study)
    assert path is not None
    asked = load_study(path)
    asked = asked if seed is None else asked.model_copy(update={"seed": seed})
    check_names(asked, path)
    with located(path):
        inputs = prepare(asked, base_dir=opt.base_dir(path), requests=requests)
        played = repeats(inputs.study, seeds, base_dir=opt.base_dir(path), requests=requests)
        with make_console(stderr=True).status("simulating"):
            found = find(inputs.model, inputs.study.deployment, inputs.study.slo, played, metrics=metrics, change=by,
                         confidence=confidence / 100, jobs=answers.processes(jobs))  # fmt: skip
    console = make_console()
    name = inputs.study.name
    if json_out != "-":
        _print(console, name, found)
    html = tornado_html(name, found) if out is not None else None
    content = {"deployment": inputs.study.deployment.model_dump(mode="json"), "seeds": [r.seed for r in played],
               **found.to_dict()}  # fmt: skip
    record = answers.provenance_of(inputs, played)
    files = {} if html is None else {"tornado.html": html}
    done = answer("sensitivity", name, inputs.model.name, record, content, found.rows(), files)
    answers.store_answer(console, done, out, json_out)


def _print(console: Console, name: str, found: Sensitivity) -> None:
    from rich.markup import escape

    from simserve.report.tornado import tornado_lines

    console.print(f"[bold]{escape(name)}[/]")
    for metric in found.metrics:
        for line in tornado_lines(found, metric):
            console.print(escape(line), highlight=False, soft_wrap=True)
    for bar in found.bars:
        if bar.note:
            console.print(f"[dim]{escape(bar.factor.name)}: {escape(bar.note)}[/]", highlight=False)
