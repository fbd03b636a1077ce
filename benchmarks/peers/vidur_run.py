"""Plays one load through Vidur; run by the Python that has Vidur: `python -I vidur_run.py FOLDER`.

FOLDER holds job.json and trace.csv (see `vidur.py`) and receives result.json. Vidur looks execution times up in
tables, which it downloads or else fits to profiles. Here they come with the job and take the place of the download,
so neither is timed. Timed is `Simulator.run()`: the event loop, with metrics, plots and traces switched off.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vidur.config import CacheConfig, ClusterConfig, MetricsConfig, ReplicaConfig, SimulationConfig
from vidur.config.config import (
    RandomForrestExecutionTimePredictorConfig,
    SarathiSchedulerConfig,
    TraceRequestGeneratorConfig,
)
from vidur.entities import Batch
from vidur.execution_time_predictor.sklearn_execution_time_predictor import SklearnExecutionTimePredictor
from vidur.simulator import Simulator


def configuration(folder: Path, job: dict[str, Any]) -> SimulationConfig:
    """One replica with chunked prefill, as close to vLLM's scheduler as Vidur has it."""
    metrics = MetricsConfig(
        write_metrics=False, enable_chrome_trace=False, store_plots=False, output_dir=str(folder / "output")
    )
    return SimulationConfig(
        cluster_config=ClusterConfig(
            replica_config=ReplicaConfig(model_name=job["model"], num_pipeline_stages=1, tensor_parallel_size=1),
            cache_config=CacheConfig(
                block_size=job["block_size"], num_blocks=job["num_blocks"], watermark_blocks_fraction=0.0
            ),
            replica_scheduler_config=SarathiSchedulerConfig(
                batch_size_cap=job["max_num_seqs"], chunk_size=job["max_num_batched_tokens"]
            ),
        ),
        request_generator_config=TraceRequestGeneratorConfig(
            trace_file=str(folder / "trace.csv"), date=job["date"], max_tokens=job["max_tokens"],
            prefill_scale_factor=1.0, decode_scale_factor=1.0, time_scale_factor=1.0,
        ),
        execution_time_predictor_config=RandomForrestExecutionTimePredictorConfig(
            cache_dir=str(folder / "cache"), attention_decode_batching_overhead_fraction=0.0,
            kv_cache_prediction_granularity=job["granularity"], prediction_max_batch_size=job["max_num_seqs"],
            prediction_max_prefill_chunk_size=job["max_num_batched_tokens"],
            prediction_max_tokens_per_request=job["max_tokens"],
            use_native_execution_time_predictor=True,
        ),
        metrics_config=metrics,
    )  # fmt: skip


def main(folder: Path) -> None:
    """Build the simulator, time its event loop, write what came out."""
    job = json.loads((folder / "job.json").read_text())
    tables = {name: {tuple(key): ms for key, ms in rows} for name, rows in job["tables"].items()}
    SklearnExecutionTimePredictor._load_predictions_from_hf = lambda self: tables
    simulator = Simulator(configuration(folder, job))
    requests = [event._request for _, event in simulator._event_queue]
    begin = time.perf_counter()
    simulator.run()
    wall = time.perf_counter() - begin
    result = {
        "simulator": f"Vidur {version('vidur')}",
        "wall_s": wall,
        "steps": Batch.generate_id(),
        "latency_s": sum(r.completed_at - r.arrived_at for r in requests) / len(requests),
        "preemptions": sum(r.num_restarts for r in requests),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
