"""`python -m sglang.launch_server` for each server, and `sglang_router` in front.

Flags checked: SGLang 0.5.21 and 0.5.23, sglang-router 0.3.2 of PyPI (the router parsed its command); not run. With
attention data parallelism SGLang divides limits among the ranks, so those of all ranks are set, and it
multiplies the conservativeness by 0.3 [known].
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

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
from simserve.report.launch.names import Command, Known, known
from simserve.report.launch.placement import ROUTER_PORT, Server, address, node_count, pools, script, servers
from simserve.report.launch.served import Served
from simserve.units import GIB

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.spec.deployment import DeploymentSpec

BOOTSTRAP_PORT, RENDEZVOUS_PORT = 8998, 20000
DP_CONSERVATIVENESS = 0.3  # factor of SGLang with attention data parallelism [known]
EXPRESSED = frozenset({
    "max_prefill_tokens", "chunked_prefill", "enable_mixed_chunk", "schedule_policy", "schedule_conservativeness",
    "scheduler_recv_interval",
})  # fmt: skip
POLICIES = {"round_robin": "round_robin", "random": "random", "power_of_two": "power_of_two"}
_NEAREST = {"least_loaded": "power_of_two", "least_kv": "power_of_two", "prefix_affinity": "cache_aware",
            "session_affinity": "manual"}  # fmt: skip
_DTYPE = {"fp16": "float16"}
_DEEPEP = {"deepep_high_throughput": "normal", "deepep_low_latency": "low_latency"}


def lines(model: Served, run: Outcome) -> list[str]:
    """The servers' commands and the router's, then remarks."""
    nodes = _nodes(model, run)
    found: list[str] = []
    for node, commands in enumerate(nodes):
        found += [*([f"# on node {node}:"] if len(nodes) > 1 else []), *commands]
    return [*found, *remarks(model, run)]


def files(model: Served, run: Outcome) -> dict[str, str]:
    """sglang.sh."""
    nodes = _nodes(model, run)
    before = () if len(nodes) == 1 else tuple(
        f': "${{NODE{node}:?address of node {node}}}"' for node in range(len(nodes))
    )  # fmt: skip
    return {"sglang.sh": script(nodes, remarks(model, run), name="sglang.sh", before=before)}


def engine(model: Served, run: Outcome, table: Known | None = None) -> Command:
    """The engine's flags for one replica, without model and port."""
    d = run.deployment
    command = Command(table or flags_for("sglang", d), "serve")
    _parallelism(command, d)
    _limits(command, d)
    _memory(command, run)
    command.add("--page-size", d.block_size)
    command.add("--dtype", _DTYPE.get(d.dtype, "bfloat16"))
    quantization, text = weights_remark("sglang", d, model.target, {"fp8": "fp8"})
    if quantization:
        command.add("--quantization", quantization)
    command.remark(text)
    if d.kv_cache_dtype == "fp8":
        command.add("--kv-cache-dtype", "fp8_e4m3")
    if d.max_model_len is not None:
        command.add("--context-length", d.max_model_len)
    if not d.enable_prefix_caching:
        command.add("--disable-radix-cache")
    _offload(command, d)
    if d.num_speculative_tokens:
        command.add("--speculative-algorithm", "NEXTN")
        command.add("--speculative-num-steps", d.num_speculative_tokens)
        command.add("--speculative-eagle-topk", 1)
        command.add("--speculative-num-draft-tokens", d.num_speculative_tokens + 1)
    if not d.async_scheduling:
        command.add("--disable-overlap-schedule")
    return command


def _parallelism(command: Command, d: DeploymentSpec) -> None:
    """SGLang's tp-size is all ranks of a stage; attention takes its data-parallel groups out of them."""
    command.add("--tp-size", stage_ranks(d))
    if d.data_parallel_size > 1 and command.has("--attn-dp-size"):
        command.add("--attn-dp-size", d.data_parallel_size)
    elif d.data_parallel_size > 1:
        command.add("--dp-size", d.data_parallel_size)
        command.add("--enable-dp-attention")
    for flag, size in (("--pp-size", d.pipeline_parallel_size), ("--attn-cp-size", d.prefill_context_parallel_size),
                       ("--dcp-size", d.decode_context_parallel_size)):  # fmt: skip
        if size > 1:
            command.add(flag, size)
    if d.enable_expert_parallel or d.moe_tensor_parallel_size is not None:
        command.add("--ep-size", moe_split(d)[0])
    if d.all2all_backend in _DEEPEP:
        command.add("--moe-a2a-backend", "deepep")
        command.add("--deepep-mode", _DEEPEP[d.all2all_backend])


