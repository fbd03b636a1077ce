"""The parts of one replica, from its deployment: cost model, KV blocks, memory, scheduler, router, copies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

from simserve import diffusion, multimodal
from simserve.arch.diffusion import Traits
from simserve.arch.layout import Layout
from simserve.arch.memory import static_share
from simserve.arch.replica import Engine, block_bytes, rank_blocks, stage_state_bytes, stage_weight_bytes, step_bytes
from simserve.errors import Infeasible, SpecError, UnknownName
from simserve.perf.cost import PricedCost
from simserve.perf.host import EngineProfile, has_profile, load_profile
from simserve.perf.host_copy import large_rate, piece_overhead_ns
from simserve.perf.hybrid import HybridCost
from simserve.perf.layers import CpuSide, LayerPrices, PredictedTimes
from simserve.perf.model import NO_DRAFTS, TableCost
from simserve.perf.offline import Offline, offline
from simserve.perf.replica import build_replica
from simserve.perf.speculative import Drafts
from simserve.policies import EVICTIONS, ROUTERS
from simserve.sim.cluster import Cluster, OffloadOf
from simserve.sim.hybrid_instance import HostTier
from simserve.sim.memory import Memory, MemoryObject, ObjectKind
from simserve.sim.offload import DRAM, SSD, Channels, OffloadTiers
from simserve.sim.plan import Router, Scheduler, knobs
from simserve.sim.prefix import PrefixLedger
from simserve.sim.swap import Copies, SwapSpace
from simserve.spec.deployment import DeploymentSpec, OffloadSpec
from simserve.spec.hardware import GpuSpec, LinkSpec, load_host, load_link
from simserve.spec.model import ModelSpec
from simserve.systems import SCHEDULERS
from simserve.units import GIB, NS_PER_S

IN_ITERATIONS = ("scheduler_recv_interval", "batch_wait_timeout_iters", "attention_dp_timeout_iters")
RANK_LIMITS = ("max_num_batched_tokens", "max_num_seqs")  # of one data-parallel rank
KERNEL_FACTORS = (
    "gemm_time_factor", "moe_time_factor", "prefill_attention_time_factor", "decode_attention_time_factor",
    "elementwise_time_factor",
)  # fmt: skip
BATCH_OF_PIECES = 10_000  # the smallest batch for which anybody has measured what a piece adds


def page_tokens(deployment: DeploymentSpec) -> int:
    """Tokens of a KV block: of a diffusion system its own pages."""
    traits = traits_of(deployment)
    return traits.page_tokens if traits is not None else deployment.kv_block_tokens


def layout_of(deployment: DeploymentSpec) -> Layout:
    """How one replica is spread over GPUs."""
    d = deployment
    if d.pipeline_parallel_size > 1 and d.scheduler != "vllm":
        raise Infeasible(f"pipeline_parallel_size is modelled with the scheduler vllm, not {d.scheduler}")
    if d.hybrid is not None and d.gpus_per_replica > 1 and hasattr(SCHEDULERS.get(d.scheduler), "cpu_kernel"):
        raise Infeasible(f"{d.scheduler} is modelled with one GPU per replica, not {d.gpus_per_replica}")
    return Layout(
        d.tensor_parallel_size, d.data_parallel_size, d.pipeline_parallel_size, d.prefill_context_parallel_size,
        d.decode_context_parallel_size, d.enable_expert_parallel, d.moe_tensor_parallel_size or 0,
    )  # fmt: skip


def engine_profile(deployment: DeploymentSpec) -> EngineProfile:
    """The profile of the engine, in its version, with its kernels as slow as the deployment says."""
    name = profile_name(deployment.engine, deployment.scheduler)
    profile = load_profile(name, deployment.engine_version, calibrated=deployment.calibrated)
    if deployment.kernel_efficiency == 1.0:
        return profile
    return profile.times(dict.fromkeys(KERNEL_FACTORS, 1 / deployment.kernel_efficiency))


def profile_name(engine: str | None, scheduler: str) -> str:
    """Whose profile: as asked, or called like the scheduler, or the one that this names, else vllm's."""
    if engine or has_profile(scheduler):
        return engine or scheduler
    return str(getattr(SCHEDULERS.get(scheduler), "engine", "vllm"))


def traits_of(deployment: DeploymentSpec) -> Traits | None:
    """What a diffusion system does beside scheduling; None for systems that decode."""
    if not diffusion.denoises(deployment.scheduler):
        return None
    return diffusion.traits_of(build_scheduler(deployment))


