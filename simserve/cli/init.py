"""`simserve init`: a study file from a few answers, asked for at a terminal or given as options."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from simserve.asked.flags import COMMAND_LINE, Flags, gpu_name, number, study_data, words
from simserve.cli import complete
from simserve.errors import SimserveError, SpecError, UnknownName

NONE = "none"
_ASKED = "Asked for if not given"


def init(
    file: Annotated[Path, typer.Argument(help="Study file to write.")] = Path("study.yaml"),
    model: Annotated[
        str | None,
        typer.Option(help="Hugging Face id, or path to a config.json.", autocompletion=complete.models,
                     rich_help_panel=_ASKED),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU types, separated by commas.", autocompletion=complete.gpus, rich_help_panel=_ASKED),
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs at most.", rich_help_panel=_ASKED)] = None,
    trace: Annotated[
        str | None, typer.Option(help="Your own trace: a CSV with times, prompt and output tokens.",
                                 rich_help_panel=_ASKED)
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Requests per second.", rich_help_panel=_ASKED)] = None,
    isl: Annotated[str | None, typer.Option("--isl", help="Prompt tokens per request.", rich_help_panel=_ASKED)] = None,
    osl: Annotated[str | None, typer.Option("--osl", help="Output tokens per request.", rich_help_panel=_ASKED)] = None,
    ttft: Annotated[
        str | None, typer.Option(help="Bound of the time to first token: ms, '0.5 s', or none.", rich_help_panel=_ASKED)
    ] = None,
    tpot: Annotated[
        str | None, typer.Option(help="Bound of the time per output token: ms, or none.", rich_help_panel=_ASKED)
    ] = None,
    percentile: Annotated[
        str | None, typer.Option(help="Percentile that the bounds hold for.", rich_help_panel=_ASKED)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="throughput, gpus, cost or front.", autocompletion=complete.one_of(*complete.OBJECTIVES),
                     rich_help_panel=_ASKED),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the default for what is not given.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:  # fmt: skip
    """Write a study file, with comments on every key, from a few answers.

    Examples:
      # asks; Enter takes what is shown in brackets
      simserve init
      # asks for nothing
      simserve init chat.yaml --model Qwen/Qwen3-32B --gpu h100_sxm,h200_sxm --rate 4 --isl 2000 --osl 300 --yes
      # with your own requests
      simserve init --trace trace.csv --yes
    """
    from simserve.asked.text import study_text
    from simserve.report.save import check_targets, write_atomic

    if file.suffix not in (".yaml", ".yml"):
        raise SpecError("a study file ends in .yaml", file=str(file))
    if file.exists() and not force:
        raise SpecError("is there already; --force replaces it", file=str(file))
    check_targets(None, None, file)
    given = locals()
    answers = _answers({name: given[name] for name in QUESTIONS}, yes)
    text = study_text(_study(answers, file), file)
    write_atomic(file, text)
    name = shlex.quote(str(file))
    typer.echo(f"wrote {file}\n\nnext: simserve search {name}\n"
               f"      simserve search {name} --requests 200   # a quick look")  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked, what Enter means, and what becomes of an answer; check: raises SimserveError for a wrong one."""

    text: str
    default: str
    check: Callable[[str], Any]


def _answers(given: dict[str, str | None], yes: bool) -> dict[str, Any]:
    """All answers by the names of the options; a trace stands for rate and lengths."""
    found: dict[str, Any] = {}
    drawn = [name for name in LOAD if given[name] is not None]
    if given["trace"] is not None and drawn:
        raise SpecError("a trace has its own", file=COMMAND_LINE, key=f"--{drawn[0]}")
    for name, question in QUESTIONS.items():
        bounded = found.get("ttft") is not None or found.get("tpot") is not None
        beside = {"trace": bool(drawn), "percentile": not bounded, **dict.fromkeys(LOAD, bool(found.get("trace")))}
        needless = given[name] is None and beside.get(name, False)
        found[name] = None if needless else _answer(name, question, given[name], yes)
    return found


def _answer(name: str, question: Question, given: str | None, yes: bool) -> Any:
    """What was given, the default, or what is typed; at a terminal a mistake is asked for again."""
    option = f"--{name}"
    if given is None and not yes and not sys.stdin.isatty():
        raise SpecError("there is no terminal to ask at; give it, or --yes for the default "
                        f"{question.default!r} and those of all others", file=COMMAND_LINE, key=option)  # fmt: skip
    if given is not None or yes:
        return _checked(question, question.default if given is None else given, option)
    while True:
        try:
            return question.check(str(typer.prompt(question.text, default=question.default)).strip())
        except SimserveError as error:
            typer.echo(f"  {error}", err=True)


