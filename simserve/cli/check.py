"""`simserve check`: studies that say what they expect, in continuous integration."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.flags import COMMAND_LINE
from simserve.asked.names import check_names, located
from simserve.asked.unexpected import in_words
from simserve.cli import complete
from simserve.cli.study_file import study_file
from simserve.errors import LawBroken, SimserveError, SpecError
from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from simserve.check.judge import Verdict
    from simserve.check.report import StudyCheck
    from simserve.explore.objective import Outcome
    from simserve.explore.result import SearchResult
    from simserve.explore.runner import Inputs
    from simserve.spec.expect import ExpectSpec
    from simserve.spec.study import StudySpec

Progress = Callable[[int, int, "Outcome | None"], None]
_COLORS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Study files, and folders of them (default: studies/).", metavar="PATHS",
                       autocompletion=complete.studies),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes of a search; 0 for one per CPU.", min=0)] = 1,
    requests: Annotated[
        int | None,
        typer.Option(help="A quick look at the first so many requests; says so, and skips baselines.", min=1),
    ] = None,
    update_baselines: Annotated[
        bool, typer.Option("--update-baselines", help="Write the baselines that studies name instead of comparing.")
    ] = False,
    json_out: Annotated[
        str | None,
        typer.Option("--json", metavar="OUT", help="Write what was checked to OUT; '-' prints it instead of tables."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML: a suite per study, a case per expectation.")]
    = None,
) -> None:
    """Hold studies against what their `expect` section says: search those with a search section, simulate the others.

    Exit codes: 0, all expectations hold; 1, one does not; 2, a study or an option is wrong, so that something
    could not be checked (the other studies are).

    expect:

      slo_met: true

      usd_per_million_tokens: {max: 0.5}          # any number of a run in the JSON document, by dotted name

      ttft_ms.p90: {max: 400}

      winner: {gpu: h100_sxm, tensor_parallel_size: 1}   # of a search; only the keys named

      ties: true                                  # what ties with the winner may stand for it; default false

      baseline: baselines/chat.json               # written by --update-baselines

      tolerance: {tokens_per_s_per_gpu: 2%, ttft_ms.p90: 5%}   # so much worse it may be

    Examples:
      # all studies of a folder, for continuous integration
      simserve check studies/ --junit report.xml
      # a quick look at one
      simserve check quickstart --requests 200
    """
    from simserve.check.report import check_document, exit_code, junit_xml
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out, junit)
    if update_baselines and requests is not None:
        raise SpecError("a baseline is of all requests; leave it out", file=COMMAND_LINE, key="--requests")
    files, without = _files(paths)
    shown = None if json_out == "-" else make_console()
    options = Options(jobs, requests, update_baselines)
    checks = [_one(path, f"{path} ({n} of {len(files)})", options, shown) for n, path in enumerate(files, 1)]
    if junit is not None:
        write_atomic(junit, junit_xml(checks))
    if json_out is not None:
        text = to_json(check_document(checks, [str(path) for path in without]))
        typer.echo(text, nl=False) if json_out == "-" else write_atomic(Path(json_out), text)
    if shown is not None:
        _print_summary(shown, checks, without)
    if code := exit_code(checks):
        raise typer.Exit(code)


@dataclass(frozen=True)
class Options:
    """How to check; updated: baselines written so far, with the study that each belongs to."""

    jobs: int
    requests: int | None
    update: bool
    updated: dict[Path, str] = field(default_factory=dict)


def _files(paths: Sequence[Path] | None) -> tuple[list[Path], list[Path]]:
    from simserve.check.files import study_files

    asked = [study_file(path) or path for path in paths] if paths else [Path("studies")]
    files, without = study_files(asked)
    if not files:
        where = ", ".join(map(str, asked))
        raise SpecError("no study with an 'expect' section, so nothing was checked", file=where)
    return files, without


def _one(path: Path, label: str, options: Options, shown: Console | None) -> StudyCheck:
    """One study, whatever is wrong with it, printed when done."""
    from simserve.check.report import StudyCheck
    from simserve.report.progress import progress_bar

    start = time.monotonic()
    try:
        with located(path), progress_bar(label) as progress:
            found = _checked(path, options, progress)
    except (KeyboardInterrupt, Exception) as error:
        found = StudyCheck(str(path), path.stem, error=_line(error, path))
        print(f"simserve: error: {found.error}", file=sys.stderr)
    found = replace(found, seconds=time.monotonic() - start)
    if shown is not None:
        _print_study(shown, found)
    return found


def _line(error: BaseException, path: Path) -> str:
    """One line that names the study; Ctrl-C ends the command."""
    from simserve.cli.search import interrupted

    if interrupted(error):
        raise typer.Exit(130) from None
    problem = str(error)
    if isinstance(error, LawBroken):
        problem += " (a bug in simserve; please report it)"
    elif not isinstance(error, SimserveError):
        words, ours = in_words(error)
        problem = f"internal error: {words}" if ours else words
    return " ".join((problem if problem.startswith(str(path)) else f"{path}: {problem}").split())


def _checked(path: Path, options: Options, progress: Progress) -> StudyCheck:
    """A study that can be checked; SimserveError for others."""
    from simserve.check.baseline import check_question, fingerprint, kind_of, read_baseline
    from simserve.check.judge import compare, judge, skipped, winner
    from simserve.check.report import StudyCheck
    from simserve.check.stated import check_expect
    from simserve.explore.result import describe
    from simserve.spec.study import load_study

    study = load_study(path)
    check_names(study, path)
    expect = check_expect(study)
    target = None if expect.baseline is None else path.parent / expect.baseline
    baseline = None if target is None or options.update else read_baseline(target, study)
    if target is not None and options.update:
        _claim(target, path, options)
    inputs, note = _inputs(study, path.parent, options.requests)
    question = fingerprint(inputs, path.parent)
    if baseline is not None and not note:
        check_question(baseline, question)
    result = _run(inputs, options.jobs, progress)
    verdicts, run = judge(expect, result), winner(result)
    if baseline is not None:
        verdicts += skipped(expect, note) if note else compare(expect, result, baseline)
    if target is not None and options.update:
        verdicts.append(_update(target, expect, result, study, question))
    return StudyCheck(str(path), study.name, kind_of(study), tuple(verdicts), note=note, requests=len(inputs.workload),
                      deployment="" if run is None else describe(run))  # fmt: skip


def _inputs(study: StudySpec, folder: Path, requests: int | None) -> tuple[Inputs, str]:
    """The study with as many requests as it asks for, or fewer and a note that says so."""
    from simserve.explore.runner import prepare

    own = prepare(study, base_dir=folder, requests=study.search.requests if study.search is not None else None)
    if requests is None or requests >= len(own.workload):
        return own, ""
    note = f"{requests:,} of the study's {len(own.workload):,} requests, so this is not what the study asks"
    return prepare(study, base_dir=folder, requests=requests), note


def _run(inputs: Inputs, jobs: int, progress: Progress) -> SearchResult:
    """The search or the simulation, as those commands make it."""
    from simserve.explore.executors import cpus
    from simserve.explore.runner import play, run_search, simulated

    if inputs.study.search is None:
        return simulated(inputs, play(inputs))
    return run_search(inputs, jobs=jobs or cpus(), progress=progress)


def _claim(target: Path, study: Path, options: Options) -> None:
    """Two studies must not overwrite one another's baseline."""
    other = options.updated.setdefault(target.resolve(), str(study))
    if other != str(study):
        raise SpecError(f"is the baseline of {other} as well", key="expect.baseline", value=str(target))


