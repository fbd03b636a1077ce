"""`simserve reproduce`: the published claims of papers, played and held against our numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simserve.asked.names import located
from simserve.cli import complete
from simserve.cli import options as opt
from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.check.papers import Reproduced
    from simserve.spec.paper import Paper, PaperRun

PAGE = "reproduce.html"
MISSED = 1


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Paper studies by name or file (default: all).", metavar="NAME",
                       autocompletion=complete.papers),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the paper studies and what they hold.")] = False,
    json_out: Annotated[
        str | None,
        typer.Option("--json", metavar="OUT", help="Write the rows of the table to OUT; '-' prints them instead."),
    ] = None,
    html: opt.Html = None,
    out: opt.OutDir = None,
) -> None:
    """Play the runs of paper studies and print published numbers beside ours.

    A paper study (`simserve/spec/paper.py` describes the format) says what the paper measured, what it leaves out and
    what was chosen instead, and how far off ours may be. Exit codes: 0, all quantities are within their range; 1, one
    is not; 2, a study or an option is wrong.

    Examples:
      # which papers there are
      simserve reproduce --list
      # one of them, with plots
      simserve reproduce flexgen_t4 --html flexgen.html
    """
    from simserve.check.papers import check_metrics, find_papers
    from simserve.report.html import check_html
    from simserve.report.save import check_targets
    from simserve.spec.paper import load_paper

    papers = []
    for path in find_papers(names or []):
        papers.append(load_paper(path))
        with located(path):
            check_metrics(papers[-1])
    console = make_console()
    if list_only:
        _print_list(console, papers)
        return
    check_html(html)
    check_targets(out, json_out, html)
    shown = None if json_out == "-" else console
    found = _play(papers, shown)
    _store(console, found, json_out, html, out)
    missed = sum(not row.ok for one in found for row in one.rows)
    if shown is not None:
        whole = sum(len(one.rows) for one in found)
        shown.print(f"{whole - missed} of {whole} quantities within their range", highlight=False)
    if missed:
        raise typer.Exit(MISSED)


def _play(papers: list[Paper], shown: Console | None) -> list[Reproduced]:
    """All papers, each printed when done; progress is by run."""
    from simserve.check.paper_page import print_reproduced
    from simserve.check.papers import reproduce as play
    from simserve.report.progress import progress_bar

    found, total, done = [], sum(len(paper.runs) for paper in papers), 0
    for paper in papers:
        with progress_bar(paper.spec.name) as progress, located(paper.path):

            def report(run: PaperRun) -> None:
                nonlocal done
                done += 1
                progress(done, total, None)

            progress(done, total, None)
            found.append(play(paper, report))
        if shown is not None:
            print_reproduced(shown, found[-1])
    return found


def _store(
    console: Console, found: list[Reproduced], json_out: str | None, html: Path | None, out: Path | None
) -> None:  # fmt: skip
    """The rows as JSON, the page, and all of it in a folder."""
    from simserve.check.paper_page import reproduced_html
    from simserve.check.papers import provenance_of
    from simserve.report.answers import answer, save_answer
    from simserve.report.document import json_safe
    from simserve.report.save import to_json, write_atomic

    rows = [row.to_dict() for one in found for row in one.rows]
    if json_out == "-":
        typer.echo(to_json(json_safe(rows)), nl=False)
    elif json_out is not None:
        write_atomic(Path(json_out), to_json(json_safe(rows)))
    page = reproduced_html(found) if html is not None or out is not None else None
    if html is not None and page is not None:
        write_atomic(html, page)
    if out is not None:
        models = sorted({run.study.model for one in found for run in one.paper.runs})
        content = {"studies": [one.to_dict() for one in found]}
        files = {PAGE: page} if page is not None else {}
        saved = answer("reproduce", ", ".join(one.paper.spec.name for one in found), ", ".join(models),
                       provenance_of(found), content, [_flat(row) for row in rows], files)  # fmt: skip
        paths = ", ".join(path.name for path in save_answer(saved, out))
        if json_out != "-":
            console.print(f"saved in {out}: {paths}", soft_wrap=True, highlight=False, markup=False)


def _flat(row: dict[str, object]) -> dict[str, object]:
    """A row for CSV: a published range as text."""
    published = row["published"]
    ends = " to ".join(f"{end:g}" for end in published) if isinstance(published, list) else published
    return {**row, "published": ends}


def _print_list(console: Console, papers: list[Paper]) -> None:
    from rich.text import Text

    for paper in papers:
        what = f": {len(paper.spec.quantities)} quantities of {len(paper.runs)} runs; {paper.spec.paper}"
        console.print(Text(f"{paper.spec.name}{what}"), soft_wrap=True)
