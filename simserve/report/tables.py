"""The runs of a result as flat rows: `runs.csv`, `runs.parquet`, and the terminal.

`DESCRIBED` says what each column is; in the Parquet file the descriptions are the fields' metadata (`description`).
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.result import SearchResult, describe
from simserve.metrics.diffusion import DiffusionMetrics

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "rank", "meets_slo", "pareto", "gpu", "num_gpus", "tensor_parallel_size", "data_parallel_size",
    "pipeline_parallel_size", "replicas", "dtype", "max_num_batched_tokens", "max_num_seqs", "router",
    "tokens_per_s_per_gpu", "output_tokens_per_s", "request_throughput_rps", "ttft_ms", "tpot_ms",
    "slo_attainment", "goodput_rps", "usd_per_hour", "usd_per_million_tokens", "preemptions", "num_gpu_blocks",
    "tokens_per_s_per_user", "watts_per_gpu", "joules_per_token",
)  # fmt: skip
LATENCIES = ("ttft", "tpot", "itl", "e2e", "queueing")
STATS = ("mean", "p50", "p90", "p95", "p99")
MORE = (
    "recommended", "configuration", "stages", "scheduler", "gpu_memory_utilization", "turned_away", "requests",
    "finished", "duration_s", "kv_occupancy_mean", "kv_occupancy_peak",
    *(f"{name}_ms_{stat}" for name in LATENCIES for stat in STATS),
)  # fmt: skip
DENOISING = tuple(f"diffusion_{own.name}" for own in fields(DiffusionMetrics))  # where any run denoises
DESCRIBED = {
    "rank": "1 is the best",
    "meets_slo": "every objective holds, on average over replications if there are any, and no request was turned away",
    "pareto": "on the front, among those that meet the SLO: tokens_per_s_per_gpu and tpot_ms; for the objective front "
              "cost and energy too",
    "gpu": "GPU type; of the base where pools differ",
    "num_gpus": "GPUs of all replicas of all pools",
    "tensor_parallel_size": "ranks that split every layer",
    "data_parallel_size": "groups of ranks with attention of their own that share the experts",
    "pipeline_parallel_size": "stages of layers",
    "replicas": "engines behind the router",
    "dtype": "format of the weights",
    "max_num_batched_tokens": "tokens of a step at most",
    "max_num_seqs": "running requests at most",
    "router": "what spreads requests over replicas",
    "tokens_per_s_per_gpu": "prompt + output tokens per second and GPU, without the first and last 5 % to finish",
    "output_tokens_per_s": "output tokens per second over the whole run",
    "request_throughput_rps": "finished requests per second",
    "ttft_ms": "time to first token at the SLO's percentile, ms; empty for never and for none",
    "tpot_ms": "time per output token at the SLO's percentile, ms; empty for never and for none",
    "slo_attainment": "share of the requests that meet every bound, 0 to 1",
    "goodput_rps": "requests per second that meet every bound",
    "usd_per_hour": "of all GPUs, from the prices in hw_specs",
    "usd_per_million_tokens": "USD per million prompt + output tokens",
    "preemptions": "of all requests",
    "num_gpu_blocks": "KV blocks of a replica, of the first pool if there are several",
    "tokens_per_s_per_user": "1 / tpot_ms, as tokens per second",
    "watts_per_gpu": "modelled board power, mean over all GPUs, W",
    "joules_per_token": "modelled energy per prompt + output token, J",
    "recommended": "the configuration to run",
    "configuration": "the configuration in a few words",
    "stages": "where encode, prefill and decode run, empty without stages",
    "scheduler": "what forms the batches; of the base where pools differ",
    "gpu_memory_utilization": "share of the memory that the engine may use, empty for its default",
    "turned_away": "requests that the deployment rejected although the model's context holds them",
    "requests": "of the workload",
    "finished": "requests that finished",
    "duration_s": "from the first arrival to the last finish, s",
    "kv_occupancy_mean": "share of the KV blocks in use, mean over the busy time, 0 to 1",
    "kv_occupancy_peak": "the largest share of the KV blocks in use of any replica, 0 to 1",
    **{f"{name}_ms_{stat}": f"{stat} of {name}, ms, over finished requests{', gap by gap' if name == 'itl' else ''}"
       for name in LATENCIES for stat in STATS},
    "diffusion_steps": "denoising steps of all replicas",
    "diffusion_requests_per_step": "passes in a step, mean",
    "diffusion_query_tokens_per_step": "query tokens of a step, mean",
    "diffusion_refresh_tokens": "share of the query tokens in refreshes (passes over all of a request), 0 to 1",
    "diffusion_tokens_per_step": "positions that a pass commits, mean",
    "diffusion_tail_ratio": "p99 of e2e over its median",
}  # fmt: skip


def rows(result: SearchResult) -> list[dict[str, Any]]:
    """One row per run, the best first; ttft_ms and tpot_ms at the SLO's percentile, empty for never and for none."""
    on_front, best = {id(run) for run in result.front}, result.recommended
    return [_row(i + 1, run, id(run) in on_front, run is best) for i, run in enumerate(result.runs)]


def csv_text(result: SearchResult) -> str:
    """The rows as CSV with a header."""
    out = io.StringIO()
    denoising = DENOISING if any(run.metrics.get("diffusion") for run in result.runs) else ()
    writer = csv.DictWriter(out, (*COLUMNS, *MORE, *denoising), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(result))
    return out.getvalue()


def parquet_bytes(result: SearchResult) -> bytes:
    """The rows as Parquet; metadata: `simserve` with kind, name and model, and a description of every column."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    # By way of the CSV text: from lists, pyarrow imports pandas, half a second.
    read = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
    found = pyarrow.csv.read_csv(io.BytesIO(csv_text(result).encode()), convert_options=read)
    fields = [pa.field(name, _type(column), metadata={"description": DESCRIBED.get(name, "")})
              for name, column in zip(found.column_names, found.columns, strict=True)]  # fmt: skip
    about = {"kind": result.kind, "name": result.name, "model": str(result.provenance["model"]["name"])}
    table = found.cast(pa.schema(fields, metadata={"simserve": json.dumps(about)}))
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _type(column: pa.ChunkedArray) -> pa.DataType:
    """Its own, or numbers where a column has no value at all."""
    import pyarrow as pa

    return pa.float64() if pa.types.is_null(column.type) else column.type


def _row(rank: int, run: Outcome, on_front: bool, best: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rank": rank, "meets_slo": run.meets_slo, "pareto": on_front}
    for name in COLUMNS[len(found) :]:
        found[name] = _short(_value(run, name))
    found |= {"recommended": best, "configuration": describe(run)}
    for name in MORE[2:]:
        key, _, stat = name.rpartition("_")
        known = run.metrics.get(key)
        found[name] = _short(known.get(stat) if isinstance(known, dict) else _value(run, name))
    if denoising := run.metrics.get("diffusion"):
        found |= {name: _short(denoising[name.removeprefix("diffusion_")]) for name in DENOISING}
    return found


def _value(run: Outcome, name: str) -> Any:
    if name == "stages":
        return run.deployment.stages
    value = next((getattr(part, name) for part in (run, run.deployment, run.energy) if hasattr(part, name)), None)
    return run.metrics.get(name) if value is None and not hasattr(run, name) else value


def _short(value: Any) -> Any:
    """Six significant figures; None for never."""
    if not isinstance(value, float):
        return value
    return None if value >= NEVER_MS else float(f"{value:.6g}")