def deployment_cost(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> PricedCost:
    """The compiled cost model of one replica."""
    if (tiers := tiered(model, deployment, gpu)) is not None:
        return tiers.cost
    if (traits := traits_of(deployment)) is not None:
        return diffusion.cost(model, gpu, deployment, traits, engine_profile(deployment))
    return build_replica(
        model, gpu, layout_of(deployment),
        dtype=deployment.dtype,
        moe_dtype=deployment.moe_dtype or "",
        kv_cache_dtype=deployment.kv_cache_dtype,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_num_seqs=deployment.max_num_seqs,
        all2all_backend=deployment.all2all_backend,
        inter_node_link=deployment.inter_node_link or "",
        profile=engine_profile(deployment),
        drafts=_drafts(deployment),
    )  # fmt: skip


@lru_cache(maxsize=64)
def tiered(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> Offline | None:
    """What an offline system makes of its tiers, None for others; Infeasible if one is too small."""
    return offline(model, deployment, gpu)


def _drafts(deployment: DeploymentSpec) -> Drafts:
    if not deployment.num_speculative_tokens:
        return NO_DRAFTS
    return Drafts(deployment.num_speculative_tokens, deployment.acceptance_rate)


def deployment_blocks(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> int:
    """KV blocks of one replica, those of all its data-parallel ranks: as given, or what the memory leaves."""
    layout = layout_of(deployment)
    layout.check(model)
    if (tiers := tiered(model, deployment, gpu)) is not None:
        return deployment.num_gpu_blocks or tiers.kv_tokens // deployment.block_size + 1
    if (traits := traits_of(deployment)) is not None:
        return diffusion.blocks(model, gpu, deployment, traits, memory_share(deployment, gpu))
    own = deployment.num_gpu_blocks or rank_blocks(
        model, gpu, layout, _engine(deployment), gpu_memory_utilization=memory_share(deployment, gpu),
        block_size=deployment.block_size,
        rule=engine_profile(deployment).memory_rule,
    )  # fmt: skip
    if deployment.num_gpu_blocks is None:
        size = _block_bytes(model, deployment)
        beside = multimodal.encoder_bytes(model, deployment.tensor_parallel_size, deployment.num_encoders)
        own = multimodal.blocks_beside_encoder(model, own, size, beside)
    return layout.dp * (_without_staging(model, deployment, own) - 1) + 1


def _without_staging(model: ModelSpec, deployment: DeploymentSpec, blocks: int) -> int:
    """What is left of a KV cache that also holds staging layers for KV on its way to the host."""
    staging = getattr(SCHEDULERS.get(deployment.scheduler), "staging_layers", 0)
    layers = model.num_hidden_layers
    return max(2, blocks * layers // (layers + staging)) if deployment.hybrid is not None else blocks


def memory_share(deployment: DeploymentSpec, gpu: GpuSpec) -> float:
    """The share of memory as asked, or the engine's default, which SGLang works out from GPU, layout and limits."""
    d = deployment
    default = d.gpu_memory_utilization or engine_profile(d).gpu_memory_utilization
    ranks = d.tensor_parallel_size * d.pipeline_parallel_size
    return default or static_share(
        gpu, ranks * d.data_parallel_size, d.data_parallel_size, d.max_num_batched_tokens, d.num_speculative_tokens
    )


def max_model_len(model: ModelSpec, deployment: DeploymentSpec, blocks: int) -> int:
    """vLLM's rule: as asked, if the KV cache holds one such request; else the most that fits.

    What a diffusion system holds of a request is not its tokens, so there the model's context alone counts.
    """
    if model.diffusion:
        return min(deployment.max_model_len or model.max_position_embeddings, model.max_position_embeddings)
    capacity = deployment.kv_capacity(blocks)
    asked = deployment.max_model_len
    if asked is not None and asked > capacity:
        size = deployment.kv_block_tokens
        raise Infeasible(
            f"max_model_len {asked} needs more KV blocks than there are: {capacity // size} blocks of "
            f"{size} tokens hold {capacity} tokens"
        )
    return asked or min(model.max_position_embeddings, capacity)


def placed_bytes(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec, blocks: int) -> dict[str, int]:
    """What lies in the memory of one GPU of the fullest pipeline stage, by name; Infeasible if it does not fit."""
    if (tiers := tiered(model, deployment, gpu)) is not None:
        return tiers.placed_bytes
    if (traits := traits_of(deployment)) is not None:
        return diffusion.memory(model, gpu, deployment, traits, blocks)
    layout, engine = layout_of(deployment), _engine(deployment)
    memory = Memory({"hbm": gpu.memory_bytes})
    states = max(stage_state_bytes(model, layout, engine))
    encoder = multimodal.encoder_bytes(model, layout.tp, deployment.num_encoders)
    own = (blocks - 1) // layout.dp + 1
    for name, kind, size in (
        ("weights", ObjectKind.WEIGHTS,
         max(stage_weight_bytes(model, layout, engine, stage) for stage in range(layout.pp))),
        ("activations", ObjectKind.ACTIVATIONS, step_bytes(model, layout, engine)),
        *((("states", ObjectKind.KV_CACHE, states),) if states else ()),
        *((("encoder", ObjectKind.WEIGHTS, encoder),) if encoder else ()),
        ("kv_cache", ObjectKind.KV_CACHE, own * _block_bytes(model, deployment)),
    ):  # fmt: skip
        memory.place("hbm", MemoryObject(name, kind, size))
    return {str(o.name): o.size_bytes for o in memory.objects["hbm"].values()}


def _engine(d: DeploymentSpec) -> Engine:
    return Engine(d.dtype, d.kv_cache_dtype, d.moe_dtype or "", d.max_num_batched_tokens, d.max_num_seqs)


def build_scheduler(deployment: DeploymentSpec, settled: Mapping[str, int] | None = None) -> Scheduler:
    """A fresh scheduler whose knobs are the deployment's fields of the same name, what a placement in tiers has
    `settled`, and its scheduler_options.

    That of data-parallel ranks has the limits of all together; no request gets more of a step than one rank's budget.
    With drafts an iteration of the engine gives several tokens, which are as many steps here.
    """
    part = SCHEDULERS.get(deployment.scheduler)
    known = knobs(part)
    given = {f: getattr(deployment, f) for f in known if hasattr(deployment, f)}
    if deployment.data_parallel_size > 1:
        given = {f: value * deployment.data_parallel_size if f in RANK_LIMITS else value for f, value in given.items()}
        if "long_prefill_token_threshold" in known:
            given["long_prefill_token_threshold"] = deployment.max_num_batched_tokens
    if "attention_dp_size" in known:
        given["attention_dp_size"] = deployment.data_parallel_size
    given |= {name: value for name, value in (settled or {}).items() if name in known}
    options = checked_options(deployment.scheduler, "scheduler_options", deployment.scheduler_options, known)
    tokens = _drafts(deployment).tokens_per_step
    options |= {name: round(value * tokens) for name, value in options.items() if name in IN_ITERATIONS}
    return part(**{**given, **options})


def host_blocks(model: ModelSpec, deployment: DeploymentSpec) -> int | None:
    """KV blocks of the host of one replica, None if its scheduler uses none; Infeasible if the host is too small."""
    asked = deployment.hybrid
    if not hasattr(SCHEDULERS.get(deployment.scheduler), "cpu_kernel"):
        return None
    if asked is None:
        raise SpecError(f"{deployment.scheduler} keeps KV on a host: name one, and kv_gib", key="deployment.hybrid")
    host = load_host(asked.host)
    if host.memory_bytes is not None and asked.kv_gib * GIB > host.memory_bytes:
        raise Infeasible(f"hybrid.kv_gib {asked.kv_gib:g} is more than {host.name} has: {host.memory_bytes} bytes")
    return int(asked.kv_gib * GIB) // _block_bytes(model, deployment)


def build_tier(
    model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec, cost: PricedCost, factor: float = 1.0
) -> HostTier | None:
    """The host of one replica, None if its scheduler uses none; factor: every price is so many times as large."""
    kernel, asked = getattr(SCHEDULERS.get(deployment.scheduler), "cpu_kernel", None), deployment.hybrid
    blocks = host_blocks(model, deployment)
    if kernel is None or asked is None or blocks is None:
        return None
    host, size = load_host(asked.host), _block_bytes(model, deployment)
    assert isinstance(cost, TableCost)  # of one GPU
    cpu = CpuSide(host, asked.kernel or kernel, asked.threads, asked.cpu_attention_bytes_per_s)
    link, pieces = load_link(gpu.host_link), 2 * model.attention_layers
    out, back = (_copies(link, direction, size // pieces).cost_ns(size, pieces) for direction in ("d2h", "h2d"))
    times = LayerPrices(cost, link, cpu)
    hybrid = HybridCost(times, block_out_ns=out, block_in_ns=back, factor=factor)
    return HostTier(blocks, hybrid)


def give_predictor(scheduler: Scheduler, deployment: DeploymentSpec, tier: HostTier | None) -> Scheduler:
    """The scheduler with what it believes of layer times, which is off as the deployment says."""
    if tier is not None and (asked := deployment.hybrid) is not None:
        times, error = tier.cost.times, asked.prediction_error
        cast(Any, scheduler).predictor = PredictedTimes(times, error, asked.prediction_seed) if error else times
    return scheduler


def build_router(deployment: DeploymentSpec) -> Router:
    """A fresh router with its router_options."""
    part = ROUTERS.get(deployment.router)
    return part(**checked_options(deployment.router, "router_options", deployment.router_options, knobs(part)))


def checked_options(
    part: str, key: str, options: tuple[tuple[str, Any], ...], known: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """SpecError unless every name is a knob of the part, and every value in its range or choices."""
    for name, value in options:
        full = f"deployment.{key}.{name}"
        if name not in known:
            raise UnknownName(f"knob of {part}", name, known, key=f"deployment.{key}")
        knob = known[name]
        if knob["choices"]:
            if value not in knob["choices"]:
                raise SpecError(f"must be one of {', '.join(map(str, knob['choices']))}", key=full, value=value)
        elif isinstance(value, str | bool) or not knob["low"] <= value <= knob["high"]:
            raise SpecError(f"must be a number from {knob['low']} to {knob['high']}", key=full, value=value)
    return dict(options)


def build_swap(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> SwapSpace | None:
    """Swap space of one replica, None for none; each rank copies its shard over its own PCIe link, side by side.

    A block is as many copies as vLLM 0.x makes of it: keys and values of each layer [known].
    """
    size = _block_bytes(model, deployment)
    total = int(deployment.swap_space_gib * GIB) // size
    if not total:
        return None
    link, pieces = load_link(gpu.host_link), 2 * model.attention_layers
    out, back = (_copies(link, direction, size // pieces) for direction in ("d2h", "h2d"))
    return SwapSpace(total, size, out=out, back=back, pieces_per_block=pieces)


def _copies(link: LinkSpec, direction: str, piece_bytes: int) -> Copies:
    """One direction of a PCIe link for batches of pieces of this size."""
    overhead = piece_overhead_ns(piece_bytes, BATCH_OF_PIECES)
    return Copies(round(overhead), int(large_rate(link, direction)[0]))


def build_offload(
    cluster: Cluster, name: str, model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec
) -> OffloadOf | None:
    """What makes the offload tiers of the replica called `name` from its ledger; None for none."""
    asked = deployment.offload
    if asked is None:
        return None
    eviction = EVICTIONS.get(asked.eviction)().key
    ranks, size = deployment.tensor_parallel_size, _block_bytes(model, deployment)

    def tiers(ledger: PrefixLedger) -> OffloadTiers:
        capacity = {DRAM: int(asked.dram_gib * GIB) // ranks, SSD: int(asked.ssd_gib * GIB) // ranks}
        return OffloadTiers(
            cluster.clock, ledger, Memory(capacity, eviction), _channels(cluster, name, asked, gpu, ranks, size),
            block_bytes=size, retention_ns=round(asked.retention_s * NS_PER_S),
        )  # fmt: skip

    return tiers


def _channels(
    cluster: Cluster, name: str, asked: OffloadSpec, gpu: GpuSpec, ranks: int, block_bytes: int
) -> Channels:  # fmt: skip
    """PCIe out of and into each rank's GPU, a block in one piece [known of vLLM 0.12], and its share of the SSD."""
    host = load_link(gpu.host_link)
    copies = {"pcie_out": _copies(host, "d2h", block_bytes), "pcie_in": _copies(host, "h2d", block_bytes)}
    out, back = (
        cluster.link(
            f"{name} {lane}", bandwidth_bytes_per_s=copy.bandwidth_bytes_per_s, latency_ns=host.latency_ns,
            launch_ns=copy.launch_ns,
        )
        for lane, copy in copies.items()
    )  # fmt: skip
    if not asked.ssd_gib:
        return Channels(out, back)
    drive = load_link(asked.ssd_link)
    write, read = (
        cluster.link(
            f"{name} {lane}", bandwidth_bytes_per_s=max(1, drive.payload_bytes_per_s // ranks),
            latency_ns=drive.latency_ns,
        )
        for lane in ("ssd write", "ssd read")
    )  # fmt: skip
    return Channels(out, back, write, read)


def _block_bytes(model: ModelSpec, deployment: DeploymentSpec) -> int:
    """Bytes of one KV block on one rank of the fullest pipeline stage."""
    return block_bytes(model, layout_of(deployment), deployment.kv_cache_dtype, deployment.block_size)
