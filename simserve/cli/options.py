"""Options that `search` and `simulate` share, and the study that they describe when no YAML is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.errors import SpecError

if TYPE_CHECKING:
    from simserve.spec.study import StudySpec

COMMAND_LINE = "command line"
DEFAULT_REQUESTS = 1000
_LOAD, _SLO, _DEPLOY, _OUT = "Workload", "SLO", "Deployment", "Output"

Study = Annotated[
    Path | None,
    typer.Argument(help="Study YAML, or the name of one that comes with simserve; or describe it by options."),
]
Model = Annotated[str | None, typer.Option(help="Hugging Face id, or path to a model YAML or config.json.")]
Trace = Annotated[Path | None, typer.Option(help="Request trace (CSV).", rich_help_panel=_LOAD)]
TraceFormat = Annotated[str | None, typer.Option(help="Format of the trace.", rich_help_panel=_LOAD)]
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
Gpu = Annotated[str | None, typer.Option(help="GPU type.", rich_help_panel=_DEPLOY)]
Tp = Annotated[int | None, typer.Option(help="Tensor-parallel size.", rich_help_panel=_DEPLOY)]
Replicas = Annotated[int | None, typer.Option(help="Number of replicas.", rich_help_panel=_DEPLOY)]
Dtype = Annotated[
    str | None, typer.Option(help="Of the weights: bf16, fp16, fp8, fp8_block, nvfp4.", rich_help_panel=_DEPLOY)
]
Tokens = Annotated[int | None, typer.Option(help="Tokens per step.", rich_help_panel=_DEPLOY)]
Seqs = Annotated[int | None, typer.Option(help="Running requests.", rich_help_panel=_DEPLOY)]
Router = Annotated[str | None, typer.Option(help="Router.", rich_help_panel=_DEPLOY)]
Scheduler = Annotated[str | None, typer.Option(help="Scheduler; see `simserve explain`.", rich_help_panel=_DEPLOY)]
KvCacheDtype = Annotated[str | None, typer.Option(help="auto or fp8.", rich_help_panel=_DEPLOY)]
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


def weights_formats(model: str | None) -> tuple[str, str | None]:
    """(dtype, moe_dtype) to assume for a model: those of its checkpoint."""
    from simserve.spec.model import checkpoint_formats

    dtype, moe_dtype = checkpoint_formats(model) if model is not None else ("bf16", "")
    return dtype, moe_dtype or None


def has(model: str | None, field: str) -> bool:
    """Whether a model has something in this field; what is no model is said later, with all else that is wrong."""
    from simserve.errors import SimserveError
    from simserve.spec.model import load_model

    try:
        return model is not None and bool(getattr(load_model(model), field))
    except SimserveError:
        return False


def is_diffusion(model: str | None) -> bool:
    """Whether a model decodes by denoising."""
    return has(model, "diffusion")


@dataclass(frozen=True)
class Flags:
    """The options that describe a study, as given; None where they were not."""

    model: str | None
    trace: Path | None
    trace_format: str | None
    rate_scale: float | None
    rate: float | None
    cv: float | None
    concurrency: int | None
    isl: int | None
    osl: int | None
    prefix: int | None
    requests: int | None
    ttft: str | None
    tpot: str | None
    e2e: str | None
    percentile: float | None
    seed: int | None

    def workload(self) -> dict[str, Any]:
        """The `workload` section: a trace, or arrivals with fixed lengths."""
        if self.trace is not None:
            clash = _given(rate=self.rate, cv=self.cv, concurrency=self.concurrency, isl=self.isl, osl=self.osl,
                           prefix=self.prefix)  # fmt: skip
            if clash:
                raise _flag_error(next(iter(clash)), "a trace has its own; use --rate-scale to change its rate")
            trace = {"path": str(self.trace), "format": self.trace_format, "rate_scale": self.rate_scale,
                     "limit": self.requests}  # fmt: skip
            return {"trace": _present(trace)}
        if self.isl is None or self.osl is None:
            raise _flag_error("--trace", "give --trace, or --isl and --osl with --rate or --concurrency")
        common = self.prefix or 0
        if common and common >= self.isl:
            raise _flag_error("--prefix", f"must leave tokens of a prompt's own: less than --isl {self.isl}", common)
        prefixes = {"count": 1, "tokens": {"kind": "fixed", "value": common}}
        return _present({
            "arrivals": self._arrivals(),
            "prompt_tokens": {"kind": "fixed", "value": self.isl - common},
            "prefixes": prefixes if common else None,
            "output_tokens": {"kind": "fixed", "value": self.osl},
            "requests": DEFAULT_REQUESTS if self.requests is None else self.requests,
        })  # fmt: skip

    def slo(self) -> dict[str, Any] | None:
        """The `slo` section, or None without any bound."""
        given = {"ttft_ms": self.ttft, "tpot_ms": self.tpot, "e2e_ms": self.e2e}
        bounds = {name: _number(text) for name, text in given.items() if text is not None}
        if not bounds:
            if self.percentile is not None:
                raise _flag_error("--percentile", "give a bound that it holds for: --ttft, --tpot or --e2e")
            return None
        return {**bounds, **_present({"percentile": self.percentile})}

    def _arrivals(self) -> dict[str, Any]:
        if (self.rate is None) == (self.concurrency is None):
            raise _flag_error("--rate", "give either --rate or --concurrency")
        if self.concurrency is not None:
            return {"kind": "closed_loop", "concurrency": self.concurrency}
        if self.cv is None or self.cv == 1:
            return {"kind": "poisson", "rate_rps": self.rate}
        if self.cv == 0:
            return {"kind": "constant", "rate_rps": self.rate}
        return {"kind": "gamma", "rate_rps": self.rate, "cv": self.cv}


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
            raise _flag_error(name, f"the study file {path} says this; change it there")
    study = load_study(path)
    return study if flags.seed is None else study.model_copy(update={"seed": flags.seed})


def study_file(given: Path | None) -> Path | None:
    """The study file of an argument, if there is one."""
    from simserve.spec.study import find_study

    return None if given is None else find_study(given)


def base_dir(path: Path | None) -> Path:
    """The folder that relative paths refer to."""
    return path.parent if path is not None else Path()


def words(values: list[str] | None, option: str = "") -> list[str]:
    """Values of a repeatable option, which may also be separated by commas.

    option: its name, where giving it without a value is an error (SpecError).
    """
    found = [word for value in values or [] for word in value.split(",") if word]
    if option and values and not found:
        raise SpecError("give at least one value", file=COMMAND_LINE, key=option, value=",".join(values))
    return found


def integers(values: list[str] | None, option: str) -> list[int]:
    """Like `words`, as integers."""
    try:
        return [int(word) for word in words(values)]
    except ValueError:
        raise _flag_error(option, "expected whole numbers separated by commas") from None


def _from_flags(flags: Flags, sections: Mapping[str, Any]) -> StudySpec:
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    if flags.model is None:
        raise _flag_error("--model", "give a study file, or --model and the other options")
    if flags.prefix:  # whose KV is what caching is for
        cached = {**sections.get("deployment", {}), "enable_prefix_caching": True}
        sections = {**sections, "deployment": cached}
    workload = flags.workload()
    if is_diffusion(flags.model):
        workload["kind"] = "diffusion"
        sections = {**sections, "deployment": {"scheduler": "dllm_serve", **sections.get("deployment", {})}}
    data = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", Path(flags.model).name.lower()) or None,
        "model": flags.model,
        "workload": workload,
        "slo": flags.slo(),
        "seed": flags.seed,
        **sections,
    }
    return parse(StudySpec, _present(data), file=COMMAND_LINE)


def _flag_error(name: str, problem: str, value: object = None) -> SpecError:
    return SpecError(problem, file=COMMAND_LINE, key=name, value=value)


def _present(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _given(**options: object) -> dict[str, object]:
    return {f"--{name}": value for name, value in options.items() if value is not None}


def _number(text: str) -> float | str:
    """A bound as a number of ms where it is one, else as written, for the study's own check of units."""
    try:
        return float(text)
    except ValueError:
        return text


def refuse(reason: str, **options: object) -> None:
    """SpecError for the first of the options that was given, by the name of its parameter."""
    for name, value in options.items():
        if value is not None:
            raise SpecError(reason, file=COMMAND_LINE, key=f"--{name.replace('_', '-')}", value=str(value))
