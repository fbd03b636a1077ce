"""The commands that start a configuration on real machines, with flags that `vllm serve` knows."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.hardware import GpuSpec

FIRST_PORT = 8000
_TORCH_DTYPE = {"bf16": "bfloat16", "fp16": "float16", "fp8": "bfloat16"}


def launch_lines(model: str, deployment: DeploymentSpec, gpu: GpuSpec) -> list[str]:
    """One shell line per replica, then comments on nodes and the router.

    Replicas are separate servers on ports 8000, 8001, ...: unlike `--data-parallel-size`, which makes one
    server balance by itself, this is what was simulated.
    """
    replicas, tp = deployment.replicas, deployment.tensor_parallel_size
    per_node = max(1, gpu.gpus_per_node // tp)
    lines: list[str] = []
    for replica in range(replicas):
        node, place = divmod(replica, per_node)
        if place == 0 and replicas > per_node:
            lines.append(f"# on node {node}:")
        first = place * tp
        devices = ",".join(str(g) for g in range(first, first + tp))
        prefix = f"CUDA_VISIBLE_DEVICES={devices} " if replicas > 1 else ""
        lines.append(prefix + serve_command(model, deployment, port=FIRST_PORT + replica))
    if replicas > 1:
        ports = f"{FIRST_PORT}-{FIRST_PORT + replicas - 1}"
        lines.append(f"# a {deployment.router.replace('_', '-')} load balancer in front of ports {ports}")
    if deployment.scheduler != "vllm":
        lines.append(f"# simulated with the scheduler {deployment.scheduler!r}, which vLLM does not have")
    return lines


def serve_command(model: str, deployment: DeploymentSpec, *, port: int = FIRST_PORT) -> str:
    """`vllm serve` with the simulated limits of one replica."""
    d = deployment
    flags: list[tuple[str, object]] = [
        ("--tensor-parallel-size", d.tensor_parallel_size),
        ("--max-num-batched-tokens", d.max_num_batched_tokens),
        ("--max-num-seqs", d.max_num_seqs),
        ("--gpu-memory-utilization", d.gpu_memory_utilization),
        ("--block-size", d.block_size),
        ("--dtype", _TORCH_DTYPE.get(d.dtype, "auto")),
    ]
    if d.dtype == "fp8":
        flags.append(("--quantization", "fp8"))
    if d.kv_cache_dtype.startswith("fp8"):
        flags.append(("--kv-cache-dtype", "fp8"))
    if d.max_model_len is not None:
        flags.append(("--max-model-len", d.max_model_len))
    if d.num_gpu_blocks is not None:
        flags.append(("--num-gpu-blocks-override", d.num_gpu_blocks))
    flags.append(("--port", port))
    words = [word for flag, value in flags for word in (flag, str(value))]
    return shlex.join(["vllm", "serve", model, *words])
