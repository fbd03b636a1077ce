"""The commands that start a configuration on real machines, with flags that `vllm serve` knows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simserve.search.objective import Outcome
    from simserve.spec.hardware import GpuSpec

FIRST_PORT = 8000
_TORCH_DTYPE = {"bf16": "bfloat16", "fp16": "float16", "fp8": "bfloat16"}
_SYNCHRONOUS = (
    "# --no-async-scheduling: simulated is one step after another; vLLM 0.14 and later overlap scheduling with the "
    "step before unless told not to"
)
_CAPPED = (
    "# --max-model-len is all that the simulated KV cache holds; if vLLM finds less memory it says how far to lower it"
)


@dataclass(frozen=True)
class Served:
    """What `vllm serve` loads.

    target: its argument, a Hugging Face id or a folder; context_tokens: the model's own limit, None if unknown;
    remark: what the user has to put there or to check, '' for nothing.
    """

    target: str
    context_tokens: int | None = None
    remark: str = ""


def served_model(provenance: Mapping[str, Any]) -> Served:
    """The model of a result; one that was read from a file is served from where that file lies."""
    model = provenance["model"]
    name, context = str(model["name"]), model.get("max_position_embeddings")
    given = str(provenance.get("study", {}).get("model", name))
    path = Path(given).expanduser()
    imported = path.suffix == ".json" or (path / "config.json").is_file()
    if "/" in name or not (imported or path.suffix in (".yaml", ".yml")):
        return Served(name, context)
    if imported and (path.name == "config.json" or path.suffix != ".json"):
        folder = str(path.parent if path.name == "config.json" else path)
        return Served(folder, context, f"# {folder} has to hold the weights and the tokenizer beside config.json")
    remark = f"# {name} is described in {given}: put the checkpoint's folder or Hugging Face id in its place"
    return Served(name, context, remark)


def launch_lines(model: Served, run: Outcome, gpu: GpuSpec) -> list[str]:
    """One shell line per replica, then comments on what differs from a plain `vllm serve`, and on the router.

    Replicas are separate servers on ports 8000, 8001, ...: unlike `--data-parallel-size`, which makes one
    server balance by itself, this is what was simulated.
    """
    nodes = _nodes(model, run, gpu)
    lines: list[str] = []
    for node, commands in enumerate(nodes):
        if len(nodes) > 1:
            lines.append(f"# on node {node}:")
        lines += commands
    return [*lines, *_remarks(model, run, gpu)]


def launch_script(model: Served, run: Outcome, gpu: GpuSpec) -> str:
    """The launch lines as a shell script; over several nodes it takes the number of the node that it runs on."""
    nodes, remarks = _nodes(model, run, gpu), _remarks(model, run, gpu)
    if len(nodes) == 1:
        return "\n".join(["#!/bin/sh", *remarks, *_side_by_side(nodes[0])]) + "\n"
    lines = ["#!/bin/sh", f"# on every node: launch.sh NODE, where NODE is 0 to {len(nodes) - 1}", *remarks]
    lines.append('case "$1" in')
    for node, commands in enumerate(nodes):
        lines += [f"{node})", *(f"  {line}" for line in _side_by_side(commands)), "  ;;"]
    usage = f"usage: launch.sh NODE, where NODE is 0 to {len(nodes) - 1}"
    lines += ["*)", f'  echo "{usage}" >&2', "  exit 2", "  ;;", "esac"]
    return "\n".join(lines) + "\n"


def serve_command(model: Served, run: Outcome, *, port: int = FIRST_PORT) -> str:
    """`vllm serve` with the simulated limits of one replica."""
    from simserve.spec.model import has_fp8_weights

    d = run.deployment
    words: list[object] = [
        "--tensor-parallel-size", d.tensor_parallel_size,
        "--max-num-batched-tokens", d.max_num_batched_tokens,
        "--max-num-seqs", d.max_num_seqs,
        "--gpu-memory-utilization", d.gpu_memory_utilization,
        "--block-size", d.block_size,
        "--dtype", _TORCH_DTYPE.get(d.dtype, "auto"),
    ]  # fmt: skip
    if d.dtype == "fp8" and not has_fp8_weights(model.target):
        words += ["--quantization", "fp8"]
    if d.kv_cache_dtype.startswith("fp8"):
        words += ["--kv-cache-dtype", "fp8"]
    if (longest := _max_model_len(model, run)) is not None:
        words += ["--max-model-len", longest]
    if d.num_gpu_blocks is not None:
        words += ["--num-gpu-blocks-override", d.num_gpu_blocks]
    words.append("--enable-prefix-caching" if d.enable_prefix_caching else "--no-enable-prefix-caching")
    words += ["--no-async-scheduling", "--port", port]
    return shlex.join(["vllm", "serve", model.target, *map(str, words)])


def _max_model_len(model: Served, run: Outcome) -> int | None:
    """As asked; else what the KV cache holds where that is less than the model's context, which vLLM refuses."""
    if run.deployment.max_model_len is not None:
        return run.deployment.max_model_len
    capacity = _capacity(run)
    return capacity if model.context_tokens is not None and model.context_tokens > capacity else None


def _capacity(run: Outcome) -> int:
    """Tokens that the KV cache of one replica holds; one block is vLLM's own."""
    return (run.num_gpu_blocks - 1) * run.deployment.block_size


def _per_node(run: Outcome, gpu: GpuSpec) -> int:
    return max(1, gpu.gpus_per_node // run.deployment.tensor_parallel_size)


def _nodes(model: Served, run: Outcome, gpu: GpuSpec) -> list[list[str]]:
    """The commands of each node, every server on GPUs of its own."""
    replicas, tp = run.deployment.replicas, run.deployment.tensor_parallel_size
    per_node = _per_node(run, gpu)
    nodes: list[list[str]] = [[] for _ in range(-(-replicas // per_node))]
    for replica in range(replicas):
        node, place = divmod(replica, per_node)
        devices = ",".join(str(g) for g in range(place * tp, (place + 1) * tp))
        prefix = f"CUDA_VISIBLE_DEVICES={devices} " if replicas > 1 else ""
        nodes[node].append(prefix + serve_command(model, run, port=FIRST_PORT + replica))
    return nodes


def _remarks(model: Served, run: Outcome, gpu: GpuSpec) -> list[str]:
    """Comments: the router, and where the command alone does not say what was simulated."""
    d, lines = run.deployment, []
    if d.replicas > 1:
        ports = f"{FIRST_PORT}-{FIRST_PORT + d.replicas - 1}"
        spread = f", {_per_node(run, gpu)} on each node" if d.replicas > _per_node(run, gpu) else ""
        lines.append(f"# a {d.router.replace('_', '-')} load balancer in front of ports {ports}{spread}")
    if model.remark:
        lines.append(model.remark)
    if d.max_model_len is None and _max_model_len(model, run) is not None:
        lines.append(_CAPPED)
    lines.append(_SYNCHRONOUS)
    if d.scheduler != "vllm":
        lines.append(f"# simulated with the scheduler {d.scheduler!r}, which `vllm serve` does not have")
    return [" ".join(line.split()) for line in lines]


def _side_by_side(commands: list[str]) -> list[str]:
    """Several servers of one machine run in the background."""
    return commands if len(commands) < 2 else [*(f"{command} &" for command in commands), "wait"]
