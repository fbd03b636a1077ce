"""The HTML report of `simserve search` and `simserve simulate`: where it goes, and writing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from simserve.errors import SpecError

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.explore.result import SearchResult
    from simserve.report.series import Series

NAME = "report.html"


def page_path(html: Path | None, folder: Path | None, unwanted: bool) -> Path | None:
    """Where the report goes, before any work: FILE of --html, else the folder of the results; None for nowhere.

    SpecError if it is asked for and plotly, whose script it holds, is not installed.
    """
    from simserve.report.html import can_draw, check_html

    if unwanted:
        if html is not None:
            raise SpecError("--html asks for a report, --no-html for none", file="command line", key="--no-html")
        return None
    check_html(html)
    if html is not None or folder is None:
        return html
    return folder / NAME if can_draw() else None


def write_page(
    console: Console, result: SearchResult, shown: Sequence[Series], path: Path, *, quiet: bool
) -> None:
    """Write the report and say where it is; quiet: only the former."""
    from simserve.report.html import report_html
    from simserve.report.save import write_atomic

    write_atomic(path, report_html(result, shown))
    if not quiet:
        console.print(f"report: {path}", soft_wrap=True, highlight=False, markup=False)
