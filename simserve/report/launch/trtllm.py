"""`trtllm-serve` for each server with its YAML of LLM arguments, and `trtllm-serve disaggregated` over pools.

Names of options and keys are checked against TensorRT-LLM 1.3.0rc27's API reference and public sources, not against an
installed package (`flags/tensorrt_llm-1.3.0rc27.yaml` says what from where); nothing was run.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from simserve.report.launch.document import yaml_text
from simserve.report.launch.framework import (
    comments,
    flags_for,
    knob_remarks,
    max_graph_tokens,
    memory_share,
    moe_split,
    rank_tokens,
    simulated_as,
    simulated_remarks,
    stage_ranks,
    synchronous_remark,
    weights_remark,
)
from simserve.report.launch.names import Known
from simserve.report.launch.placement import ROUTER_PORT, gpus_per_node, node_count, pools, script, servers
from simserve.report.launch.served import Served
from simserve.units import GIB

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

EXPRESSED = frozenset({
    "capacity_policy", "enable_chunked_context", "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio",
    "attention_dp_timeout_iters",
})  # fmt: skip
ROUTERS = {"round_robin": "round_robin", "least_loaded": "load_balancing"}
_NEAREST = {"prefix_affinity": "kv_cache_aware", "least_kv": "load_balancing", "power_of_two": "load_balancing"}
_FOLDER = "cd \"$(dirname \"$0\")\""
DEFAULT_BLOCK = 32  # tokens_per_block [known]
DISAGGREGATED = "trtllm-disaggregated.yaml"


def files(model: Served, run: Outcome) -> dict[str, str]:
    """trtllm.sh, a YAML per pool, and with pools that of the server in front of them."""
    shell = script(_nodes(model, run), remarks(model, run), name="trtllm.sh", before=(_FOLDER,))
    found = {"trtllm.sh": shell}
    for name, pool in pools(run):
        found[_file(name)] = yaml_text(llm_args(pool, name))
    if run.pools:
        found[DISAGGREGATED] = yaml_text(_disaggregated(run), [f"for trtllm-serve disaggregated -c {DISAGGREGATED}"])
    return found


def lines(model: Served, run: Outcome) -> list[str]:
    """The servers' commands, then remarks; the files that they name are in the folder `launch`."""
    nodes = _nodes(model, run)
    found: list[str] = []
    for node, commands in enumerate(nodes):
        found += [*([f"# on node {node}:"] if len(nodes) > 1 else []), *commands]
    return [*found, *remarks(model, run)]


def llm_args(run: Outcome, pool: str = "") -> dict[str, Any]:
    """The LLM arguments of one replica; `pool` is one side of a hand-over."""
    d = run.deployment
    options = dict(d.scheduler_options) if d.scheduler == "trtllm" else {}
    args: dict[str, Any] = {
        "tensor_parallel_size": stage_ranks(d) // d.prefill_context_parallel_size,
        "pipeline_parallel_size": d.pipeline_parallel_size,
        "max_batch_size": d.max_num_seqs,
        "max_num_tokens": d.max_num_batched_tokens,
        "enable_chunked_prefill": bool(options.get("enable_chunked_context", True)),
        "dtype": "float16" if d.dtype == "fp16" else "bfloat16",
        "kv_cache_config": _kv_cache(run),
        "scheduler_config": {
            "capacity_scheduler_policy": str(options.get("capacity_policy", "guaranteed_no_evict")).upper()
        },
        "disable_overlap_scheduler": not d.async_scheduling or (pool != "" and pool != "decode"),
    }
    args |= _parallelism(d)
    if d.max_model_len is not None:
        args["max_seq_len"] = d.max_model_len
    if simulated_as(d) == "trtllm":
        args["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": max_graph_tokens(d)}
    if d.num_speculative_tokens:
        args["speculative_config"] = {"decoding_type": "MTP", "max_draft_len": d.num_speculative_tokens}
    if pool:
        args["cache_transceiver_config"] = {"backend": "NIXL"}
    for name in ("batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"):
        if options.get(name):
            args[name] = options[name]
    if d.data_parallel_size > 1 and options.get("attention_dp_timeout_iters"):
        wait = {"timeout_iters": options["attention_dp_timeout_iters"], "batching_wait_iters": 0}
        args["attention_dp_config"] = {"enable_balance": True, **wait}
    return args


def _parallelism(d: DeploymentSpec) -> dict[str, Any]:
    """What is in use besides tensor and pipeline parallelism."""
    args: dict[str, Any] = {}
    if d.prefill_context_parallel_size > 1:
        args["context_parallel_size"] = d.prefill_context_parallel_size
    if d.data_parallel_size > 1:
        args["enable_attention_dp"] = True
    if d.enable_expert_parallel or d.moe_tensor_parallel_size is not None:
        args["moe_expert_parallel_size"], args["moe_tensor_parallel_size"] = moe_split(d)
    return args


def _kv_cache(run: Outcome) -> dict[str, Any]:
    """The share of what is free where TensorRT-LLM was simulated, tokens where another was or where they were given."""
    d = run.deployment
    own = simulated_as(d) == "trtllm"
    cache: dict[str, Any] = {
        "enable_block_reuse": d.enable_prefix_caching,
        "tokens_per_block": d.block_size if _is_block(d.block_size) else DEFAULT_BLOCK,
        "dtype": "fp8" if d.kv_cache_dtype == "fp8" else "auto",
    }
    if own:
        cache["free_gpu_memory_fraction"] = memory_share(d)
    if d.num_gpu_blocks is not None or not own:
        cache["max_tokens"] = rank_tokens(run)
    if d.offload is not None:
        cache["host_cache_size"] = int(d.offload.dram_gib * GIB) // d.gpus_per_replica
    return cache


