"""`vllm serve` for each server of a deployment; pools hand KV over by NIXL.

Flags checked: vLLM 0.19.0, 0.24.0, 0.31.0 and 0.33.0 of PyPI, by name; no server was started.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from simserve.report.launch.framework import (
    comments,
    flags_for,
    knob_remarks,
    memory_share,
    rank_tokens,
    simulated_as,
    simulated_remarks,
    synchronous_remark,
    weights_remark,
)
from simserve.report.launch.names import Command, Known
from simserve.report.launch.placement import FIRST_PORT, gpus_per_node, node_count, pools, script, servers
from simserve.report.launch.served import Served

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

SIDE_PORT = 5600
BLOCK = 16  # tokens; FlashAttention takes multiples of it [known]
NIXL = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
EXPRESSED = frozenset({"policy", "long_prefill_token_threshold", "scheduler_reserve_full_isl", "watermark"})
_TORCH_DTYPE = {"fp16": "float16"}  # all others compute what is not quantised in bfloat16
_ONLINE = {"fp8": "fp8", "fp8_block": "fp8_per_block"}
_PROXY = (
    "in front of the pools a proxy that sends a request to a prefill port first and then to a decode port, e.g. "
    "vLLM's tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"
)
_MANY_NODES = (
    "one server over several nodes: start a Ray cluster over them and add --distributed-executor-backend ray, or "
    "add --nnodes, --node-rank and --master-addr on each"
)
_RANKS_ON_NODES = (
    "data-parallel ranks on several nodes: the same command on each, with --data-parallel-size-local for the ranks "
    "there, --data-parallel-address of the first, and on the others --headless and --data-parallel-start-rank"
)
_CAPPED = (
    "--max-model-len is all that the simulated KV cache holds; if vLLM finds less memory it says how far to lower it"
)


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
    return [*lines, *remarks(model, run)]


def launch_script(model: Served, run: Outcome, *, name: str = "launch.sh") -> str:
    """The launch lines as a shell script; over several nodes it takes the number of the node that it runs on."""
    return script(_nodes(model, run), remarks(model, run), name=name)


def serve_command(model: Served, run: Outcome, *, port: int = FIRST_PORT) -> str:
    """`vllm serve` with the simulated limits of one replica."""
    return _line(model, engine(model, run), port)


def _line(model: Served, flags: Command, port: int) -> str:
    return shlex.join(["vllm", "serve", model.target, *flags.words, "--port", str(port)])


def engine(model: Served, run: Outcome, table: Known | None = None) -> Command:
    """The engine's flags for one replica, without model and port; `run.pools` says that KV is handed over."""
    d = run.deployment
    command = Command(table or flags_for("vllm", d), "serve")
    command.add("--tensor-parallel-size", d.tensor_parallel_size)
    _parallelism(command, d)
    command.add("--max-num-batched-tokens", d.max_num_batched_tokens)
    command.add("--max-num-seqs", d.max_num_seqs)
    _memory(command, run)
    if _is_block(d):
        command.add("--block-size", d.block_size)
    else:
        command.remark(f"simulated with blocks of {d.block_size} tokens; vLLM's are multiples of {BLOCK}")
    command.add("--dtype", _TORCH_DTYPE.get(d.dtype, "bfloat16"))
    quantization, text = weights_remark("vllm", d, model.target, _ONLINE)
    if quantization:
        command.add("--quantization", quantization)
    command.remark(text)
    if d.enable_expert_parallel:
        command.add("--enable-expert-parallel")
    if d.kv_cache_dtype.startswith("fp8"):
        command.add("--kv-cache-dtype", "fp8")
    if (longest := _max_model_len(model, run)) is not None:
        command.add("--max-model-len", longest)
    _blocks(command, run)
    command.add("--enable-prefix-caching" if d.enable_prefix_caching else "--no-enable-prefix-caching")
    if d.offload is not None:
        command.add("--kv-offloading-backend", "native")
        command.add("--kv-offloading-size", f"{d.offload.dram_gib:g}")
    if run.pools:
        command.add("--kv-transfer-config", NIXL)
    if d.num_speculative_tokens:
        drafts = {"method": "mtp", "num_speculative_tokens": d.num_speculative_tokens}
        command.add("--speculative-config", json.dumps(drafts))
    _scheduler(command, d)
    command.add("--async-scheduling" if d.async_scheduling else "--no-async-scheduling")
    return command


def _memory(command: Command, run: Outcome) -> None:
    """The share of memory, which means something else under other frameworks: there the blocks are set."""
    if simulated_as(run.deployment) == "vllm":
        command.add("--gpu-memory-utilization", memory_share(run.deployment))