def _limits(command: Command, d: DeploymentSpec) -> None:
    """Limits of a step and of running requests; for all ranks together."""
    options = dict(d.scheduler_options) if d.scheduler == "sglang" else {}
    ranks = d.data_parallel_size
    chunked = options.get("chunked_prefill", True)
    command.add("--chunked-prefill-size", d.max_num_batched_tokens * ranks if chunked else -1)
    if not chunked:
        command.remark(f"simulated cuts a prompt beyond {d.max_num_batched_tokens} tokens also without chunking")
    command.add("--max-running-requests", d.max_num_seqs * ranks)
    if d.scheduler != "sglang":
        return
    command.add("--max-prefill-tokens", max(1, int(options.get("max_prefill_tokens", 16384)) // ranks))
    if options.get("enable_mixed_chunk"):
        command.add("--enable-mixed-chunk")
    command.add("--schedule-policy", options.get("schedule_policy", "fcfs"))
    share = float(options.get("schedule_conservativeness", 1.0))
    command.add("--schedule-conservativeness", f"{share if ranks == 1 else share / DP_CONSERVATIVENESS:.4g}")
    if options.get("scheduler_recv_interval", 1) != 1:
        command.add("--scheduler-recv-interval", options["scheduler_recv_interval"])


def _memory(command: Command, run: Outcome) -> None:
    """The share of memory where SGLang was simulated; the KV pool's tokens where another was, or if given."""
    d = run.deployment
    own = simulated_as(d) == "sglang"
    if own:
        command.add("--mem-fraction-static", memory_share(d))
        command.add("--cuda-graph-max-bs-decode", max_graph_tokens(d))
    if d.num_gpu_blocks is not None or not own:
        command.add("--max-total-tokens", rank_tokens(run))
        command.remark("--max-total-tokens is the simulated KV cache of a rank; less if SGLang's memory holds less")


def _offload(command: Command, d: DeploymentSpec) -> None:
    """Host memory in GB (10^9) per rank."""
    if d.offload is None:
        return
    size = max(1, round(d.offload.dram_gib * GIB / 1e9 / d.gpus_per_replica))
    command.add("--enable-hierarchical-cache")
    command.add("--hicache-size", size)
    if d.offload.ssd_gib:
        command.remark("the SSD tier of the simulated offload needs --hicache-storage-backend")


def _nodes(model: Served, run: Outcome) -> list[list[str]]:
    """The commands of each node, the router on the first."""
    found = servers(run)
    count = node_count(found)
    nodes: list[list[str]] = [[] for _ in range(count)]
    engines = {name: engine(model, pool) for name, pool in pools(run)}
    for server in found:
        words = [*engines[server.pool].words, *_side(engines[server.pool].known, server).words]
        command = ["python", "-m", "sglang.launch_server", "--model-path", model.target, *words]
        for rank in range(server.nodes):
            line = shlex.join([*command, "--host", "0.0.0.0", "--port", str(server.port)])
            if server.nodes > 1:
                first = f"${{NODE{server.node}}}:{RENDEZVOUS_PORT + server.index}"
                line += f' --nnodes {server.nodes} --node-rank {rank} --dist-init-addr "{first}"'
            nodes[server.node + rank].append(server.visible + line)
    if len(found) > 1:
        nodes[0].append(_router(found, count))
    return nodes


def _side(table: Known, server: Server) -> Command:
    """What makes a server of a pool one side of the hand-over."""
    command = Command(table, "serve")
    if server.pool:
        command.add("--disaggregation-mode", "decode" if server.pool == "decode" else "prefill")
        command.add("--disaggregation-transfer-backend", "nixl")
        command.add("--disaggregation-bootstrap-port", BOOTSTRAP_PORT + server.index)
    return command


def _router(found: list[Server], count: int) -> str:
    """`sglang_router` over all servers, on port 9000 of the first node."""
    command = Command(known("sglang_router"), "router")
    urls = [f"http://{address(server, count)}" for server in found]
    pairs = list(zip(urls, found, strict=True))
    prefill = [(url, server) for url, server in pairs if server.pool and server.pool != "decode"]
    decode = [url for url, server in pairs if server.pool == "decode"]
    words: list[str] = []
    if prefill:
        command.add("--pd-disaggregation")
        words += [f'--prefill "{url}" {BOOTSTRAP_PORT + server.index}' for url, server in prefill]
        words += [f'--decode "{url}"' for url in decode]
        command.add("--prefill-policy", policy(prefill[0][1].run.deployment)[0])
        command.add("--decode-policy", policy(next(s for s in found if s.pool == "decode").run.deployment)[0])
    else:
        words.append("--worker-urls " + " ".join(f'"{url}"' for url in urls))
        command.add("--policy", policy(found[0].run.deployment)[0])
    command.add("--host", "0.0.0.0")
    command.add("--port", ROUTER_PORT)
    return " ".join(["python -m sglang_router.launch_router", shlex.join(command.words), *words])


def policy(d: DeploymentSpec) -> tuple[str, str]:
    """(policy of sglang_router, what is different about it or '')."""
    if d.router in POLICIES:
        return POLICIES[d.router], ""
    nearest = _NEAREST.get(d.router, "round_robin")
    text = f"simulated router {d.router}: sglang_router has no such policy, {nearest} is the nearest"
    if nearest == "manual":
        text += "; clients send the header X-SMG-Routing-Key"
    return nearest, text


def remarks(model: Served, run: Outcome) -> list[str]:
    """Comments on what differs from the simulation."""
    texts: list[str] = []
    if run.num_gpus > run.deployment.gpus_per_replica:
        version = known("sglang_router").version
        texts.append(f"clients talk to port {ROUTER_PORT} of the first node, where sglang_router {version} listens")
    for name, pool in pools(run):
        d = pool.deployment
        if d.scheduler != "sglang":
            texts.append(f"simulated with the scheduler {d.scheduler!r}, which SGLang does not have")
        if d.replicas > 1 or name:
            texts.append(policy(d)[1])
        if d.data_parallel_size > 1:
            texts.append(
                f"limits are those of all {d.data_parallel_size} attention ranks, among which SGLang divides them; it "
                f"multiplies --schedule-conservativeness by {DP_CONSERVATIVENESS}"
            )
        if name == "decode" and d.enable_prefix_caching:
            texts.append("decode servers keep no prefixes unless --disaggregation-decode-enable-radix-cache is given")
        texts += [*engine(model, pool).remarks, *knob_remarks(d, EXPRESSED if d.scheduler == "sglang" else frozenset())]
    texts.append(model.remark)
    if not all(d.async_scheduling for _, d in run.deployment.engines()):
        texts.append(synchronous_remark("sglang", "--disable-overlap-schedule"))
    return comments([*texts, *simulated_remarks("sglang", run, flags_for("sglang", run.deployment))])
