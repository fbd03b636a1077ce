"""Bytes on one rank: weights, KV cache, activations, and the KV blocks that are left.

The arithmetic of vLLM's start-up profile: gpu_memory_utilization x device memory, less weights, less the
activation peak of the largest step, less what libraries hold, divided by the bytes of a KV block.
"""

from __future__ import annotations

from simserve.arch.dtypes import ACTIVATION_BYTES, DTYPES, check_dtype, element_bytes, weight_element_bytes
from simserve.arch.linear import linear_parameters, linear_small_parameters, state_bytes_per_request
from simserve.arch.shard import Shard, shard
from simserve.arch.sparse import index_parameters, index_small_parameters, sparse_bytes_per_token
from simserve.errors import Infeasible
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec
from simserve.units import MIB, format_bytes

__all__ = [
    "DTYPES",
    "activation_bytes",
    "blocks_left",
    "check_dtype",
    "element_bytes",
    "image_kv_bytes",
    "kv_bytes_per_token",
    "num_gpu_blocks",
    "parameter_count",
    "runtime_bytes",
    "state_bytes",
    "static_share",
    "weight_bytes",
]

FP32_BYTES = 4
# What public vLLM start-up logs call non_torch_memory: 0.05 to 0.20 GiB, 0.12 for Llama-3.1-8B on an H100.
LIBRARY_BYTES = 123 * MIB
# NCCL buffers at 2 ranks, and at 4 or 8: nccl_mem of the system files of aiconfigurator-core 0.12.0.
NCCL_BYTES_2, NCCL_BYTES_MORE = 358_612_992, 411_041_792
# SGLang's largest captured batch, below 4 ranks and from 4 on, by device memory below so many MiB [known: server_args].
SGLANG_CAPTURED = (
    (20_480, 8, 8), (35_840, 24, 80), (61_440, 32, 160), (163_840, 256, 512), (float("inf"), 512, 512),
)  # fmt: skip


def parameter_count(model: ModelSpec) -> int:
    """Parameters of the whole model, biases and norms included; tied embeddings counted once."""
    whole = shard(model, 1)
    tables = model.vocab_size * (1 if model.tie_word_embeddings else 2) + model.learned_positions
    embeddings = tables * model.hidden_size
    routers = _router_parameters(model) + _expert_biases(model)
    linear = _attention_parameters(model, whole) + _mlp_parameters(model, whole)
    return embeddings + linear + _expert_parameters(model, 1) + routers + _small_parameters(
        model, whole
    )


def weight_bytes(
    model: ModelSpec, dtype: str, tensor_parallel_size: int, *, moe_dtype: str = "", expert_parallel: bool = False,
    expert_ranks: int = 0, moe_tp: int = 0, tables: int | None = None,
) -> int:  # fmt: skip
    """Bytes of weights on one rank. moe_dtype: of the experts, '' for dtype; expert_ranks, moe_tp: as in `shard`;
    tables: how many of embedding and LM head lie here, None for all of the model's.

    Quantised formats hold the linear layers; embeddings, LM head, routers, norms and biases stay in two bytes, as vLLM
    keeps them. Scales of fp8 are left out: one number a tensor, or 1/4096 of the weights with 128 x 128 blocks.
    """
    part = shard(model, tensor_parallel_size, expert_parallel, expert_ranks=expert_ranks, moe_tp=moe_tp)
    tables = (1 if model.tie_word_embeddings else 2) if tables is None else tables
    rows = tables * part.vocab_rows + model.learned_positions
    wide = rows * model.hidden_size + _small_parameters(model, part) + _router_parameters(model)
    wide += _expert_biases(model) // part.ranks
    linear = weight_element_bytes(dtype) * (_attention_parameters(model, part) + _mlp_parameters(model, part))
    if dtype == "nvfp4":
        linear += (ACTIVATION_BYTES - weight_element_bytes(dtype)) * _kept_parameters(model, part)
    experts = weight_element_bytes(moe_dtype or dtype) * _expert_parameters(model, expert_ranks or part.ranks)
    return ACTIVATION_BYTES * wide + round(linear + experts)


def kv_bytes_per_token(model: ModelSpec, kv_cache_dtype: str, tensor_parallel_size: int) -> int:
    """Bytes that one token more takes on one rank, all layers. 'auto' is two bytes an element.

    Latent attention caches one vector for all heads, on every rank, and an indexer its key beside. Layers with a
    sliding window stop growing at the window, so they are left out (vLLM's hybrid KV cache gives such blocks back);
    gated delta nets cache nothing per token (`state_bytes`).
    """
    if model.latent is not None and model.sparse is not None:
        return model.num_hidden_layers * sparse_bytes_per_token(model.latent, model.sparse, kv_cache_dtype)
    if model.latent is not None:
        elements = model.num_hidden_layers * (model.latent.kv_lora_rank + model.latent.qk_rope_head_dim)
        return elements * element_bytes(kv_cache_dtype)
    part = shard(model, tensor_parallel_size)
    layers = model.attention_layers - model.sliding_layers
    return 2 * layers * part.kv_heads * model.head_dim * element_bytes(kv_cache_dtype)