def _blocks(command: Command, run: Outcome) -> None:
    d = run.deployment
    if d.num_gpu_blocks is not None:
        command.add("--num-gpu-blocks-override", d.num_gpu_blocks)
    elif simulated_as(d) != "vllm":
        size = d.kv_block_tokens if _is_block(d) else d.kv_block_tokens // d.block_size * BLOCK
        command.add("--num-gpu-blocks-override", rank_tokens(run) // size + 1)
        command.remark("--num-gpu-blocks-override is the simulated KV cache, whatever memory there is")


def _is_block(d: DeploymentSpec) -> bool:
    """Whether the attention kernels take blocks of that size; vLLM's own is believed."""
    return simulated_as(d) == "vllm" or d.block_size % BLOCK == 0


def _scheduler(command: Command, d: DeploymentSpec) -> None:
    """Options of the simulated scheduler that are flags."""
    options = dict(d.scheduler_options) if d.scheduler == "vllm" else {}
    if "policy" in options:
        command.add("--scheduling-policy", options["policy"])
    if options.get("long_prefill_token_threshold"):
        command.add("--long-prefill-token-threshold", options["long_prefill_token_threshold"])
    if "scheduler_reserve_full_isl" in options:
        command.add(f"--{'' if options['scheduler_reserve_full_isl'] else 'no-'}scheduler-reserve-full-isl")
    if options.get("watermark"):
        command.add("--watermark", options["watermark"])


def _parallelism(command: Command, d: DeploymentSpec) -> None:
    """Flags of the parallelisms other than tensor and expert parallelism that are in use."""
    sizes = {
        "data": d.data_parallel_size, "pipeline": d.pipeline_parallel_size,
        "prefill-context": d.prefill_context_parallel_size, "decode-context": d.decode_context_parallel_size,
    }  # fmt: skip
    for name, size in sizes.items():
        if size > 1:
            command.add(f"--{name}-parallel-size", size)
    if d.data_parallel_size > 1 and d.all2all_backend != "allgather_reducescatter":
        command.add("--all2all-backend", d.all2all_backend)


def _max_model_len(model: Served, run: Outcome) -> int | None:
    """As asked; else what the KV cache holds where that is less than the model's context, which vLLM refuses."""
    if run.deployment.max_model_len is not None:
        return run.deployment.max_model_len
    capacity = run.deployment.kv_capacity(run.num_gpu_blocks)
    return capacity if model.context_tokens is not None and model.context_tokens > capacity else None


def _nodes(model: Served, run: Outcome) -> list[list[str]]:
    """The commands of each node."""
    found = servers(run)
    nodes: list[list[str]] = [[] for _ in range(node_count(found))]
    engines = {name: engine(model, pool) for name, pool in pools(run)}
    for server in found:
        prefix = server.visible
        if run.pools:
            prefix += f"VLLM_NIXL_SIDE_CHANNEL_PORT={SIDE_PORT + server.place} "
        nodes[server.node].append(prefix + _line(model, engines[server.pool], server.port))
        for node in range(server.node + 1, server.node + server.nodes):
            nodes[node].append(f": # the rest of port {server.port}")
    return nodes


def remarks(model: Served, run: Outcome) -> list[str]:
    """Comments: the router, and where the command alone does not say what was simulated."""
    lines, later, port = list[str](), list[str](), FIRST_PORT
    for name, pool in pools(run):
        d = pool.deployment
        ports = f"{port}-{port + d.replicas - 1}" if d.replicas > 1 else f"{port}"
        port += d.replicas
        if run.pools:
            lines.append(f"pool {name}: {d.router.replace('_', '-')} over port {ports}")
        elif d.replicas > 1:
            lines.append(f"a {d.router.replace('_', '-')} load balancer in front of ports {ports}{_spread(pool)}")
        lines += _differences(pool)
        later += [*engine(model, pool).remarks, *knob_remarks(d, EXPRESSED if d.scheduler == "vllm" else frozenset())]
    if run.pools:
        lines.append(_PROXY)
    lines.append(model.remark)
    if run.deployment.max_model_len is None and _max_model_len(model, run) is not None:
        lines.append(_CAPPED)
    if not all(d.async_scheduling for _, d in run.deployment.engines()):
        lines.append(synchronous_remark("vllm", "--no-async-scheduling"))
    return comments([*lines, *later, *simulated_remarks("vllm", run, flags_for("vllm", run.deployment))])


def _spread(pool: Outcome) -> str:
    per_node = max(1, gpus_per_node(pool) // pool.deployment.gpus_per_replica)
    return f", {per_node} on each node" if pool.deployment.replicas > per_node else ""


def _differences(pool: Outcome) -> list[str]:
    """Of one pool: nodes, experts, scheduler, SSD."""
    d, lines = pool.deployment, list[str]()
    if d.gpus_per_replica > gpus_per_node(pool):
        lines.append(_RANKS_ON_NODES if d.data_parallel_size > 1 else _MANY_NODES)
    if d.moe_tensor_parallel_size is not None:
        lines.append(
            f"simulated with each expert split over {d.moe_tensor_parallel_size} ranks, for which `vllm serve` has no "
            "flag"
        )
    if d.scheduler != "vllm":
        lines.append(f"simulated with the scheduler {d.scheduler!r}, which `vllm serve` does not have")
    if d.offload is not None and d.offload.ssd_gib:
        lines.append("the SSD tier of the simulated offload needs a connector such as LMCache in its place")
    return lines