def _checked(question: Question, text: str, option: str) -> Any:
    """The answer; a mistake is told of the option."""
    try:
        return question.check(text)
    except UnknownName as error:
        raise UnknownName(error.kind, text, error.known, file=COMMAND_LINE, key=option,
                          choices=error.choices) from None  # fmt: skip
    except SpecError as error:
        raise SpecError(error.problem, file=COMMAND_LINE, key=option, value=error.value or text) from None


def _model(text: str) -> str:
    """As the model is called in a study: a path in full, for a study is read from elsewhere, else the checkpoint."""
    from simserve.spec.model import load_model

    name, path = load_model(text).name, Path(text).expanduser()
    return str(path.resolve()) if path.suffix in (".json", ".yaml", ".yml") or path.is_dir() else name


def _gpus(text: str) -> list[str]:
    from simserve.spec.hardware import load_gpu

    names = words([text])
    if not names:
        raise SpecError("give at least one GPU type")
    for name in names:
        load_gpu(name)
    return list(dict.fromkeys(gpu_name(name) for name in names))


def _trace(text: str) -> Path | None:
    """A file whose columns can be told; None for none."""
    from simserve.workload.columns import trace_columns
    from simserve.workload.files import resolve

    if text.lower() == NONE:
        return None
    path = resolve(text, None)
    trace_columns(path)
    return path


def _count(text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise SpecError(f"must be a whole number from 1 to {most:,}", value=text)
    return int(text)


def _gpu_count(text: str) -> int:
    from simserve.asked.space import MOST_GPUS

    return _count(text, MOST_GPUS)


def _tokens(text: str) -> int:
    from simserve.spec.lengths import LONGEST

    return _count(text, LONGEST)


def _number(low: float, high: float) -> Callable[[str], float]:
    """A number between two ends, which are not among those."""

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low
        if not low < value < high:
            raise SpecError(f"must be a number above {low:g} and below {high:g}", value=text)
        return int(value) if value == int(value) else value

    return check


def _bound(key: str) -> Callable[[str], str | None]:
    """A bound of an SLO as it is written; None for none."""

    def check(text: str) -> str | None:
        from simserve.spec.base import parse
        from simserve.spec.slo import SloSpec

        if text.lower() == NONE:
            return None
        parse(SloSpec, {key: number(text)})
        return text

    return check


def _objective(text: str) -> str:
    if text not in complete.OBJECTIVES:
        raise UnknownName("objective", text, complete.OBJECTIVES)
    return text


QUESTIONS = {
    "model": Question("Model (Hugging Face id, or path to a config.json)", "meta-llama/Llama-3.1-8B", _model),
    "gpu": Question("GPU types, separated by commas (`simserve hw list`)", "h100_sxm", _gpus),
    "gpus": Question("GPUs at most", "8", _gpu_count),
    "trace": Question("Your own trace, a CSV with times, prompt and output tokens", NONE, _trace),
    "rate": Question("Requests per second", "4", _number(0, 1e9)),
    "isl": Question("Prompt tokens per request", "1000", _tokens),
    "osl": Question("Output tokens per request", "200", _tokens),
    "ttft": Question("Bound of the time to first token (ms, or with a unit, or none)", "500", _bound("ttft_ms")),
    "tpot": Question("Bound of the time per output token (ms, or none)", "50", _bound("tpot_ms")),
    "percentile": Question("Percent of the requests that must keep the bounds", "90", _number(0, 100)),
    "objective": Question("Objective: throughput (per GPU), gpus, cost or front", "throughput", _objective),
}
LOAD = ("rate", "isl", "osl")


def _study(answers: dict[str, Any], file: Path) -> dict[str, Any]:
    """The study, with the space that `simserve search` has for the same options; checked as a file is."""
    from simserve.asked.space import SPACE_OPTIONS, space_sections
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    trace = answers["trace"]
    own = {name: answers[name] for name in ("model", "rate", "isl", "osl", "ttft", "tpot", "percentile")}
    flags = Flags(**dict.fromkeys(Flags.__dataclass_fields__) | own | {"trace": trace})
    space = dict.fromkeys(SPACE_OPTIONS) | {"--gpu": answers["gpu"], "--gpus": answers["gpus"]}
    sections = space_sections(space, None, flags.model)
    sections["search"] = {**sections["search"], "objective": answers["objective"], "trials": 40}
    data = study_data(flags, sections)
    if trace is not None:  # a study says where its trace is, seen from itself
        data["workload"]["trace"]["path"] = Path(os.path.relpath(trace.resolve(), file.resolve().parent)).as_posix()
    parse(StudySpec, data, file=COMMAND_LINE)
    return data
