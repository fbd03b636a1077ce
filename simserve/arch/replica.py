"""Bytes on the fullest GPU of a replica of any layout, and the KV blocks that are left; see `memory` for one rank."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.arch.dtypes import ACTIVATION_BYTES, check_dtype
from simserve.arch.layout import Layout, stage_layers, stage_model
from simserve.arch.memory import (
    activation_bytes,
    blocks_left,
    kv_bytes_per_token,
    runtime_bytes,
    state_bytes,
    weight_bytes,
)
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec

# vLLM runs the experts over so many rows at a time (VLLM_FUSED_MOE_CHUNK_SIZE) [recalled].
EXPERT_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Engine:
    """Formats and limits of one rank: those of the deployment, of the same names."""

    dtype: str
    kv_cache_dtype: str
    moe_dtype: str
    max_num_batched_tokens: int
    max_num_seqs: int


def stage_weight_bytes(model: ModelSpec, layout: Layout, engine: Engine, stage: int) -> int:
    """Bytes of weights on one GPU of a pipeline stage: embedding in the first, LM head in the last one."""
    part = stage_model(model, *stage_layers(model.num_hidden_layers, layout.pp)[stage])
    tables = None if layout.pp == 1 else (stage == 0) + (stage == layout.pp - 1)
    return weight_bytes(
        part, engine.dtype, layout.tp, moe_dtype=engine.moe_dtype, expert_parallel=layout.expert_parallel,
        expert_ranks=layout.expert_ranks, moe_tp=layout.moe_tp, tables=tables,
    )  # fmt: skip


def stage_state_bytes(model: ModelSpec, layout: Layout, engine: Engine) -> list[int]:
    """Bytes of state slots on one GPU of each pipeline stage, one slot for each request that may run."""
    ends = stage_layers(model.num_hidden_layers, layout.pp)
    return [state_bytes(stage_model(model, *pair), engine.max_num_seqs, layout.tp) for pair in ends]


def step_bytes(model: ModelSpec, layout: Layout, engine: Engine) -> int:
    """Peak of the largest step on one GPU [derived].

    Where ranks with tokens of their own share the experts, the tokens of all of them are gathered first, and the
    experts' output lies beside them before it is scattered.
    """
    own = activation_bytes(model, engine.max_num_batched_tokens, engine.max_num_seqs, layout.tp)
    peers, experts = layout.dp * layout.pcp, model.experts
    if peers == 1 or experts is None:
        return own
    tokens = peers * engine.max_num_batched_tokens
    inside = layout.moe_tp or (1 if layout.expert_parallel else layout.stage_gpus)
    inner = experts.moe_intermediate_size // inside
    row = experts.num_experts_per_tok * (max(2 * inner, model.hidden_size) + inner) * inside // layout.stage_gpus
    return own + ACTIVATION_BYTES * (2 * tokens * model.hidden_size + min(tokens, EXPERT_ROWS) * row)


def block_bytes(model: ModelSpec, layout: Layout, kv_cache_dtype: str, block_size: int) -> int:
    """Bytes of one KV block on a GPU of the fullest stage; with context parallelism it holds more tokens than that."""
    return max(_stage_block_bytes(model, layout, kv_cache_dtype, block_size))


def rank_blocks(
    model: ModelSpec, gpu: GpuSpec, layout: Layout, engine: Engine, *, gpu_memory_utilization: float, block_size: int,
    rule: str = "utilization",
) -> int:  # fmt: skip
    """KV blocks of one data-parallel rank, the null block included: those of the stage with the least room.

    rule: as in `memory.blocks_left`. Raises Infeasible with the byte counts in words, or for what cannot be spread so.
    """
    layout.check(model)
    check_dtype(gpu, engine.dtype)
    check_dtype(gpu, engine.moe_dtype or engine.dtype)
    step = step_bytes(model, layout, engine)
    libraries, states = runtime_bytes(layout.gpus), stage_state_bytes(model, layout, engine)
    return min(
        blocks_left(
            f"{model.name} in {engine.dtype} over {layout.gpus} x {gpu.name}", gpu, gpu_memory_utilization,
            weights=stage_weight_bytes(model, layout, engine, stage), step=step, libraries=libraries,
            block_bytes=size, rule=rule, states=states[stage],
        )
        for stage, size in enumerate(_stage_block_bytes(model, layout, engine.kv_cache_dtype, block_size))
    )  # fmt: skip


def _stage_block_bytes(model: ModelSpec, layout: Layout, kv_cache_dtype: str, block_size: int) -> list[int]:
    ends = stage_layers(model.num_hidden_layers, layout.pp)
    return [block_size * kv_bytes_per_token(stage_model(model, *pair), kv_cache_dtype, layout.tp) for pair in ends]
