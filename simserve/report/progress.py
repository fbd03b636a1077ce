"""How far a search is: a bar on stderr, at a terminal only and gone when the work is done; lines of JSON for programs.

A line for each trial that ended: done, of, and run, null for one that failed or was given up: configuration, num_gpus,
meets_slo, tokens_per_s_per_gpu, ttft_ms and tpot_ms (at the SLO's percentile, null for never), usd_per_hour,
usd_per_million_tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.report.console import make_console

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome


NUMBERS = ("num_gpus", "meets_slo", "tokens_per_s_per_gpu", "ttft_ms", "tpot_ms", "usd_per_hour",
           "usd_per_million_tokens")  # fmt: skip


def progress_line(done: int, total: int, outcome: Outcome | None) -> str:
    """One line; see the module docstring."""
    from simserve.explore.objective import NEVER_MS
    from simserve.explore.result import describe

    run: dict[str, Any] | None = None
    if outcome is not None:
        found = {name: getattr(outcome, name) for name in NUMBERS}
        late = {name: None if (found[name] or 0) >= NEVER_MS else found[name] for name in ("ttft_ms", "tpot_ms")}
        run = {"configuration": describe(outcome), **found, **late}
    return json.dumps({"done": done, "of": total, "run": run}, allow_nan=False) + "\n"


@contextmanager
def progress_bar(
    label: str = "simulating", lines: Path | None = None
) -> Iterator[Callable[[int, int, Outcome | None], None]]:
    """Yields report(done, total, latest outcome); the bar names the best configuration so far, at first `label`.

    lines: a file that gets the lines besides.
    """
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
            if lines is not None:
                with lines.open("a", encoding="utf-8") as file:
                    file.write(progress_line(done, total, outcome))
            if outcome is not None:
                best[:] = ranked([*best, outcome])[:1]
            text = f"best: {describe(best[0])}" if best and best[0].meets_slo else label
            bar.update(task, completed=done, total=total, description=text)

        yield report
