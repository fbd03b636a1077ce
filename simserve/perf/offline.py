"""Offline systems from their deployment: cost model, what the tiers hold, and the scheduler's knobs."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.arch.dtypes import check_dtype
from simserve.arch.memory import weight_bytes
from simserve.errors import Infeasible
from simserve.perf.compile import Formats
from simserve.perf.cost import PricedCost
from simserve.perf.flexgen import FlexGenCost, Policy
from simserve.perf.flexgen_policy import SAFETY, Plan, best_policy, given_policy, kv_tokens
from simserve.perf.host import load_profile
from simserve.perf.instinfer import InstInferCost, drives
from simserve.perf.rates import LayerShape, Rates, layer_shape, rates
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import GpuSpec, load_host, load_link
from simserve.spec.model import ModelSpec
from simserve.spec.tiers import OFFLINE, TiersSpec, tiers_mismatch
from simserve.units import GIB, format_bytes

PROFILE = "vllm"  # in whose place no profile of these systems is known; none of its times is used


@dataclass(frozen=True)
class Offline:
    """A placement with its cost.

    kv_tokens: whose KV the tiers hold; placed_bytes: by name, `host_` and `disk_` before what is not on the GPU; a
    block is num_gpu_batches of gpu_batch_size sequences.
    """

    cost: PricedCost
    kv_tokens: int
    placed_bytes: dict[str, int]
    gpu_batch_size: int
    num_gpu_batches: int

    def knobs(self, model: ModelSpec, tiers: TiersSpec) -> dict[str, int]:
        """Of the scheduler: these systems have no limit of tokens, so a block's prompts are one step."""
        block = self.gpu_batch_size * self.num_gpu_batches
        return {
            "gpu_batch_size": self.gpu_batch_size, "num_gpu_batches": self.num_gpu_batches,
            "max_new_tokens": tiers.output_tokens, "max_num_batched_tokens": block * model.max_position_embeddings,
            "max_num_seqs": block,
        }  # fmt: skip


def offline(model: ModelSpec, deployment: DeploymentSpec, gpu: GpuSpec) -> Offline | None:
    """The offline system of one replica, None for any other; Infeasible if a tier is too small.

    Other schedulers of a search leave the tiers that its study names alone.
    """
    tiers = deployment.tiers
    if deployment.scheduler not in OFFLINE:
        return None
    if tiers is None or (problem := tiers_mismatch(deployment.scheduler, tiers)):
        raise Infeasible(problem if tiers is not None else f"scheduler {deployment.scheduler} needs tiers")
    check_dtype(gpu, deployment.dtype)
    for key, value in (("dtype", deployment.dtype), ("kv_cache_dtype", deployment.kv_cache_dtype)):
        if value not in ("auto", "bf16", "fp16"):
            raise Infeasible(f"{deployment.scheduler} is modelled in 16 bits: {key} {value} would need its compression")
    shape, reached = layer_shape(model), rates(tiers, gpu, deployment.dtype)
    if tiers.csd is not None:
        return _instinfer(model, deployment, tiers, gpu, shape, reached)
    plan = Plan(shape, reached, tiers.prompt_tokens, tiers.output_tokens, _capacity(tiers, gpu))
    if tiers.policy is not None:
        policy, safety = given_policy(plan, tiers.policy, deployment.max_num_seqs), 1.0
    else:
        policy, safety = best_policy(plan, deployment.max_num_seqs), SAFETY
    cost = FlexGenCost(shape, reached, policy, gpu, load_profile(PROFILE, calibrated=False), _formats(deployment))
    tokens = kv_tokens(plan, policy, safety)
    return Offline(cost, tokens, _lie(shape, policy, tokens), policy.gpu_batch_size, policy.num_gpu_batches)


def _instinfer(
    model: ModelSpec, deployment: DeploymentSpec, tiers: TiersSpec, gpu: GpuSpec, shape: LayerShape, reached: Rates
) -> Offline:
    """Weights and a micro-batch of prompts on the GPU, KV in the drives."""
    assert tiers.csd is not None
    weights = weight_bytes(model, deployment.dtype, 1)
    batch = deployment.max_num_seqs
    asked = tiers.policy.gpu_batch_size if tiers.policy is not None else None
    most = _prompts_at_a_time(shape, tiers.prompt_tokens, gpu.memory_bytes - weights, batch)
    if (asked or 1) > most:
        raise Infeasible(f"{format_bytes(weights)} of weights and the prompts of {asked or 1} sequences do not fit "
                         f"into the {format_bytes(gpu.memory_bytes)} of {gpu.name}")  # fmt: skip
    own = drives(tiers.csd, model.num_key_value_heads, load_link(gpu.host_link).payload_bytes_per_s)
    size = min(asked or most, batch)
    cost = InstInferCost(
        shape, reached, own, size, gpu, load_profile(PROFILE, calibrated=False), _formats(deployment)
    )
    tokens = int(own.capacity / (own.copies * shape.layers * shape.kv_bytes))
    kv = tokens * shape.layers * shape.kv_bytes
    placed = {"weights": weights, "activations": _prompt_bytes(shape, tiers.prompt_tokens, size, batch),
              "disk_kv_cache": round(own.copies * kv)}  # fmt: skip
    return Offline(cost, tokens, placed, batch, 1)


def _prompt_bytes(shape: LayerShape, prompt_tokens: int, gpu_batch_size: int, batch: int) -> int:
    """FlexGen's intermediate results of a micro-batch, the KV of two of its layers, hidden rows of the whole batch."""
    s, row = prompt_tokens, shape.hidden_bytes
    results = 9 * s * row + 2 * shape.heads * s * s + 2 * s * shape.ffn
    return gpu_batch_size * (results + 2 * s * shape.kv_bytes) + batch * s * row


def _prompts_at_a_time(shape: LayerShape, prompt_tokens: int, room: int, batch: int) -> int:
    """The largest power of two of sequences whose prompts fit; 0 if none does."""
    size = 0
    while size < batch and _prompt_bytes(shape, prompt_tokens, max(1, 2 * size), batch) <= room:
        size = max(1, 2 * size)
    return size


def _capacity(tiers: TiersSpec, gpu: GpuSpec) -> tuple[int, int, int]:
    """Bytes of GPU, host memory and disk."""
    host = load_host(tiers.host).memory_bytes if tiers.host is not None else None
    memory = tiers.host_memory_gib * GIB if tiers.host_memory_gib is not None else host
    if memory is None:
        raise Infeasible(f"the memory of host {tiers.host} is not known: give tiers.host_memory_gib")
    return gpu.memory_bytes, int(memory), int(tiers.disk_gib * GIB)


def _lie(shape: LayerShape, policy: Policy, tokens: int) -> dict[str, int]:
    """Bytes of weights and of KV by tier: on the GPU, and what there is beside it."""
    found: dict[str, int] = {}
    for tier, prefix in enumerate(("", "host_", "disk_")):
        each = {
            "weights": policy.weights[tier] * shape.layers * shape.weight_bytes,
            "kv_cache": policy.kv[tier] * tokens * shape.layers * shape.kv_bytes,
        }
        found |= {prefix + name: round(size) for name, size in each.items() if size or not tier}
    return found


def _formats(deployment: DeploymentSpec) -> Formats:
    d = deployment
    return Formats(d.dtype, d.kv_cache_dtype, d.max_num_batched_tokens, d.max_num_seqs)
