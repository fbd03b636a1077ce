"""The commands that start a configuration on real machines, with flags that `vllm serve` knows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simserve.search.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

FIRST_PORT, SIDE_PORT = 8000, 5600
_TORCH_DTYPE = {"fp16": "float16"}  # all others compute what is not quantised in bfloat16
_NIXL = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
_PROXY = (
    "# in front of the pools a proxy that sends a request to a prefill port first and then to a decode port, e.g. "
    "vLLM's tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"
)
_SYNCHRONOUS = (
    "# --no-async-scheduling: simulated is one step after another; vLLM 0.14 and later overlap scheduling with the "
    "step before unless told not to"
)
_MANY_NODES = (
    "# one server over several nodes: start a Ray cluster over them and add --distributed-executor-backend ray, or "
    "add --nnodes, --node-rank and --master-addr on each"
)
_RANKS_ON_NODES = (
    "# data-parallel ranks on several nodes: the same command on each, with --data-parallel-size-local for the ranks "
    "there, --data-parallel-address of the first, and on the others --headless and --data-parallel-start-rank"
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


def launch_lines(model: Served, run: Outcome) -> list[str]:
    """One shell line per replica, then comments on what differs from a plain `vllm serve`, and on the router.

    Replicas are separate servers on ports 8000, 8001, ...: unlike `--data-parallel-size`, which makes one
    server balance by itself, this is what was simulated.
    """
    nodes = _nodes(model, run)
    lines: list[str] = []
    for node, commands in enumerate(nodes):
        if len(nodes) > 1:
            lines.append(f"# on node {node}:")
        lines += commands
    return [*lines, *_remarks(model, run)]


def launch_script(model: Served, run: Outcome) -> str:
    """The launch lines as a shell script; over several nodes it takes the number of the node that it runs on."""
    nodes, remarks = _nodes(model, run), _remarks(model, run)
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
    from simserve.build import memory_share
    from simserve.spec.hardware import load_gpu
    from simserve.spec.model import has_fp8_weights

    d = run.deployment
    words: list[object] = [
        "--tensor-parallel-size", d.tensor_parallel_size, *_parallelism(d),
        "--max-num-batched-tokens", d.max_num_batched_tokens,
        "--max-num-seqs", d.max_num_seqs,
        "--gpu-memory-utilization", memory_share(d, load_gpu(d.gpu)),
        "--block-size", d.block_size,
        "--dtype", _TORCH_DTYPE.get(d.dtype, "bfloat16"),
    ]  # fmt: skip
    if d.dtype == "fp8" and not has_fp8_weights(model.target):
        words += ["--quantization", "fp8"]
    if d.enable_expert_parallel:
        words.append("--enable-expert-parallel")
    if d.kv_cache_dtype.startswith("fp8"):
        words += ["--kv-cache-dtype", "fp8"]
    if (longest := _max_model_len(model, run)) is not None:
        words += ["--max-model-len", longest]
    if d.num_gpu_blocks is not None:
        words += ["--num-gpu-blocks-override", d.num_gpu_blocks]
    words.append("--enable-prefix-caching" if d.enable_prefix_caching else "--no-enable-prefix-caching")
    if d.offload is not None:
        words += ["--kv-offloading-backend", "native", "--kv-offloading-size", f"{d.offload.dram_gib:g}"]
    if run.pools:
        words += ["--kv-transfer-config", _NIXL]
    if d.num_speculative_tokens:
        drafts = {"method": "mtp", "num_speculative_tokens": d.num_speculative_tokens}
        words += ["--speculative-config", json.dumps(drafts)]
    words += ["--async-scheduling" if d.async_scheduling else "--no-async-scheduling", "--port", port]
    return shlex.join(["vllm", "serve", model.target, *map(str, words)])


def _parallelism(d: DeploymentSpec) -> list[object]:
    """Flags of the parallelisms other than tensor and expert parallelism that are in use."""
    sizes = {
        "data": d.data_parallel_size, "pipeline": d.pipeline_parallel_size,
        "prefill-context": d.prefill_context_parallel_size, "decode-context": d.decode_context_parallel_size,
    }  # fmt: skip
    words: list[object] = []
    for name, size in sizes.items():
        if size > 1:
            words += [f"--{name}-parallel-size", size]
    if d.data_parallel_size > 1 and d.all2all_backend != "allgather_reducescatter":
        words += ["--all2all-backend", d.all2all_backend]
    return words


def _max_model_len(model: Served, run: Outcome) -> int | None:
    """As asked; else what the KV cache holds where that is less than the model's context, which vLLM refuses."""
    if run.deployment.max_model_len is not None:
        return run.deployment.max_model_len
    capacity = _capacity(run)
    return capacity if model.context_tokens is not None and model.context_tokens > capacity else None


