"""The numbers of a run by dotted name, as in the JSON document, and which way each of them gets worse.

A name is that of a number of a run (`usd_per_million_tokens`, `sources.modelled`) or, without `metrics.` in front, of
one in its metrics (`ttft_ms.p90`, `classes.chat.slo_attainment`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from simserve.errors import SpecError, nearest_name
from simserve.explore.objective import Outcome
from simserve.metrics import Metrics, Stats
from simserve.metrics.diffusion import DiffusionMetrics
from simserve.metrics.hybrid import HybridMetrics
from simserve.metrics.stages import StageMetrics
from simserve.metrics.summary import ClassMetrics
from simserve.perf.priced import SOURCES

if TYPE_CHECKING:
    from simserve.spec.study import StudySpec

PREFIX = "metrics."
_NO_NUMBERS = ("deployment", "slo", "pools", "interval", "metrics")
_OPEN = "memory_bytes."  # whose names depend on the deployment
_LOWER = {
    "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "normalized_latency_ms", "queueing_ms", "usd_per_hour",
    "usd_per_million_tokens", "num_gpus", "turned_away", "rejected", "unfinished", "truncated", "preemptions",
    "duration_s", "kv_occupancy_mean", "kv_occupancy_peak",
}  # fmt: skip
_HIGHER = {
    "tokens_per_s_per_gpu", "request_throughput_rps", "middle_throughput_rps", "output_tokens_per_s",
    "total_tokens_per_s", "output_tokens_per_s_per_gpu", "total_tokens_per_s_per_gpu", "goodput_rps",
    "slo_attainment", "finished", "prefix_hit_rate", "num_gpu_blocks",
}  # fmt: skip


def numbers(run: Outcome) -> dict[str, float]:
    """Every number of a run by its name; what has no value is absent, a source without a share is 0."""
    plain = run.to_dict()
    found = dict(_flat(plain["metrics"]))
    found.update((f"sources.{source}", 0.0) for source in SOURCES)
    found.update(_flat({name: value for name, value in plain.items() if name not in _NO_NUMBERS}))
    return found


def check_metric(name: str, key: str, study: StudySpec) -> None:
    """Before any work: SpecError at `key` with the nearest name if no run of the study can have this number."""
    plain, known = name.removeprefix(PREFIX), set(_known(study))
    if plain not in known and not plain.startswith(_OPEN):
        nearest = nearest_name(plain, known)
        hint = "" if nearest else "; the names are those of the numbers of a run in `simserve simulate --json`"
        raise SpecError(f"no run has a metric {name!r}{hint}", key=key, nearest=nearest)


def worse(name: str) -> Literal["lower", "higher", "either"]:
    """In which direction a metric gets worse; 'either' where a change says nothing about that."""
    parts = name.removeprefix(PREFIX).split(".")
    leaf = parts[2] if parts[0] == "classes" and len(parts) > 2 else parts[0]
    return "higher" if leaf in _LOWER else "lower" if leaf in _HIGHER else "either"


def _known(study: StudySpec) -> Iterator[str]:
    for own in fields(Outcome):
        if str(own.type).removesuffix(" | None") in ("int", "float"):
            yield own.name
    yield from (f"sources.{source}" for source in SOURCES)
    yield from _names_in(Metrics)
    if study.deployment.hybrid is not None:
        yield from (f"hybrid.{name}" for name in _names_in(HybridMetrics))
    if study.deployment.stages is not None:
        yield from (f"stages.{name}" for name in _names_in(StageMetrics))
    if study.workload.kind == "diffusion":
        yield from (f"diffusion.{name}" for name in _names_in(DiffusionMetrics))
    for one in study.workload.classes or ():
        yield from (f"classes.{one.name}.{name}" for name in _names_in(ClassMetrics))


def _names_in(record: type) -> Iterable[str]:
    """The dotted names of the numbers and statistics of a dataclass."""
    for name, kind in get_type_hints(record).items():
        if kind is Stats:
            yield from (f"{name}.{own.name}" for own in fields(Stats))
        elif kind in (int, float, float | None):
            yield name


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{above}{name}", value
