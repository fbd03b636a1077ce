"""A progress bar on stderr, shown at a terminal only and gone when the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome


@contextmanager
def progress_bar(label: str = "simulating") -> Iterator[Callable[[int, int, Outcome | None], None]]:
    """Yields report(done, total, latest outcome); the bar names the best configuration so far, at first `label`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from simserve.explore.objective import ranked
    from simserve.explore.result import describe

    console = make_console(stderr=True)
    best: list[Outcome] = []
    bar = Progress(
        BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}"),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(label, total=None)

        def report(done: int, total: int, outcome: Outcome | None) -> None:
            if outcome is not None:
                best[:] = ranked([*best, outcome])[:1]
            text = f"best: {describe(best[0])}" if best and best[0].meets_slo else label
            bar.update(task, completed=done, total=total, description=text)

        yield report