def _update(
    target: Path, expect: ExpectSpec, result: SearchResult, study: StudySpec, question: dict[str, Any]
) -> Verdict:
    from simserve.check.baseline import write_baseline
    from simserve.check.judge import Verdict, winner
    from simserve.check.metrics import PREFIX, numbers
    from simserve.explore.result import nothing_meets

    run = winner(result)
    if run is None:
        why = f"no baseline was written: {nothing_meets(result)}"
        return Verdict("baseline", "failed", None, f"written to {target}", message=why)
    asked, known = expect.tolerance.metrics if expect.tolerance else {}, numbers(run)
    absent = [name for name in asked if name.removeprefix(PREFIX) not in known]
    write_baseline(target, study, question, run)
    why = f"{', '.join(absent)}: no value in this run, so none can be compared" if absent else ""
    return Verdict("baseline", "failed" if why else "passed", "written", f"written to {target}", message=why)


def _print_study(console: Console, found: StudyCheck) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from simserve.check.judge import percent, text

    what = "could not be checked" if found.error else found.deployment or "no configuration meets the SLO"
    console.print(f"{found.file}: {what} ({found.seconds:.1f} s)", highlight=False, markup=False, soft_wrap=True)
    if found.note:
        console.print(f"note: {found.note}", style="yellow", highlight=False, markup=False)
    if not found.verdicts:
        return
    shown = Table("expectation", "expected", "measured", "off by", "", box=SIMPLE_HEAD)
    for v in found.verdicts:
        measured = text(v.measured) if isinstance(v.measured, int | float) else v.measured or ""
        cells = (v.name, v.expected, measured, "" if v.off is None else percent(v.off))
        shown.add_row(*map(Text, cells), Text(v.status, style=_COLORS[v.status]))
    console.print(shown)
    for v in found.verdicts:
        if v.message:
            console.print(f"{v.status} {v.name}: {v.message}", style=_COLORS[v.status], highlight=False, markup=False,
                          soft_wrap=True)  # fmt: skip


def _print_summary(console: Console, checks: Sequence[StudyCheck], without: Sequence[Path]) -> None:
    from simserve.check.report import counts

    if without:
        listed = ", ".join(path.name for path in without)
        console.print(f"\nnot checked, for they expect nothing: {listed}", highlight=False, markup=False)
    known = counts(checks)
    words = [f"{known[name]} {name}" for name in ("passed", "failed", "skipped") if known[name] or name == "passed"]
    errors = f"; {known['errors']} could not be checked" if known["errors"] else ""
    seconds = sum(one.seconds for one in checks)
    studies = "1 study" if len(checks) == 1 else f"{len(checks)} studies"
    console.print(f"{studies}: {', '.join(words)}{errors} ({seconds:.1f} s)", highlight=False)
