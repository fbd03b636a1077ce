"""Results of serving benchmarks as measured points: `vllm bench serve`, `sglang.bench_serving`, genai-perf, AIPerf.

Each result holds a load and its mean TTFT and TPOT; model, GPU and engine settings are those of a study. Lengths are as
the result states them: from its list of lengths, its range ratio, or else all equal to the mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from simserve.accuracy.points import Point
from simserve.errors import MissingData, SpecError
from simserve.spec.deployment import DeploymentSpec


def read_bench(path: Path, like: Point) -> list[Point]:
    """The points of one result file, JSON or JSON lines, with the engine of `like`; SpecError for what it lacks."""
    if not path.is_file():
        raise MissingData(f"{path}: no such file")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        rows = [json.loads(text)]
    except json.JSONDecodeError:
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise SpecError(f"neither JSON nor JSON lines: {error.msg}", file=str(path), line=error.lineno) from None
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise SpecError("must be an object", file=str(path), line=number)
        reader = _aggregated if "time_to_first_token" in row else _bench_serve
        try:
            point = reader(row, like, str(path))
        except (ValueError, TypeError, AttributeError) as error:
            raise SpecError(f"no result that is understood: {error}", file=str(path), line=number) from None
        found.append(replace(point, id=f"{path.name}:{number}"))
    if not found:
        raise MissingData(f"{path}: no results in it")
    return found


# What a point has too, and what the fit decides; whether scheduling is asynchronous follows from the version.
_KEPT = {
    "gpu", "scheduler", "engine_version", "tensor_parallel_size", "data_parallel_size", "enable_expert_parallel",
    "dtype", "moe_dtype", "kv_cache_dtype", "max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization",
    "scheduler_options", "moe_tensor_parallel_size", "replicas", "num_speculative_tokens", "acceptance_rate", "engine",
    "calibrated", "async_scheduling", "max_model_len",
}  # fmt: skip


def like_study(model: str, deployment: DeploymentSpec) -> Point:
    """A point without a load on a study's deployment; SpecError for settings that points do not have."""
    for key, field in DeploymentSpec.model_fields.items():
        value = getattr(deployment, key)
        if key not in _KEPT and value != field.default:
            raise SpecError("calibration to results cannot have this", key=f"deployment.{key}", value=str(value))
    options = "; ".join(f"{name}={value}" for name, value in deployment.scheduler_options)
    return Point(
        model=model, gpu=deployment.gpu, concurrency=1, prompt_tokens=1, output_tokens=1,
        framework=deployment.scheduler, engine=deployment.engine or "", version=deployment.engine_version,
        tensor_parallel_size=deployment.tensor_parallel_size, data_parallel_size=deployment.data_parallel_size,
        enable_expert_parallel=deployment.enable_expert_parallel, dtype=deployment.dtype,
        moe_dtype=deployment.moe_dtype or "", kv_cache_dtype=deployment.kv_cache_dtype,
        max_num_batched_tokens=deployment.max_num_batched_tokens, max_num_seqs=deployment.max_num_seqs,
        gpu_memory_utilization=deployment.gpu_memory_utilization or 0.0, scheduler_options=options,
        moe_tensor_parallel_size=deployment.moe_tensor_parallel_size or 0, replicas=deployment.replicas,
        num_speculative_tokens=deployment.num_speculative_tokens, acceptance_rate=deployment.acceptance_rate,
    )  # fmt: skip


def _bench_serve(row: Mapping[str, Any], like: Point, file: str) -> Point:
    """vLLM's and SGLang's keys, which are the same where it matters."""
    count = _number(row, "completed", file)
    lengths: dict[str, Any] = {}
    for ours, total, limit, listed in (
        ("prompt_tokens", "total_input_tokens", "random_input_len", "input_lens"),
        ("output_tokens", "total_output_tokens", "random_output_len", "output_lens"),
    ):
        lengths[ours] = _longest(row, listed) or int(row.get(limit) or round(_number(row, total, file) / count))
    share = float(row.get("random_range_ratio") or 1.0) if "random_input_len" in row else 1.0
    each = row.get("output_lens")
    if isinstance(each, list) and each:
        share = min(each) / max(each)
    return replace(
        like, **lengths, least_share=share, requests=int(count), ttft_ms=_number(row, "mean_ttft_ms", file),
        tpot_ms=_number(row, "mean_tpot_ms", file), e2e_ms=_optional(row, "mean_e2e_latency_ms", "mean_e2el_ms"),
        **_load(row.get("max_concurrency"), row.get("request_rate"), int(count), file),
    )  # fmt: skip


def _aggregated(row: Mapping[str, Any], like: Point, file: str) -> Point:
    """genai-perf's and AIPerf's: one object with avg and unit per metric, and the configuration of the input."""
    asked = row.get("input_config") or {}
    limits = asked.get("loadgen") or (asked.get("perf_analyzer") or {}).get("stimulus") or asked
    count = round(_average(row, "request_count", file)) if "request_count" in row else int(
        limits.get("request_count") or asked.get("num_requests") or 0)  # fmt: skip
    tpot = "inter_token_latency"
    return replace(
        like, prompt_tokens=round(_average(row, "input_sequence_length", file)),
        output_tokens=round(_average(row, "output_sequence_length", file)), least_share=1.0, requests=count,
        ttft_ms=_average(row, "time_to_first_token", file), tpot_ms=_average(row, tpot, file),
        e2e_ms=_average(row, "request_latency", file) if "request_latency" in row else None,
        **_load(limits.get("concurrency"), limits.get("request_rate"), count, file),
    )  # fmt: skip


def _load(concurrency: Any, rate: Any, count: int, file: str) -> dict[str, Any]:
    """A closed loop where the clients are limited, else arrivals at a rate."""
    if concurrency:
        return {"concurrency": int(concurrency), "rate_rps": 0.0}
    if rate in (None, "inf") or float(rate) == float("inf"):
        return {"concurrency": max(count, 1), "rate_rps": 0.0}
    if float(rate) <= 0:
        raise SpecError("must be above 0", file=file, key="request_rate", value=rate)
    return {"concurrency": max(count, 1), "rate_rps": float(rate)}


def _number(row: Mapping[str, Any], key: str, file: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise SpecError("must be a number above 0", file=file, key=key, value=value)
    return float(value)


def _optional(row: Mapping[str, Any], *keys: str) -> float | None:
    return next((float(row[key]) for key in keys if row.get(key)), None)


def _longest(row: Mapping[str, Any], key: str) -> int | None:
    values = row.get(key)
    return int(max(values)) if isinstance(values, list) and values else None


_UNITS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "us": 1e-3, "ns": 1e-6}


def _average(row: Mapping[str, Any], key: str, file: str) -> float:
    """The avg of a metric, times in ms."""
    entry = row.get(key)
    if not isinstance(entry, dict) or not isinstance(entry.get("avg"), int | float):
        raise SpecError("needs an object with avg", file=file, key=key, value=entry)
    return float(entry["avg"]) * _UNITS.get(str(entry.get("unit", "")).lower(), 1.0)