def _capacity(run: Outcome) -> int:
    """Tokens that the KV cache of one replica holds; one block is vLLM's own."""
    return run.deployment.kv_capacity(run.num_gpu_blocks)


def _gpus_per_node(run: Outcome) -> int:
    from simserve.spec.hardware import load_gpu

    return load_gpu(run.deployment.gpu).gpus_per_node


def _per_node(run: Outcome) -> int:
    return max(1, _gpus_per_node(run) // run.deployment.gpus_per_replica)


def _pools(run: Outcome) -> list[tuple[str, Outcome]]:
    """(name, the run as if that pool were all of it); the run itself under no name without pools."""
    if not run.pools:
        return [("", run)]
    blocks = {pool["name"]: pool["num_gpu_blocks"] for pool in run.pools}
    return [
        (name, replace(run, deployment=engine, num_gpu_blocks=blocks[name]))
        for name, engine in run.deployment.engines()
    ]


def _nodes(model: Served, run: Outcome) -> list[list[str]]:
    """The commands of each node, every server on GPUs of its own; a new GPU type begins a new node."""
    nodes: list[list[str]] = []
    port, used, gpu, alone = FIRST_PORT, 0, "", run.num_gpus == run.deployment.gpus_per_replica
    for _, pool in _pools(run):
        width = min(pool.deployment.gpus_per_replica, _gpus_per_node(pool))
        for _ in range(pool.deployment.replicas):
            if pool.deployment.gpu != gpu or used + width > _gpus_per_node(pool):
                nodes.append([])
                gpu, used = pool.deployment.gpu, 0
            devices = ",".join(str(g) for g in range(used, used + width))
            prefix = "" if alone else f"CUDA_VISIBLE_DEVICES={devices} "
            if run.pools:
                prefix += f"VLLM_NIXL_SIDE_CHANNEL_PORT={SIDE_PORT + len(nodes[-1])} "
            nodes[-1].append(prefix + serve_command(model, pool, port=port))
            port, used = port + 1, used + width
    return nodes


def _remarks(model: Served, run: Outcome) -> list[str]:
    """Comments: the router, and where the command alone does not say what was simulated."""
    lines, port = [], FIRST_PORT
    for name, pool in _pools(run):
        d = pool.deployment
        ports = f"{port}-{port + d.replicas - 1}" if d.replicas > 1 else f"{port}"
        port += d.replicas
        if run.pools:
            lines.append(f"# pool {name}: {d.router.replace('_', '-')} over port {ports}")
        elif d.replicas > 1:
            spread = f", {_per_node(pool)} on each node" if d.replicas > _per_node(pool) else ""
            lines.append(f"# a {d.router.replace('_', '-')} load balancer in front of ports {ports}{spread}")
        if d.gpus_per_replica > _gpus_per_node(pool):
            lines.append(_RANKS_ON_NODES if d.data_parallel_size > 1 else _MANY_NODES)
        if d.moe_tensor_parallel_size is not None:
            lines.append(
                f"# simulated with each expert split over {d.moe_tensor_parallel_size} ranks, for which `vllm serve` "
                "has no flag"
            )
        if d.scheduler != "vllm":
            lines.append(f"# simulated with the scheduler {d.scheduler!r}, which `vllm serve` does not have")
        if d.offload is not None and d.offload.ssd_gib:
            lines.append("# the SSD tier of the simulated offload needs a connector such as LMCache in its place")
    if run.pools:
        lines.append(_PROXY)
    if model.remark:
        lines.append(model.remark)
    if run.deployment.max_model_len is None and _max_model_len(model, run) is not None:
        lines.append(_CAPPED)
    if not all(d.async_scheduling for _, d in run.deployment.engines()):
        lines.append(_SYNCHRONOUS)
    return [" ".join(line.split()) for line in lines]


def _side_by_side(commands: list[str]) -> list[str]:
    """Several servers of one machine run in the background."""
    return commands if len(commands) < 2 else [*(f"{command} &" for command in commands), "wait"]
