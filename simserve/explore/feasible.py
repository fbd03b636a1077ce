"""Which configurations can exist at all: dtype, divisibility, memory. Every rejected one has its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from simserve.errors import Infeasible

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec


@dataclass(frozen=True)
class Rejected:
    """A configuration that cannot exist, and why, in one line; or one engine of so many that cannot."""

    deployment: DeploymentSpec
    reason: str
    configurations: int = 1


@dataclass(frozen=True)
class Feasible:
    """The configurations that can exist, the KV blocks of one replica of each, and the rejected rest."""

    deployments: list[DeploymentSpec]
    num_gpu_blocks: list[int]
    rejected: list[Rejected]


def split(model: ModelSpec, deployments: Sequence[DeploymentSpec], *, longest_tokens: int = 0) -> Feasible:
    """Sort `deployments` into feasible and rejected.

    longest_tokens: prompt + output of the longest request, which one replica's KV cache must hold.
    Raises Infeasible with the commonest reason when nothing is left.
    """
    kept: list[DeploymentSpec] = []
    blocks: list[int] = []
    rejected: list[Rejected] = []
    for deployment in deployments:
        try:
            count = check(model, deployment, longest_tokens=longest_tokens)
        except Infeasible as error:
            rejected.append(Rejected(deployment, str(error)))
        else:
            kept.append(deployment)
            blocks.append(count)
    if not kept:
        raise Infeasible(nothing_fits(rejected))
    return Feasible(kept, blocks, rejected)


def check(model: ModelSpec, deployment: DeploymentSpec, *, longest_tokens: int = 0) -> int:
    """KV blocks of one replica, of the first pool if there are several.

    Infeasible names the dtype, divisor or byte count that is in the way.
    """
    from simserve.diffusion import check_engine, check_longest

    if deployment.stages is not None:
        from simserve import stages

        stages.check(model, deployment)
    if deployment.pools or deployment.stages is not None:
        check_engine(model, deployment)
        counts = [check(model, engine, longest_tokens=longest_tokens) for _, engine in deployment.engines()]
        return counts[0]
    from simserve.build import build_scheduler

    # Replicas and routers change nothing for one replica, so they share one answer.
    one = deployment.model_copy(update={"replicas": 1, "router": "round_robin"})
    answer = _check_replica(model, one)
    if isinstance(answer, str):
        raise Infeasible(answer)
    servable = min(longest_tokens, deployment.max_model_len or model.max_position_embeddings)
    if model.diffusion:
        check_longest(build_scheduler(deployment), deployment.gpu, answer, servable)
        return answer
    capacity = deployment.kv_capacity(answer)
    if servable > capacity:
        raise Infeasible(
            f"the longest request needs {servable} tokens of KV cache; a replica on {deployment.gpu} "
            f"{deployment.split} {deployment.dtype} holds {capacity}"
        )
    return answer


def reasons(rejected: Sequence[Rejected]) -> list[tuple[str, int]]:
    """(reason, how many configurations), the commonest first."""
    counts: Counter[str] = Counter()
    for r in rejected:
        counts[r.reason] += r.configurations
    return counts.most_common()


@lru_cache(maxsize=65536)
def _check_replica(model: ModelSpec, deployment: DeploymentSpec) -> int | str:
    """The block count, or the reason why there is none."""
    from simserve import diffusion
    from simserve.arch.decoder import decoder_ops
    from simserve.arch.dtypes import check_dtype
    from simserve.build import deployment_blocks, host_blocks, layout_of
    from simserve.perf.layers import hosted_attention
    from simserve.spec.hardware import load_gpu
    from simserve.spec.model import has_fp8_weights

    if (problem := diffusion.mismatch(model, deployment.scheduler)) is not None:
        return problem
    if has_fp8_weights(model.name) and deployment.dtype not in ("fp8", "fp8_block"):
        return f"the weights of {model.name} are fp8: set dtype to fp8"
    gpu = load_gpu(deployment.gpu)
    budget = deployment.max_num_batched_tokens
    if budget < deployment.max_num_seqs:
        return f"max_num_batched_tokens {budget} is below max_num_seqs {deployment.max_num_seqs}"
    if deployment.offload is not None and deployment.gpus_per_replica != deployment.tensor_parallel_size:
        return "offload is modelled beside tensor parallelism alone"
    try:
        check_dtype(gpu, deployment.dtype)
        diffusion.check_engine(model, deployment)
        layout = layout_of(deployment)
        layout.check(model)
        ops = decoder_ops(model, layout.tp, expert_parallel=layout.expert_parallel, expert_ranks=layout.expert_ranks,
                          moe_tp=layout.moe_tp)  # fmt: skip
        if host_blocks(model, deployment) is not None:
            hosted_attention(ops, deployment.num_speculative_tokens)
        return deployment_blocks(model, deployment, gpu)
    except Infeasible as error:
        return str(error)


def nothing_fits(rejected: Sequence[Rejected]) -> str:
    """The one line that says why no configuration is possible."""
    reason, count = reasons(rejected)[0]
    whole = sum(r.configurations for r in rejected)
    if whole == 1:
        return reason
    if count == whole:
        return f"none of {count} configurations is possible: {reason}"
    return f"none of {whole} configurations is possible; {count} of them because {reason}"
