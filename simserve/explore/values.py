"""The numbers of an outcome by name, as the questions about them ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from simserve.errors import UnknownName
from simserve.explore.objective import NEVER_MS, Outcome
from simserve.metrics.diffusion import DiffusionMetrics
from simserve.metrics.hybrid import HybridMetrics
from simserve.metrics.stages import StageMetrics

_OWN: dict[str, Callable[[Outcome], Any]] = {
    "tokens_per_s_per_gpu": lambda o: o.tokens_per_s_per_gpu,
    "tokens_per_s_per_user": lambda o: o.tokens_per_s_per_user,
    "ttft_ms": lambda o: o.ttft_ms,
    "tpot_ms": lambda o: o.tpot_ms,
    "num_gpus": lambda o: o.num_gpus,
    "usd_per_hour": lambda o: o.usd_per_hour,
    "usd_per_million_tokens": lambda o: o.usd_per_million_tokens,
    "watts_per_gpu": lambda o: None if o.energy is None else o.energy.watts_per_gpu,
    "joules_per_token": lambda o: None if o.energy is None else o.energy.joules_per_token,
}
_METRICS = ("output_tokens_per_s", "request_throughput_rps", "middle_throughput_rps", "goodput_rps", "slo_attainment",
            "preemptions", "kv_occupancy_mean", "kv_occupancy_peak")  # fmt: skip
_LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "normalized_latency_ms", "queueing_ms")
_STATS = tuple(f"{name}.{stat}" for name in _LATENCIES
               for stat in ("mean", "p50", "p90", "p95", "p99"))  # fmt: skip
_HOST = tuple(f"hybrid.{own.name}" for own in fields(HybridMetrics))
_DENOISING = tuple(f"diffusion.{own.name}" for own in fields(DiffusionMetrics))
_STAGES = tuple(f"stages.{own.name}" for own in fields(StageMetrics))
NAMES = (*_OWN, *_METRICS, *_STATS, *_HOST, *_DENOISING, *_STAGES)
LARGER_IS_BETTER = ("tokens_per_s_per_gpu", "tokens_per_s_per_user", "output_tokens_per_s", "request_throughput_rps",
                    "middle_throughput_rps", "goodput_rps", "slo_attainment")  # fmt: skip


def check_value(name: str, key: str) -> None:
    """UnknownName, with the nearest, unless `name` is one of NAMES; key: the option that named it."""
    if name not in NAMES:
        raise UnknownName("metric", name, NAMES, file="command line", key=key)


def value(outcome: Outcome, name: str) -> float | None:
    """The number called `name`; `ttft_ms` and `tpot_ms` at the SLO's percentile, others as in `simserve.metrics`.

    None where there is none, also where it is never reached.
    """
    if name in _OWN:
        found = _OWN[name](outcome)
    else:
        first, _, stat = name.partition(".")
        found = outcome.metrics.get(first)
        found = found.get(stat) if stat and found else found
    return None if found is None or found >= NEVER_MS else float(found)