def _is_block(size: int) -> bool:
    """Powers of two above one [known]."""
    return size > 1 and not size & (size - 1)


def _file(pool: str) -> str:
    return f"trtllm-{pool or 'engine'}.yaml"


def _nodes(model: Served, run: Outcome) -> list[list[str]]:
    """The commands of each node; the server in front of pools on the first."""
    found = servers(run)
    nodes: list[list[str]] = [[] for _ in range(node_count(found))]
    for server in found:
        words = ["trtllm-serve", model.target, "--host", "0.0.0.0", "--port", str(server.port)]
        words += ["--config", _file(server.pool)]
        nodes[server.node].append(server.visible + shlex.join(words))
        for node in range(server.node + 1, server.node + server.nodes):
            nodes[node].append(f": # the rest of port {server.port}")
    if run.pools:
        nodes[0].append(f"trtllm-serve disaggregated -c {DISAGGREGATED}")
    return nodes


def _disaggregated(run: Outcome) -> dict[str, Any]:
    """Addresses and routers of both pools; nodes beyond the first are called node1, node2."""
    found = servers(run)
    hosts = ["127.0.0.1" if node_count(found) == 1 else f"node{node}" for node in range(node_count(found))]
    config: dict[str, Any] = {"hostname": "0.0.0.0", "port": ROUTER_PORT}
    for name, pool in pools(run):
        urls = [f"{hosts[server.node]}:{server.port}" for server in found if server.pool == name]
        config["generation_servers" if name == "decode" else "context_servers"] = {
            "num_instances": len(urls), "urls": urls, "router": {"type": router(pool.deployment)[0]},
        }  # fmt: skip
    return config


def router(d: DeploymentSpec) -> tuple[str, str]:
    """(type of router, what is different about it or '')."""
    if d.router in ROUTERS:
        return ROUTERS[d.router], ""
    nearest = _NEAREST.get(d.router, "round_robin")
    return nearest, f"simulated router {d.router}: trtllm-serve has no such one, {nearest} is the nearest"


def remarks(model: Served, run: Outcome) -> list[str]:
    """Comments on what differs from the simulation."""
    texts: list[str] = []
    for name, pool in pools(run):
        texts += [*_pool_remarks(name, pool), *engine_remarks(model, pool)]
        if name:
            texts.append(router(pool.deployment)[1])
    if run.pools:
        texts.append(f"clients talk to port {ROUTER_PORT}; in {DISAGGREGATED} put the addresses of node0, node1, ...")
        if any(d.async_scheduling for name, d in run.deployment.engines() if name != "decode"):
            texts.append("simulated with scheduling ahead in the prefill pool, which context servers do not have")
    texts.append(model.remark)
    if not all(d.async_scheduling for _, d in run.deployment.engines()):
        texts.append(synchronous_remark("trtllm", "disable_overlap_scheduler"))
    return comments([*texts, *simulated_remarks("trtllm", run, flags_for("trtllm", run.deployment))])


def _pool_remarks(name: str, pool: Outcome) -> list[str]:
    d, texts = pool.deployment, list[str]()
    if d.replicas > 1 and not name:
        texts.append(f"a {d.router.replace('_', '-')} load balancer in front of ports 8000-{8000 + d.replicas - 1}")
    if d.gpus_per_replica > gpus_per_node(pool):
        texts.append("one server over several nodes: start it under mpirun or srun with trtllm-llmapi-launch in front")
    return texts


def engine_remarks(model: Served, pool: Outcome) -> list[str]:
    """What the engine of one pool is not told."""
    d, texts = pool.deployment, list[str]()
    if d.scheduler != "trtllm":
        texts.append(f"simulated with the scheduler {d.scheduler!r}, which TensorRT-LLM does not have")
    if d.data_parallel_size > 1 and d.tensor_parallel_size > 1:
        texts.append(
            f"simulated with {d.data_parallel_size} attention groups of {d.tensor_parallel_size} ranks; "
            f"enable_attention_dp makes every one of {stage_ranks(d)} ranks a group"
        )
    if not _is_block(d.block_size):
        texts.append(f"simulated with blocks of {d.block_size} tokens; TensorRT-LLM's are powers of two above one")
    if d.decode_context_parallel_size > 1:
        texts.append(f"simulated with decode context parallelism over {d.decode_context_parallel_size} ranks; not set")
    if d.data_parallel_size > 1 and d.all2all_backend != "allgather_reducescatter":
        texts.append(f"simulated with the exchange {d.all2all_backend}; TensorRT-LLM chooses its own")
    if d.offload is not None and d.offload.ssd_gib:
        texts.append("the SSD tier of the simulated offload is kv_cache_config.disk_cache_size, not set here")
    if d.num_gpu_blocks is not None or simulated_as(d) != "trtllm":
        texts.append("kv_cache_config.max_tokens is the simulated KV cache of a rank; less if the memory holds less")
    texts.append(weights_remark("trtllm", d, model.target, {})[1])
    return [*texts, *knob_remarks(d, EXPRESSED if d.scheduler == "trtllm" else frozenset())]


def table(run: Outcome) -> Known:
    """The table that the files were made for."""
    return flags_for("trtllm", run.deployment)
