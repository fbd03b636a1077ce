"""A study as options describe it, for the command line, for Python and for the page of `simserve ui`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simserve.errors import SpecError

COMMAND_LINE = "command line"
DEFAULT_REQUESTS = 1000
A_LOAD = "--rate 4 --isl 1000 --osl 200"
AN_SLO = "--ttft 500 --tpot 50"


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
                raise flag_error(next(iter(clash)), "a trace has its own; use --rate-scale to change its rate")
            trace = {"path": str(self.trace), "format": self.trace_format, "rate_scale": self.rate_scale,
                     "limit": self.requests}  # fmt: skip
            return {"trace": _present(trace)}
        if self.isl is None or self.osl is None:
            problem = "give --trace, or --isl and --osl with --rate or --concurrency"
            raise flag_error("--trace", f"{problem}, e.g. {A_LOAD}")
        common = self.prefix or 0
        if common and common >= self.isl:
            raise flag_error("--prefix", f"must leave tokens of a prompt's own: less than --isl {self.isl}", common)
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
        bounds = {name: number(text) for name, text in given.items() if text is not None}
        if not bounds:
            if self.percentile is not None:
                raise flag_error("--percentile", "give a bound that it holds for: --ttft, --tpot or --e2e")
            return None
        return {**bounds, **_present({"percentile": self.percentile})}

    def _arrivals(self) -> dict[str, Any]:
        if (self.rate is None) == (self.concurrency is None):
            raise flag_error("--rate", "give either --rate or --concurrency, e.g. --rate 4")
        if self.concurrency is not None:
            return {"kind": "closed_loop", "concurrency": self.concurrency}
        if self.cv is None or self.cv == 1:
            return {"kind": "poisson", "rate_rps": self.rate}
        if self.cv == 0:
            return {"kind": "constant", "rate_rps": self.rate}
        return {"kind": "gamma", "rate_rps": self.rate, "cv": self.cv}


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
        raise flag_error(option, "expected whole numbers separated by commas") from None


def study_data(flags: Flags, sections: Mapping[str, Any]) -> dict[str, Any]:
    """The study that the options describe, as a file would have it."""
    if flags.model is None:
        raise flag_error("--model", "give a study file, or --model and the other options, e.g. --model Qwen/Qwen3-8B")
    if flags.prefix:  # whose KV is what caching is for
        cached = {**sections.get("deployment", {}), "enable_prefix_caching": True}
        sections = {**sections, "deployment": cached}
    workload = flags.workload()
    if is_diffusion(flags.model):
        workload["kind"] = "diffusion"
        sections = {**sections, "deployment": {"scheduler": "dllm_serve", **sections.get("deployment", {})}}
    sections = _in_full(sections)
    return _present({
        "name": _study_name(flags.model),
        "model": flags.model,
        "workload": workload,
        "slo": flags.slo(),
        "seed": flags.seed,
        **sections,
    })  # fmt: skip


def _study_name(model: str) -> str | None:
    """What results are called after: the model's own name, a file's without what kind it is of."""
    path = Path(model)
    name = path.stem if path.suffix in (".json", ".yaml", ".yml") else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).lstrip("._-") or None


def _in_full(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The same with GPUs by their names: --gpu h100 is h100_sxm in all that is printed and saved."""
    full = dict(sections)
    if gpu := full.get("deployment", {}).get("gpu"):
        full["deployment"] = {**full["deployment"], "gpu": gpu_name(gpu)}
    if listed := full.get("search", {}).get("space", {}).get("gpu"):
        space = {**full["search"]["space"], "gpu": list(dict.fromkeys(gpu_name(gpu) for gpu in listed))}
        full["search"] = {**full["search"], "space": space}
    return full


def gpu_name(asked: str) -> str:
    """The name of a GPU for what was typed; a file, and what is none, as it stands, for the check of all names."""
    from simserve.errors import SimserveError
    from simserve.spec.hardware import load_gpu

    try:
        return asked if Path(asked).suffix in (".yaml", ".yml") else load_gpu(asked).name
    except SimserveError:
        return asked


def whole_command(command: str, model: str | None, gpu: str | None = None) -> str:
    """A command that can be typed as it stands, for who said too little."""
    load = f"{A_LOAD} {AN_SLO}" if command in ("search", "capacity") else A_LOAD
    return f"simserve {command} --model {model or 'meta-llama/Llama-3.1-8B'} --gpu {gpu or 'h100_sxm'} {load}"


def flag_error(name: str, problem: str, value: object = None) -> SpecError:
    return SpecError(problem, file=COMMAND_LINE, key=name, value=value)


def _present(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}


def _given(**options: object) -> dict[str, object]:
    return {f"--{name}": value for name, value in options.items() if value is not None}


def number(text: str) -> float | str:
    """A bound as a number of ms where it is one, else as written, for the study's own check of units."""
    try:
        return float(text)
    except ValueError:
        return text
