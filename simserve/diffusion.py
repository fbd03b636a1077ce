"""The parts of one replica of a diffusion model, from its deployment: cost, KV pages, memory."""

from __future__ import annotations

from typing import cast

from simserve.arch.diffusion import BATCH, Traits, num_slots, placed, slot_bytes
from simserve.errors import Infeasible, SpecError
from simserve.perf.denoise import DenoiseCost
from simserve.perf.host import EngineProfile
from simserve.perf.model import build_cost
from simserve.policies.denoising import Lockstep
from simserve.sim.plan import Denoiser, Scheduler, knobs
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec
from simserve.systems import SCHEDULERS


def denoises(scheduler: str) -> bool:
    """Whether a scheduler serves diffusion models."""
    return hasattr(SCHEDULERS.get(scheduler), "traits")


def static_batches(scheduler: str) -> bool:
    """Whether a scheduler serves diffusion models in batches that run to completion."""
    return issubclass(SCHEDULERS.get(scheduler), Lockstep)


def check(model: ModelSpec, deployment: DeploymentSpec, canvases: bool) -> None:
    """SpecError unless workload and scheduler are of the model's kind, Infeasible for what is not modelled with it.

    canvases: the workload's kind is diffusion.
    """
    check_kind(model, canvases)
    check_engine(model, deployment)
    for name, own in deployment.engines():
        if (problem := mismatch(model, own.scheduler)) is not None:
            key = f"deployment.pools.{name}.scheduler" if name else "deployment.scheduler"
            raise SpecError(problem, key=key, value=own.scheduler)


def check_kind(model: ModelSpec, canvases: bool) -> None:
    """SpecError unless the workload is of the model's kind; canvases: it is of diffusion."""
    if canvases is not model.diffusion:
        kind = "diffusion" if model.diffusion else "autoregressive"
        raise SpecError(f"{model.name} needs {kind}", key="workload.kind")


def mismatch(model: ModelSpec, scheduler: str) -> str | None:
    """What is wrong between a model and a scheduler, in words; None if nothing."""
    if denoises(scheduler) is model.diffusion:
        return None
    if model.diffusion:
        known = ", ".join(name for name in SCHEDULERS.names() if denoises(name))
        return f"{model.name} is a diffusion model; those who serve it are {known}"
    return f"{scheduler} serves diffusion models, {model.name} decodes token by token"


def check_engine(model: ModelSpec, d: DeploymentSpec) -> None:
    """Infeasible for what is not modelled with a diffusion model."""
    if not model.diffusion:
        return
    sizes = ("tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
    beside = {
        **{name: getattr(d, name) > 1 for name in sizes}, "enable_prefix_caching": d.enable_prefix_caching,
        "system": d.system is not None,
        "offload": d.offload is not None, "swap_space_gib": d.swap_space_gib, "hybrid": d.hybrid is not None,
        "num_speculative_tokens": d.num_speculative_tokens, "kv_cache_dtype": d.kv_cache_dtype not in ("auto", "bf16"),
    }  # fmt: skip
    for name, used in beside.items():
        if used:
            raise Infeasible(f"diffusion models are modelled on one GPU with KV in 16 bits, not with {name}")


def cost(
    model: ModelSpec, gpu: GpuSpec, deployment: DeploymentSpec, traits: Traits, profile: EngineProfile
) -> DenoiseCost:  # fmt: skip
    """The compiled cost model of one replica."""
    inner = build_cost(
        model, gpu, dtype=deployment.dtype, max_num_batched_tokens=deployment.max_num_batched_tokens,
        max_num_seqs=deployment.max_num_seqs, profile=profile,
    )  # fmt: skip
    return DenoiseCost(inner, model, traits, deployment.kernel_efficiency)


def blocks(
    model: ModelSpec, gpu: GpuSpec, deployment: DeploymentSpec, traits: Traits, gpu_memory_utilization: float
) -> int:  # fmt: skip
    """KV pages, with the one that a ledger never hands out."""
    if deployment.num_gpu_blocks is not None:
        return deployment.num_gpu_blocks
    return 1 + num_slots(
        model, gpu, traits, dtype=deployment.dtype, gpu_memory_utilization=gpu_memory_utilization,
        max_num_batched_tokens=deployment.max_num_batched_tokens, max_num_seqs=deployment.max_num_seqs,
    )  # fmt: skip


def memory(
    model: ModelSpec, gpu: GpuSpec, deployment: DeploymentSpec, traits: Traits, blocks: int
) -> dict[str, int]:  # fmt: skip
    """Bytes on the GPU by name; see `simserve.arch.diffusion.BATCH` for systems without a KV pool."""
    held = placed(
        model, gpu, traits, deployment.dtype, deployment.max_num_batched_tokens, deployment.max_num_seqs
    )  # fmt: skip
    del held["libraries"]
    slots = (blocks - 1) * slot_bytes(model, traits)
    if traits.pooled:
        return {**held, "kv_cache": slots}
    del held["activations"]
    return {**held, BATCH: slots}


def check_longest(scheduler: Scheduler, gpu: str, blocks: int, tokens: int) -> None:
    """Infeasible if a request of so many tokens of prompt and canvas can never be served."""
    if tokens > scheduler.max_num_batched_tokens:
        raise Infeasible(f"a pass over the longest request has {tokens} tokens, more than max_num_batched_tokens "
                         f"{scheduler.max_num_batched_tokens}")  # fmt: skip
    needed, capacity = cast(Denoiser, scheduler).slots(tokens), (blocks - 1) * traits_of(scheduler).page_tokens
    if needed > capacity:
        raise Infeasible(f"the longest request, of {tokens} tokens, needs {needed} slots of KV; a replica on {gpu} has "
                         f"{capacity}")  # fmt: skip


def with_limits(d: DeploymentSpec) -> DeploymentSpec:
    """With the scheduler's own defaults for limits that nobody gave; other deployments as they are."""
    if not denoises(d.scheduler):
        return d
    own, given = knobs(SCHEDULERS.get(d.scheduler)), d.model_fields_set
    tokens = d.max_num_batched_tokens if "max_num_batched_tokens" in given else own["max_num_batched_tokens"]["default"]
    seqs = d.max_num_seqs if "max_num_seqs" in given else min(tokens, own["max_num_seqs"]["default"])
    return d.model_copy(update={"max_num_batched_tokens": tokens, "max_num_seqs": seqs})


def traits_of(scheduler: Scheduler) -> Traits:
    """What a diffusion scheduler, with its knobs, says of itself."""
    return cast(Denoiser, scheduler).traits
