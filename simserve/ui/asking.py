"""From the fields of the form to a study, and what is wrong with it, by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simserve.asked.described import described
from simserve.asked.flags import COMMAND_LINE
from simserve.asked.names import check_names
from simserve.errors import SimserveError, SpecError, UnknownName

GIB = 1 << 30
# Right for a first try: a search of these finds something in half a minute.
DEFAULTS: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B", "gpu": ["h100_sxm", "a100_sxm", "l40s"], "gpus": 4, "load": "rate",
    "rate": 4, "cv": 1, "isl": 1000, "osl": 200, "concurrency": 32, "requests": 1000, "ttft": 500, "tpot": 50,
    "percentile": 90, "objective": "throughput", "trials": 40, "seed": 0,
}  # fmt: skip
_OF_LOAD = {"rate": ("rate", "cv", "isl", "osl"), "concurrency": ("concurrency", "isl", "osl"), "trace": ("trace",)}
# The field that a key of a study, or of the command line, is told at; the longest that fits.
_FIELDS = {
    "model": "model", "gpu": "gpu", "gpus": "gpus", "search.space.gpu": "gpu", "deployment.gpu": "gpu",
    "search.max_gpus": "gpus", "search.trials": "trials", "search.objective": "objective", "workload.trace": "trace",
    "workload.arrivals.rate_rps": "rate", "workload.arrivals.cv": "cv", "workload.arrivals.concurrency": "concurrency",
    "workload.prompt_tokens": "isl", "workload.output_tokens": "osl", "workload.requests": "requests",
    "slo.ttft_ms": "ttft", "slo.tpot_ms": "tpot", "slo.percentile": "percentile", "seed": "seed",
    **{name: name for name in (*DEFAULTS, "trace")},
}  # fmt: skip
_KINDS = {"model": "model", "GPU": "gpu", "objective": "objective"}


def choices() -> dict[str, Any]:
    """What the form offers: models, GPUs with what a reader chooses them by, and where it begins."""
    from simserve.explore.objective import OBJECTIVES
    from simserve.spec.hardware import gpu_names, load_gpu
    from simserve.spec.model import model_names

    gpus = [(name, load_gpu(name)) for name in gpu_names()]
    return {
        "models": model_names(),
        "gpus": [{"name": name, "title": gpu.title, "gib": round(gpu.memory_bytes / GIB),
                  "usd_per_hour": gpu.price_usd_per_hour} for name, gpu in gpus],
        "objectives": list(OBJECTIVES),
        "defaults": DEFAULTS,
    }  # fmt: skip


def study_text(form: Mapping[str, Any], folder: Path) -> str:
    """The study that the form asks for, checked, as the text of a file in a folder below `folder`, with comments."""
    from simserve.asked.text import study_text as commented
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    load = str(form.get("load", "rate"))
    if load not in _OF_LOAD:
        raise UnknownName("load", load, _OF_LOAD)
    for name in ("gpus", "trials", "seed", *(own for own in _OF_LOAD[load] if own not in ("cv", "trace"))):
        if form.get(name) in (None, ""):
            raise SpecError("give a number", key=name)
    names = {"model", "gpu", "gpus", "ttft", "tpot", "percentile", "objective", "trials", "seed", *_OF_LOAD[load]}
    names |= {"requests"} if load != "trace" else set()
    options = {name: form[name] for name in sorted(names) if form.get(name) not in (None, "", [])}
    if load == "trace" and "trace" not in options:
        raise SpecError("choose a CSV file", key="trace")
    if "ttft" not in options and "tpot" not in options:
        options.pop("percentile", None)
    data = described(options)
    check_names(parse(StudySpec, data, file=COMMAND_LINE), None)
    return commented(data, folder / "study" / "study.yaml")


def check_text(text: str, folder: Path) -> str:
    """The name of the study in a text that can be searched; SimserveError if it is wrong. folder: of its files."""
    from simserve.explore.runner import prepare
    from simserve.explore.space import from_study
    from simserve.spec.base import parse_yaml
    from simserve.spec.study import parse_study

    study = parse_study(parse_yaml(text, file="study.yaml"))
    if study.search is None:
        raise SpecError("there is no 'search' section to choose from", file="study.yaml", key="search")
    check_names(study, None)
    prepare(study, base_dir=folder, requests=1)
    from_study(study)
    return study.name


def slo_of(text: str) -> dict[str, Any] | None:
    """The SLO of a study's text, for what is drawn; None without one, or in a text that is none."""
    from simserve.spec.base import parse_yaml
    from simserve.spec.study import parse_study

    try:
        slo = parse_study(parse_yaml(text, file="study.yaml")).slo
    except SimserveError:
        return None
    return None if slo is None else slo.model_dump(mode="json")


def problem(error: SimserveError) -> dict[str, Any]:
    """What is wrong, and at which field; '' where no field is to blame."""
    message = str(error).removeprefix(f"{COMMAND_LINE}: ").partition("; try: ")[0]
    key = (getattr(error, "key", None) or "").lstrip("-")
    if isinstance(error, UnknownName) and not key:
        key = _KINDS.get(error.kind, "")
    parts = key.partition("[")[0].split(".")
    fields = (_FIELDS.get(".".join(parts[:n])) for n in range(len(parts), 0, -1))
    return {"message": message, "field": next((field for field in fields if field), ""),
            "line": getattr(error, "line", None)}  # fmt: skip