def image_kv_bytes(model: ModelSpec, tokens: int, kv_cache_dtype: str = "auto") -> int:
    """Keys and values that layers of cross attention keep of so many image tokens; 0 for models without such layers."""
    layers = model.vision.cross_attention_layers if model.vision else 0
    return 2 * layers * model.num_key_value_heads * model.head_dim * element_bytes(kv_cache_dtype) * tokens


def state_bytes(model: ModelSpec, max_num_seqs: int, tensor_parallel_size: int) -> int:
    """Bytes on one rank of the state slots, one for each request that may run; 0 without gated delta nets."""
    return max_num_seqs * state_bytes_per_request(model, shard(model, tensor_parallel_size))


def activation_bytes(
    model: ModelSpec, max_num_batched_tokens: int, max_num_seqs: int, tensor_parallel_size: int
) -> int:
    """Peak of the largest step on one rank [derived], the larger of two moments.

    In the MLP of a full step: the residual and one hidden row, gate and up, and their product; with experts, for each
    of a token's experts. At the sampler: logits of max_num_seqs rows in two bytes, their fp32 copy, and fp32
    probabilities; the hidden rows of the step still live.
    """
    part = shard(model, tensor_parallel_size)
    hidden_rows = 2 * ACTIVATION_BYTES * model.hidden_size
    mlp_row = model.mlp_matrices * ACTIVATION_BYTES * part.intermediate_size if model.dense_layers else 0
    if model.experts is not None:
        inner = model.experts.moe_intermediate_size // part.moe_tp
        expert_row = ACTIVATION_BYTES * model.experts.num_experts_per_tok * (max(2 * inner, model.hidden_size) + inner)
        mlp_row = max(mlp_row, expert_row)
    attention_row = 2 * ACTIVATION_BYTES * (part.heads + part.kv_heads) * model.head_dim
    body = max_num_batched_tokens * (hidden_rows + max(mlp_row, attention_row))
    logits_row = model.vocab_size * (ACTIVATION_BYTES + 2 * FP32_BYTES)
    return max(body, max_num_batched_tokens * hidden_rows + max_num_seqs * logits_row)


def runtime_bytes(tensor_parallel_size: int) -> int:
    """What libraries hold outside the allocator on one rank: workspaces, and NCCL with ranks > 1."""
    if tensor_parallel_size == 1:
        return LIBRARY_BYTES
    return LIBRARY_BYTES + (NCCL_BYTES_2 if tensor_parallel_size == 2 else NCCL_BYTES_MORE)


def static_share(gpu: GpuSpec, ranks: int, dp: int, chunk_tokens: int, drafts: int) -> float:
    """SGLang's default mem_fraction_static: what a prompt chunk, captured batches and large layouts do not take.

    ranks: of tensor and pipeline parallelism together; chunk_tokens: its chunked_prefill_size; drafts: tokens drafted a
    step. In MiB, as `server_args.py` of 0.5.6 to 0.5.9 has it [known].
    """
    total = gpu.memory_bytes / MIB
    few, many = next((few, many) for limit, few, many in SGLANG_CAPTURED if total < limit)
    captured = few if ranks < 4 else many
    reserved = 512 + 1.5 * max(chunk_tokens, 2048) + 2 * captured + 128 * ranks
    if dp > 1:
        reserved += (4.5 if captured > 300 else 3) * captured * dp
    reserved = max(reserved, 10_240 if total > 61_440 else 0) + (2048 if drafts else 0)
    return max(0.0, round((total - reserved) / total, 3))


def num_gpu_blocks(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    tp: int,
    dtype: str,
    kv_cache_dtype: str,
    gpu_memory_utilization: float,
    block_size: int,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    moe_dtype: str = "",
    expert_parallel: bool = False,
    rule: str = "utilization",
) -> int:
    """KV blocks that fit on one rank, the null block that vLLM never hands out included.

    rule: what `gpu_memory_utilization` is a share of, one of `simserve.perf.host.MEMORY_RULES`: "static" is of what
    libraries leave and holds weights and KV, "free" is of what weights, activations and libraries leave.

    Raises Infeasible with the byte counts in words when fewer than two fit, or the dtype is not supported.
    """
    check_dtype(gpu, dtype)
    check_dtype(gpu, moe_dtype or dtype)
    return blocks_left(
        f"{model.name} in {dtype} over {tp} x {gpu.name}", gpu, gpu_memory_utilization,
        weights=weight_bytes(model, dtype, tp, moe_dtype=moe_dtype, expert_parallel=expert_parallel),
        step=activation_bytes(model, max_num_batched_tokens, max_num_seqs, tp),
        libraries=runtime_bytes(tp),
        block_bytes=block_size * kv_bytes_per_token(model, kv_cache_dtype, tp), rule=rule,
        states=state_bytes(model, max_num_seqs, tp),
    )  # fmt: skip


