"""The engines of a deployment: what each pool's replicas cost and hold, and how they come into a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from simserve import colocated, multimodal
from simserve.build import (
    RANK_LIMITS,
    build_offload,
    build_scheduler,
    build_swap,
    build_tier,
    deployment_blocks,
    deployment_cost,
    give_predictor,
    max_model_len,
    page_tokens,
    placed_bytes,
    tiered,
)
from simserve.perf.encoders import Encoders
from simserve.perf.host import EngineProfile
from simserve.perf.sampled import SampledCost
from simserve.perf.scaled import ScaledCost
from simserve.sim.cluster import Cluster
from simserve.sim.confidence import Confidence
from simserve.sim.hybrid_instance import HostTier
from simserve.sim.instance import Instance
from simserve.sim.lanes import GpuLanes
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import ModelSpec

Make = Callable[..., Instance]


@dataclass(frozen=True)
class Engine:
    """The equal replicas of one pool (name "" where there is only one).

    num_gpu_blocks: KV blocks per replica; memory_bytes: per GPU, by name; cost: notes what its numbers rest on;
    instances: indices in the trace; deployment: with the limits that a placement in tiers has settled; settled: those
    and other knobs of its scheduler; encoder: of images and sounds, where its prompts have some.
    """

    name: str
    deployment: DeploymentSpec
    num_gpu_blocks: int
    memory_bytes: dict[str, int]
    cost: SampledCost
    instances: range
    settled: Mapping[str, int] = field(default_factory=dict)
    encoder: Encoders | None = None


def engines_of(
    model: ModelSpec, deployment: DeploymentSpec, profile: EngineProfile | None, factors: Mapping[str, float]
) -> tuple[Engine, ...]:  # fmt: skip
    """Cost model, blocks and memory of each pool."""
    found: list[Engine] = []
    first, workers = 0, colocated.workers(deployment)
    for name, own in deployment.engines():
        gpu = load_gpu(own.gpu)
        tables = deployment_cost(model, own, gpu)
        asked = profile or tables.profile
        priced = tables.under(asked.times(factors)) if profile or factors else tables
        cost = SampledCost(priced, thinning=3 if model.diffusion else 2)
        blocks = deployment_blocks(model, own, gpu)
        placed, tiers = placed_bytes(model, own, gpu, blocks), tiered(model, own, gpu)
        settled = tiers.knobs(model, own.tiers) if tiers is not None and own.tiers is not None else {}
        limits = own.model_copy(update={key: settled[key] for key in RANK_LIMITS if key in settled})
        found.append(Engine(name, limits, blocks, placed, cost, range(first, first + own.replicas * workers), settled))
        first += own.replicas * workers
    return tuple(found)


def add_engine(
    cluster: Cluster, model: ModelSpec, engine: Engine, cost_factor: float, confidence: Confidence | None = None
) -> list[Instance]:
    """The replicas of one pool."""
    tier = build_tier(model, engine.deployment, load_gpu(engine.deployment.gpu), engine.cost.inner, cost_factor)
    make = None
    if engine.encoder is not None:
        make = multimodal.instance_of(multimodal.pass_of(engine.encoder, engine.cost.inner.profile, cost_factor))
    return [
        add_replica(cluster, model, engine, index, cost_factor, tier=tier, confidence=confidence, make=make)
        for index in engine.instances[: engine.deployment.replicas]
    ]


def add_replica(
    cluster: Cluster, model: ModelSpec, engine: Engine, index: int, cost_factor: float, *,
    tier: HostTier | None = None, confidence: Confidence | None = None, make: Make | None = None,
    lanes: GpuLanes | None = None,
) -> Instance:  # fmt: skip
    """The replica that is instance `index` of the cluster; lanes: of the GPU that it shares, None for its own."""
    own, gpu = engine.deployment, load_gpu(engine.deployment.gpu)
    cost = engine.cost if cost_factor == 1.0 else ScaledCost(engine.cost, cost_factor)
    instance = cluster.add(
        give_predictor(build_scheduler(own, engine.settled), own, tier), cost, num_gpu_blocks=engine.num_gpu_blocks,
        block_size=page_tokens(own), stages=own.pipeline_parallel_size,
        max_model_len=max_model_len(model, own, engine.num_gpu_blocks),
        enable_prefix_caching=own.enable_prefix_caching, swap=build_swap(model, own, gpu),
        async_scheduling=own.async_scheduling, tier=tier, confidence=confidence, make=make, gpu=lanes,
        offload=build_offload(cluster, f"instance {index}", model, own, gpu),
    )  # fmt: skip
    instance.on_cut = engine.cost.cut
    return instance
