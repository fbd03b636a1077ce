"""`simserve perfdb collect`: measure kernels on this machine into a folder of tables."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simserve.errors import SpecError
from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.perf.collect.machine import Machine
    from simserve.perf.collect.task import Options, Task


def collect(
    family: Annotated[str, typer.Argument(help="gemm, attention, pcie, cpu-attention or collectives.")],
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    name: Annotated[str, typer.Option(help="Folder of the tables, e.g. h200_sxm/measured (default: found).")] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="perfdb folder (default: of SIMSERVE_DATA).")] = None,
    points: Annotated[int, typer.Option(min=4, help="Points of a table at most.")] = 400,
    tolerance: Annotated[float, typer.Option(min=0.0, help="Stop where every gap errs less than this.")] = 0.02,
    dtype: Annotated[str, typer.Option(help="Number format (default: bf16, fp32 without torch).")] = "",
    threads: Annotated[list[int] | None, typer.Option(min=1, help="CPU threads; repeat for several.")] = None,
    heads: Annotated[
        list[str] | None, typer.Option(help="Query heads, KV heads and head size, e.g. 32,8,128; repeat.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=0, help="Processes of a collective (default: all GPUs).")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier run measured.")] = False,
) -> None:
    """Measure kernels here; a run that was stopped goes on where it was. The grid is refined where it errs most.

    simserve perfdb collect cpu-attention --threads 8 --threads 16 -o my-data/perfdb

    simserve perfdb collect gemm --device cuda --name h200_sxm/measured
    """
    # BLAS reads this once, when NumPy is loaded: threads are the collector's own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from simserve.perf.collect import collector
    from simserve.perf.collect.machine import find_machine
    from simserve.perf.collect.task import Options

    options = Options(dtype, tuple(threads or ()), tuple(_heads(word) for word in heads or ()), ranks)
    if name and not re.fullmatch(r"[a-z0-9_]+(/[a-z0-9_]+)?", name):
        raise SpecError("must be DEVICE or DEVICE/SOURCE in small letters, digits and _", key="--name", value=name)
    tasks_of = collector(family)
    machine = find_machine(device, name)
    folder = out or _data_folder()
    for task in tasks_of(machine, options):
        try:
            _one(task, machine, options, folder, points, tolerance, fresh)
        finally:
            task.close()


def _one(
    task: Task, machine: Machine, options: Options, out: Path, points: int, tolerance: float, fresh: bool
) -> None:
    """Measure one table, and say what came of it."""
    from simserve.perf.collect.journal import Journal
    from simserve.perf.collect.table import write
    from simserve.perf.collect.task import run

    settings = {"family": task.family, "device": task.device, "kernel": task.kernel, "model": machine.facts["model"],
                "dtype": options.dtype}  # fmt: skip
    journal = Journal(out / task.device / f".{task.family}.journal", settings, fresh=fresh)
    with _bar(task.family) as report:
        worst = run(task, journal, points, tolerance, report)
    path = write(task, machine, journal.samples, out, worst)
    outliers = sum(sample.outliers for sample in journal.samples.values())
    repeats = sum(sample.repeats for sample in journal.samples.values())
    left = f"largest error left in a gap {100 * worst:.1f} %" if worst < 1 else "too few points to begin all curves"
    typer.echo(f"wrote {path}: {len(journal.samples)} points, {outliers} outliers in {repeats} samples, {left}")


def _heads(word: str) -> tuple[int, int, int]:
    parts = word.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise SpecError("must be query heads, KV heads and head size", key="--heads", value=word)
    query, kv, dim = (int(part) for part in parts)
    if query % kv:
        raise SpecError("query heads must be a multiple of KV heads", key="--heads", value=word)
    return query, kv, dim


def _data_folder() -> Path:
    """The perfdb folder of the first root of SIMSERVE_DATA, else of the current folder."""
    roots = [root for root in os.environ.get("SIMSERVE_DATA", "").split(os.pathsep) if root]
    return Path(roots[0] if roots else "").expanduser() / "perfdb"


@contextmanager
def _bar(family: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yields report(done, total, what); a bar at a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = make_console(stderr=True)
    bar = Progress(
        BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(family, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
