"""Options that `search` and `simulate` share, and the study that they describe when no YAML is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.asked.flags import COMMAND_LINE, Flags, flag_error, study_data
from simserve.cli import complete
from simserve.errors import SpecError

if TYPE_CHECKING:
    from simserve.spec.study import StudySpec

_LOAD, _SLO, _DEPLOY, _OUT = "Workload", "SLO", "Deployment", "Output"

Study = Annotated[
    Path | None,
    typer.Argument(
        help="Study YAML, or the name of one that comes with simserve; or describe it by options.",
        autocompletion=complete.studies,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="Hugging Face id, or path to a model YAML or config.json.", autocompletion=complete.models),
]
Trace = Annotated[
    Path | None,
    typer.Option(help="Request trace: a CSV with times, prompt and output tokens.", rich_help_panel=_LOAD),
]
TraceFormat = Annotated[
    str | None,
    typer.Option(help="azure (any CSV; default), mooncake or blocks_jsonl.", rich_help_panel=_LOAD,
                 autocompletion=complete.one_of(*complete.TRACE_FORMATS)),
]  # fmt: skip
RateScale = Annotated[float | None, typer.Option(help="Speed the trace up by this.", rich_help_panel=_LOAD)]
Rate = Annotated[float | None, typer.Option(help="Requests per second.", rich_help_panel=_LOAD)]
Cv = Annotated[
    float | None,
    typer.Option(help="Coefficient of variation of the gaps between arrivals (1: Poisson).", rich_help_panel=_LOAD),
]
Concurrency = Annotated[
    int | None,
    typer.Option(help="Closed loop: so many requests in flight, instead of a rate.", rich_help_panel=_LOAD),
]
Isl = Annotated[int | None, typer.Option("--isl", help="Prompt tokens per request.", rich_help_panel=_LOAD)]
Osl = Annotated[int | None, typer.Option("--osl", help="Output tokens per request.", rich_help_panel=_LOAD)]
Prefix = Annotated[
    int | None,
    typer.Option(help="Of the prompt tokens, those that all prompts begin with, cached.", min=0, rich_help_panel=_LOAD),
]
Requests = Annotated[
    int | None,
    typer.Option(help="Requests (default 1000; of a trace: the first so many).", min=1, rich_help_panel=_LOAD),
]
Ttft = Annotated[str | None, typer.Option(help="Bound in ms, or '0.5 s'.", rich_help_panel=_SLO)]
Tpot = Annotated[str | None, typer.Option(help="Bound in ms.", rich_help_panel=_SLO)]
E2e = Annotated[str | None, typer.Option(help="Bound in ms.", rich_help_panel=_SLO)]
Percentile = Annotated[
    float | None, typer.Option(help="Percentile that the bounds hold for (default 90).", rich_help_panel=_SLO)
]
Gpu = Annotated[
    str | None, typer.Option(help="GPU type.", rich_help_panel=_DEPLOY, autocompletion=complete.gpus)
]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel size.", rich_help_panel=_DEPLOY)]
Replicas = Annotated[int | None, typer.Option(help="Number of replicas.", rich_help_panel=_DEPLOY)]
Dtype = Annotated[
    str | None,
    typer.Option(help="Of the weights: bf16, fp16, fp8, fp8_block, nvfp4.", rich_help_panel=_DEPLOY,
                 autocompletion=complete.one_of(*complete.DTYPES)),
]  # fmt: skip
Tokens = Annotated[int | None, typer.Option(help="Tokens per step.", rich_help_panel=_DEPLOY)]
Seqs = Annotated[int | None, typer.Option(help="Running requests.", rich_help_panel=_DEPLOY)]
Router = Annotated[
    str | None, typer.Option(help="Router.", rich_help_panel=_DEPLOY, autocompletion=complete.routers)
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Scheduler; see `simserve explain`.", rich_help_panel=_DEPLOY,
                 autocompletion=complete.schedulers),
]  # fmt: skip
KvCacheDtype = Annotated[
    str | None,
    typer.Option(help="auto or fp8.", rich_help_panel=_DEPLOY, autocompletion=complete.one_of(*complete.KV_DTYPES)),
]
Seed = Annotated[int | None, typer.Option(help="Seed of all random streams (default 0).", min=0)]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="OUT",
        help="Also write the result as JSON to OUT; '-' prints it instead of tables.",
        rich_help_panel=_OUT,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the report here (with a results folder: there, as report.html).",
                 rich_help_panel=_OUT),
]  # fmt: skip
NoHtml = Annotated[bool, typer.Option("--no-html", help="Write no report.", rich_help_panel=_OUT)]
OutDir = Annotated[Path | None, typer.Option("-o", "--out", help="Folder for results.", rich_help_panel=_OUT)]


def read_study(path: Path | None, flags: Flags, sections: Mapping[str, Any], other: Mapping[str, Any]) -> StudySpec:
    """The study in a file, or the one that the options describe.

    sections: the `deployment` and `search` sections that the options give; other: option name -> value of
    those that are in neither and that a study file excludes. With a file, --seed and --requests override it.
    """
    if path is None:
        return _from_flags(flags, sections)
    from simserve.spec.study import load_study

    given = {f"--{k.replace('_', '-')}": v for k, v in vars(flags).items() if k not in ("seed", "requests")}
    for name, value in {**given, **other}.items():
        if value not in (None, []):
            raise flag_error(name, f"the study file {path} says this; change it there")
    study = load_study(path)
    return study if flags.seed is None else study.model_copy(update={"seed": flags.seed})


def base_dir(path: Path | None) -> Path:
    """The folder that relative paths refer to."""
    return path.parent if path is not None else Path()


def _from_flags(flags: Flags, sections: Mapping[str, Any]) -> StudySpec:
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    return parse(StudySpec, study_data(flags, sections), file=COMMAND_LINE)


def refuse(reason: str, **options: object) -> None:
    """SpecError for the first of the options that was given, by the name of its parameter."""
    for name, value in options.items():
        if value is not None:
            raise SpecError(reason, file=COMMAND_LINE, key=f"--{name.replace('_', '-')}", value=str(value))
