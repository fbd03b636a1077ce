"""From a deployment and a workload to a trace and its metrics: the one place that builds a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simserve.arch.memory import activation_bytes, kv_bytes_per_token, num_gpu_blocks, weight_bytes
from simserve.errors import Infeasible, SpecError, UnknownName
from simserve.metrics import Metrics, compute
from simserve.perf.model import TableCost, build_cost
from simserve.perf.sampled import SampledCost
from simserve.policies import ROUTERS
from simserve.sim.cluster import Cluster
from simserve.sim.memory import Memory, MemoryObject, ObjectKind
from simserve.sim.plan import Router, Scheduler, knobs
from simserve.sim.trace import Trace
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import GpuSpec, load_gpu
from simserve.spec.model import ModelSpec
from simserve.spec.slo import SloSpec
from simserve.systems import SCHEDULERS
from simserve.workload.requests import RequestSet


@dataclass(frozen=True)
class RunResult:
    """One simulated deployment: what happened, what it means, and what the numbers rest on."""

    trace: Trace
    metrics: Metrics
    num_gpus: int
    num_gpu_blocks: int
    memory_bytes: dict[str, int]
    cost_provenance: dict[str, Any]


def simulate(
    model: ModelSpec, deployment: DeploymentSpec, workload: RequestSet, *,
    slo: SloSpec | None = None, leap: bool = True, until_ns: int | None = None,
) -> RunResult:  # fmt: skip
    """Play `workload` on `deployment`; Infeasible if it does not fit. memory_bytes is per GPU."""
    gpu = load_gpu(deployment.gpu)
    cost = SampledCost(deployment_cost(model, deployment, gpu))
    blocks = deployment_blocks(model, deployment, gpu)
    memory = _memory(model, deployment, gpu, blocks)
    cluster = Cluster(build_router(deployment.router), leap=leap)
    for _ in range(deployment.replicas):
        cluster.add(
            build_scheduler(deployment), cost, num_gpu_blocks=blocks, block_size=deployment.block_size,
            max_model_len=_max_model_len(model, deployment, blocks),
            enable_prefix_caching=deployment.enable_prefix_caching,
        )  # fmt: skip
    trace = cluster.play(workload, until_ns=until_ns)
    placed = {str(o.name): o.size_bytes for o in memory.objects["hbm"].values()}
    return RunResult(
        trace=trace,
        metrics=compute(
            trace, num_gpus=deployment.num_gpus, slo=slo, classes=workload.classes, class_id=workload.class_id
        ),
        num_gpus=deployment.num_gpus,
        num_gpu_blocks=blocks,
        memory_bytes=placed,
        cost_provenance={**cost.inner.provenance(), "share_of_time_by_source": cost.shares()},
    )


def deployment_cost(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> TableCost:
    """The compiled cost model of one replica."""
    return build_cost(
        model, gpu,
        tensor_parallel_size=deployment.tensor_parallel_size,
        dtype=deployment.dtype,
        kv_cache_dtype=deployment.kv_cache_dtype,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_num_seqs=deployment.max_num_seqs,
    )  # fmt: skip


def deployment_blocks(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> int:
    """KV blocks of one replica: as given, or what the memory leaves, as vLLM's profiling run finds them."""
    if deployment.num_gpu_blocks is not None:
        return deployment.num_gpu_blocks
    return num_gpu_blocks(
        model, gpu,
        tp=deployment.tensor_parallel_size,
        dtype=deployment.dtype,
        kv_cache_dtype=deployment.kv_cache_dtype,
        gpu_memory_utilization=deployment.gpu_memory_utilization,
        block_size=deployment.block_size,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_num_seqs=deployment.max_num_seqs,
    )  # fmt: skip


def build_scheduler(deployment: DeploymentSpec) -> Scheduler:
    """A fresh scheduler whose knobs are the deployment's fields of the same name, and its scheduler_options."""
    part = SCHEDULERS.get(deployment.scheduler)
    known = knobs(part)
    given = {f: getattr(deployment, f) for f in known if hasattr(deployment, f)}
    for name, value in deployment.scheduler_options:
        _check_option(deployment.scheduler, name, value, known)
        given[name] = value
    return part(**given)


def _check_option(scheduler: str, name: str, value: object, known: Mapping[str, Mapping[str, Any]]) -> None:
    """SpecError unless `name` is a knob of the scheduler and `value` is in its range or choices."""
    key = f"deployment.scheduler_options.{name}"
    if name not in known:
        raise UnknownName(f"knob of {scheduler}", name, known, key="deployment.scheduler_options")
    knob = known[name]
    if knob["choices"]:
        if value not in knob["choices"]:
            raise SpecError(f"must be one of {', '.join(map(str, knob['choices']))}", key=key, value=value)
    elif isinstance(value, str | bool) or not knob["low"] <= value <= knob["high"]:
        raise SpecError(f"must be a number from {knob['low']} to {knob['high']}", key=key, value=value)


def build_router(name: str) -> Router:
    """A fresh router."""
    return ROUTERS.get(name)()


def _max_model_len(model: ModelSpec, deployment: DeploymentSpec, blocks: int) -> int:
    """vLLM's rule: as asked, if the KV cache holds one such request; else the most that fits."""
    capacity = (blocks - 1) * deployment.block_size
    asked = deployment.max_model_len
    if asked is not None and asked > capacity:
        raise Infeasible(
            f"max_model_len {asked} needs more KV blocks than there are: {blocks - 1} blocks of "
            f"{deployment.block_size} tokens hold {capacity} tokens"
        )
    return asked or min(model.max_position_embeddings, capacity)


def _memory(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec, blocks: int) -> Memory:
    """What lies in one GPU's memory; Infeasible if it does not fit."""
    tp = deployment.tensor_parallel_size
    memory = Memory({"hbm": gpu.memory_bytes})
    kv = blocks * deployment.block_size * kv_bytes_per_token(model, deployment.kv_cache_dtype, tp)
    activations = activation_bytes(
        model, deployment.max_num_batched_tokens, deployment.max_num_seqs, tp
    )
    for name, kind, size in (
        ("weights", ObjectKind.WEIGHTS, weight_bytes(model, deployment.dtype, tp)),
        ("activations", ObjectKind.ACTIVATIONS, activations),
        ("kv_cache", ObjectKind.KV_CACHE, kv),
    ):
        memory.place("hbm", MemoryObject(name, kind, size))
    return memory


