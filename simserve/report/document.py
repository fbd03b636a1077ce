"""The JSON document of a result, one schema for `search` and `simulate`: "simserve.result/1".

    schema           "simserve.result/1"; a change that breaks readers raises the number
    kind             "search" or "simulate"
    name             of the study
    model            Hugging Face id
    objective        what `runs` are ranked by: throughput, gpus, cost or front (ranked as throughput)
    recommended      index into `runs` of the run to deploy; null for `simulate` or if none meets the SLO
    ties             indices of runs that tie with the recommended one in the objective: by the intervals over
                     replications where there are some, else within 1 % of its throughput per GPU, as many GPUs, within
                     1 % of its cost per hour
    front            indices of the Pareto front among runs that meet the SLO, by falling throughput;  front_axes: what
                     it weighs: tokens_per_s_per_gpu, tokens_per_s_per_user (1 / TPOT); for the objective `front` also
                     usd_per_million_tokens and joules_per_token
    configurations   size of the feasible space;  complete: true if every one of them was simulated
    rejected         [{reason, configurations}] that cannot exist, the commonest reason first
    pruned           [{deployment, reason}] whose simulation was given up, for they were sure to miss the SLO
    runs             the simulated configurations, the best first:
      deployment       the fields of a study's `deployment`;  num_gpus: of all replicas
      num_gpu_blocks   KV blocks per replica;  memory_bytes: per GPU, by kind; with pools, those of the first one
      interval         90 % prediction interval, null for all but the recommended run of a `search`: ranges {metric:
                       [low, high]}; sources {ttft, tpot: what the interval of TTFT, of all else rests on}, "kernel
                       error" or "calibration residuals of ..."; factors {ttft, tpot}: of the latter, the ends are the
                       prediction over and times it; half_width of the step times for errors of kernels and host
      pools            of a system: [{name, gpu, num_gpus, num_gpu_blocks, memory_bytes}]; [] for one pool
      meets_slo        true if every objective holds (with replications: on average over them) and no request was
                       turned away
      replications     of the best few where asked for, else null: seeds, and by seed tokens_per_s_per_gpu and
                       worst_excess (the largest value / bound - 1)
      slo              [{name: ttft|tpot|e2e, percentile, value_ms, bound_ms}]; value_ms 1e12 means never,
                       null that no request has such a value (TPOT of 1-token outputs), and meets the bound
      turned_away      requests rejected by this deployment that the model's context would hold
      tokens_per_s_per_gpu   prompt + output tokens per second and GPU, without the first and last 5 % of the
                             requests to finish (`metrics` has it over the whole run)
      ttft_ms, tpot_ms       at the SLO's percentile (90 if there is no SLO)
      usd_per_hour           of all GPUs, from the prices in hw_specs
      usd_per_million_tokens prompt + output tokens
      usage            by pool how busy the GPUs were, what requests waited for, where the time went; the keys are
                       described in `simserve.explore.usage`
      energy           modelled board power: watts_per_gpu, joules_per_token (prompt + output), error (relative
                       half-width of both); null if there was no token
      sources          share of the simulated busy time by source: measured, interpolated, transferred, modelled
      metrics          everything in `simserve.metrics`, in the units that the keys name
      launch           shell lines that start this configuration
    provenance       versions, seed, the study as read, the model, the workload's origin and SHA-256; of a search also
                     execution: executor, workers, kind of storage

Times in ms, rates per second, sizes in bytes. Numbers that do not exist are null.
"""

from __future__ import annotations

import math
from typing import Any

from simserve.explore.objective import Outcome
from simserve.explore.result import SearchResult, describe_deployment
from simserve.report.launch import Served, launch_lines, served_model

SCHEMA = "simserve.result/1"


def document(result: SearchResult) -> dict[str, Any]:
    """The result as JSON-safe data; see the module docstring for the schema."""
    runs = result.runs
    recommended = result.recommended
    places = {id(run): index for index, run in enumerate(runs)}
    served = served_model(result.provenance)
    plain = {
        "schema": SCHEMA,
        "kind": result.kind,
        "name": result.name,
        "model": str(result.provenance["model"]["name"]),
        "objective": result.objective,
        "recommended": None if recommended is None else places[id(recommended)],
        "ties": [places[id(run)] for run in result.ties],
        "front": [places[id(run)] for run in result.front],
        "front_axes": list(result.front_axes),
        "configurations": result.configurations,
        "complete": result.complete,
        "pruned": [{"deployment": describe_deployment(p.deployment), "reason": p.reason} for p in result.pruned],
        "rejected": [{"reason": r, "configurations": n} for r, n in result.rejected_reasons],
        "runs": [_run(served, run) for run in runs],
        "provenance": result.provenance,
    }
    safe: dict[str, Any] = json_safe(plain)
    return safe


def json_safe(value: Any) -> Any:
    """NumPy scalars as Python's, tuples as lists, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _run(model: Served, run: Outcome) -> dict[str, Any]:
    launch = launch_lines(model, run)
    return {**run.to_dict(), "meets_slo": run.meets_slo, "launch": launch}