def blocks_left(
    what: str, gpu: GpuSpec, gpu_memory_utilization: float, *, weights: int, step: int, libraries: int,
    block_bytes: int, rule: str = "utilization", states: int = 0,
) -> int:  # fmt: skip
    """KV blocks that weights, activations of the largest step and libraries (bytes on one GPU) leave.

    Raises Infeasible with the byte counts in words when fewer than two fit. what: who does not fit; rule: what the
    memory fraction is of, see `simserve.perf.host`; states: what state slots take.
    """
    budget = int(gpu.memory_bytes * gpu_memory_utilization)
    left = budget - weights - states - step - libraries
    if rule == "static":
        left = int((gpu.memory_bytes - libraries) * gpu_memory_utilization) - weights - states
    elif rule == "free":
        left = int((gpu.memory_bytes - weights - states - step - libraries) * gpu_memory_utilization)
    blocks = left // block_bytes
    if blocks < 2:
        verdict = f"{format_bytes(left)} for KV" if left > 0 else f"{format_bytes(-left)} too little"
        slots = f", {format_bytes(states)} of state slots" if states else ""
        raise Infeasible(
            f"{what} does not fit: per GPU {format_bytes(weights)} "
            f"of weights{slots}, {format_bytes(step)} of activations and {format_bytes(libraries)} of libraries "
            f"against {format_bytes(budget)} available ({gpu_memory_utilization:g} of "
            f"{format_bytes(gpu.memory_bytes)}) leave {verdict}"
        )
    return blocks


def _attention_parameters(model: ModelSpec, part: Shard) -> int:
    """Weights of the projections of all layers, indexers and gated delta nets included, on one rank."""
    hidden, latent = model.hidden_size, model.latent
    if latent is None:
        queries = 3 * part.heads if model.attention_output_gate else 2 * part.heads
        attention = hidden * (queries + 2 * part.kv_heads) * model.head_dim
    else:
        down = hidden * (latent.q_lora_rank + latent.kv_lora_rank + latent.qk_rope_head_dim)
        query = latent.q_lora_rank * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
        expanded = latent.kv_lora_rank * (latent.qk_nope_head_dim + latent.v_head_dim)
        attention = down + part.heads * (query + expanded + latent.v_head_dim * hidden)
        attention += index_parameters(model, latent, model.sparse) if model.sparse else 0
    return model.attention_layers * attention + linear_parameters(model, part)


def _mlp_parameters(model: ModelSpec, part: Shard) -> int:
    """Weights of the dense MLPs and shared experts of all layers on one rank."""
    shared = model.expert_layers * part.shared_size
    return model.mlp_matrices * model.hidden_size * (model.dense_layers * part.intermediate_size + shared)


def _kept_parameters(model: ModelSpec, part: Shard) -> int:
    """Weights that the published nvfp4 checkpoint leaves in 16 bits."""
    kept = 0
    if "attention" in model.nvfp4_keeps:
        kept = _attention_parameters(model, part)
    elif "attention_inputs" in model.nvfp4_keeps:
        width = model.latent.v_head_dim if model.latent else model.head_dim
        outputs = model.attention_layers * part.heads * width * model.hidden_size
        kept = _attention_parameters(model, part) - outputs
    if "shared" in model.nvfp4_keeps:
        kept += 3 * model.hidden_size * model.expert_layers * part.shared_size
    return kept


def _expert_parameters(model: ModelSpec, ranks: int) -> int:
    """Weights of the routed experts of all layers on one of `ranks` ranks, however they are split."""
    e = model.experts
    if e is None:
        return 0
    return model.expert_layers * e.num_experts * 3 * model.hidden_size * e.moe_intermediate_size // ranks


def _router_parameters(model: ModelSpec) -> int:
    """Routers, their corrections and the gates of shared experts, on every rank."""
    e = model.experts
    if e is None:
        return 0
    gate = model.hidden_size if e.shared_gate else 0
    return model.expert_layers * (e.num_experts * (model.hidden_size + e.router_bias + e.biases) + gate)


def _expert_biases(model: ModelSpec) -> int:
    e = model.experts
    if e is None or not e.biases:
        return 0
    return model.expert_layers * e.num_experts * (2 * e.moe_intermediate_size + model.hidden_size)


def _small_parameters(model: ModelSpec, part: Shard) -> int:
    """Norms and biases of all layers on one rank, and the final norm."""
    hidden, head_dim = model.hidden_size, model.head_dim
    layer = index_small_parameters(model)
    if model.qk_norm:
        layer += (part.heads + part.kv_heads) * head_dim if model.qk_norm_whole else 2 * head_dim
    if model.latent is not None:
        layer += model.latent.q_lora_rank + model.latent.kv_lora_rank
    if model.attention_sinks:
        layer += part.heads
    if model.attention_bias:
        layer += (part.heads + 2 * part.kv_heads) * head_dim
    if model.attention_output_bias:
        layer += hidden
    norms = (2 * model.num_hidden_layers + 1) * hidden
    total = model.attention_layers * layer + (2 * norms if model.norm_bias else norms)
    total += linear_small_parameters(model, part)
    if model.mlp_bias:
        total += model.dense_layers * ((model.mlp_matrices - 1) * part.intermediate_size + hidden)
    return total
