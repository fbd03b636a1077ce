"""Measured points: one row per run of a server at one load, as CSV with the columns of `Point`.

Needed: model, gpu, concurrency, prompt_tokens, output_tokens, and one of ttft_ms, tpot_ms, e2e_ms. The run is a closed
loop of `concurrency` clients and `requests` requests (0: ten per client), whose lengths are uniform between
`least_share` of prompt_tokens and output_tokens and all of them, without shared prefixes; TTFT, TPOT and E2E are means
over requests. rate_rps above 0: not a closed loop but Poisson arrivals at that rate. distinct_prompts above 0: clients
went through so many prompts again and again, and the engine cached prefixes. gpu_memory_utilization 0 and max_num_seqs
0: the engine's own; scheduler_options: knobs of the engine's scheduler, as in
'scheduler_recv_interval=10; max_prefill_tokens=16384'. prefill_replicas above 0: so many servers run the prompts, of
the sizes with prefill_, and `replicas` servers decode. engine: the profile, where it is not the framework's.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from simserve.accuracy.table import Kind, read_rows

NEEDED = ("model", "gpu", "concurrency", "prompt_tokens", "output_tokens")
MEASURED = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point; ttft_ms, tpot_ms, e2e_ms: None where not measured. `obstacle`: why it cannot be predicted."""

    model: str
    gpu: str
    concurrency: int
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    id: str = ""
    framework: str = ""
    version: str = ""
    requests: int = 0
    least_share: float = 0.8
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    enable_expert_parallel: bool = False
    moe_tensor_parallel_size: int = 0
    dtype: str = "bf16"
    moe_dtype: str = ""
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 0
    gpu_memory_utilization: float = 0.0
    scheduler_options: str = ""
    num_speculative_tokens: int = 0
    acceptance_rate: float = 0.7
    rate_rps: float = 0.0
    distinct_prompts: int = 0
    replicas: int = 1
    prefill_replicas: int = 0
    prefill_tensor_parallel_size: int = 1
    prefill_data_parallel_size: int = 1
    prefill_enable_expert_parallel: bool = False
    engine: str = ""
    obstacle: str = ""

    @property
    def num_gpus(self) -> int:
        """GPUs of all servers."""
        prefill = self.prefill_replicas * self.prefill_tensor_parallel_size * self.prefill_data_parallel_size
        return self.replicas * self.tensor_parallel_size * self.data_parallel_size + prefill

    @property
    def mode(self) -> str:
        """Whether prompts run on servers of their own."""
        return "disaggregated" if self.prefill_replicas else "aggregated"

    @property
    def scenario(self) -> tuple[str, str, str, int, int]:
        """Points that differ in configuration and load alone; disaggregated ones are scenarios of their own."""
        framework = f"{self.framework} {self.mode}" if self.prefill_replicas else self.framework
        return self.model, self.gpu, framework, self.prompt_tokens, self.output_tokens

    @property
    def group(self) -> tuple[object, ...]:
        """What makes two points the same measurement, repeated."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in ("id", *MEASURED))


KIND = Kind(Point, NEEDED, (*NEEDED, *MEASURED), MEASURED, derived=("obstacle",))


def read_points(path: Path) -> list[Point]:
    """Points of a CSV; SpecError names line and column of what is wrong."""
    return read_rows(path, KIND).rows
