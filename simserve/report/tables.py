"""The runs of a result as flat rows, for CSV and for the terminal."""

from __future__ import annotations

import csv
import io
from typing import Any

from simserve.search.objective import NEVER_MS, Outcome
from simserve.search.result import SearchResult

COLUMNS = (
    "rank", "meets_slo", "pareto", "gpu", "num_gpus", "tensor_parallel_size", "data_parallel_size",
    "pipeline_parallel_size", "replicas", "dtype", "max_num_batched_tokens", "max_num_seqs", "router",
    "tokens_per_s_per_gpu", "output_tokens_per_s", "request_throughput_rps", "ttft_ms", "tpot_ms",
    "slo_attainment", "goodput_rps", "usd_per_hour", "usd_per_million_tokens", "preemptions", "num_gpu_blocks",
    "tokens_per_s_per_user", "watts_per_gpu", "joules_per_token",
)  # fmt: skip


def rows(result: SearchResult) -> list[dict[str, Any]]:
    """One row per run, the best first; ttft_ms and tpot_ms at the SLO's percentile, empty for never and for none."""
    on_front = {id(run) for run in result.front}
    return [_row(i + 1, run, id(run) in on_front) for i, run in enumerate(result.runs)]


def csv_text(result: SearchResult) -> str:
    """The rows as CSV with a header."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(result))
    return out.getvalue()


def _row(rank: int, run: Outcome, on_front: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rank": rank, "meets_slo": run.meets_slo, "pareto": on_front}
    for name in COLUMNS[len(found) :]:
        value = next((getattr(part, name) for part in (run, run.deployment, run.energy) if hasattr(part, name)), None)
        if value is None and not hasattr(run, name):
            value = run.metrics.get(name)
        if isinstance(value, float):
            value = None if value >= NEVER_MS else float(f"{value:.6g}")
        found[name] = value
    return found
