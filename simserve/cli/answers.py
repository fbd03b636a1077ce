"""What the commands that answer questions share: their options, where results go, and the provenance of repeats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.explore.repeats import Repeat
    from simserve.explore.runner import Inputs
    from simserve.report.answers import Answer

_RUN = "Runs"
Seeds = Annotated[int, typer.Option(help="Repeats, each with a seed of its own.", min=1, rich_help_panel=_RUN)]
Confidence = Annotated[
    float, typer.Option(help="Of the intervals, in percent.", min=50, max=99.9, rich_help_panel=_RUN)
]
Jobs = Annotated[int, typer.Option(help="Processes; 0 for one per CPU.", min=0, rich_help_panel=_RUN)]
COMMAND_LINE = "command line"


def check_answer_targets(out: Path | None, json_out: str | None) -> None:
    """Before any work: SpecError if results cannot be written there."""
    from simserve.report.save import check_targets

    check_targets(out, json_out)


def store_answer(console: Console, found: Answer, out: Path | None, json_out: str | None) -> None:
    """Save to the folder, and the JSON document to where it was asked for."""
    from simserve.report.answers import save_answer
    from simserve.report.save import to_json, write_atomic

    if out is not None:
        names = ", ".join(path.name for path in save_answer(found, out))
        if json_out != "-":
            console.print(f"\nsaved in {out}: {names}", soft_wrap=True, highlight=False, markup=False)
    if json_out == "-":
        typer.echo(to_json(found.content), nl=False)
    elif json_out is not None:
        write_atomic(Path(json_out), to_json(found.content))


def provenance_of(inputs: Inputs, repeats: Sequence[Repeat]) -> dict[str, Any]:
    """Versions, study, model, and the requests of every seed."""
    from simserve.explore.provenance import columns_digest, provenance

    record = provenance(inputs.study, inputs.model, repeats[0].workload)
    return {**record, "workloads_sha256": {str(r.seed): columns_digest(r.workload) for r in repeats}}


def share(percent: float, option: str, most: float = 100.0) -> float:
    """A percentage above 0 and below `most` as a fraction; SpecError names the option."""
    if not 0 < percent < most:
        raise SpecError(f"must be above 0 and below {most:g} percent", file=COMMAND_LINE, key=option, value=percent)
    return percent / 100


def processes(jobs: int) -> int:
    """0 is one per CPU."""
    from simserve.explore.executors import cpus

    return jobs or cpus()
