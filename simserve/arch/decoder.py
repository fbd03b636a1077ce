"""A decoder as the operations of one step of one rank: attention of any published kind, MLP or experts."""

from __future__ import annotations

from dataclasses import replace

from simserve.arch.dtypes import ACTIVATION_BYTES, QUANTISED, quantised_bytes
from simserve.arch.linear import linear_attention, linear_gemms, linear_passes
from simserve.arch.ops import AllReduce, AnyAttention, Attention, Elementwise, Experts, Gemm, LatentAttention, StepOps
from simserve.arch.shard import Shard, shard
from simserve.arch.sparse import sparse_attention
from simserve.spec.model import LatentSpec, ModelSpec

ROUTER_DTYPE = "bf16"  # routers stay in 16 bits in every published checkpoint


def decoder_ops(
    model: ModelSpec, tensor_parallel_size: int, dtype: str = "bf16", *, expert_parallel: bool = False,
    expert_ranks: int = 0, moe_tp: int = 0,
) -> StepOps:  # fmt: skip
    """The operations of one step, per rank; projections fused as serving engines fuse them.

    With fp8 or fp4 weights each GEMM's input is quantised in a pass of its own (dynamic, not fused with the norm before
    it [derived]). Raises Infeasible when the model does not split over `tensor_parallel_size` ranks.
    """
    part = shard(model, tensor_parallel_size, expert_parallel, expert_ranks=expert_ranks, moe_tp=moe_tp)
    return StepOps(
        gemms=_gemms(model, part, dtype),
        attentions=_attentions(model, part, dtype),
        all_reduces=_all_reduces(model, part),
        elementwise=_elementwise(model, part) + _quantisation(model, part, dtype),
        lm_head=Gemm("lm_head", n=part.vocab_rows, k=model.hidden_size, count=1),
        experts=_experts(model, part),
        prefill_gemms=_prefill_gemms(model, part, dtype),
    )


def _gemms(model: ModelSpec, part: Shard, dtype: str) -> tuple[Gemm, ...]:
    """Projections, unless attention is one module, and MLPs; what an nvfp4 checkpoint keeps in 16 bits says so."""
    if model.sparse is not None:
        projections: tuple[Gemm, ...] = ()
    elif model.latent is not None:
        projections = _latent_gemms(model, model.latent, part)
    else:
        projections = (*_attention_gemms(model, part), *linear_gemms(model, part))
    if dtype != "nvfp4" or not model.nvfp4_keeps:
        return (*projections, *_mlp_gemms(model, part))
    shared = "shared" in model.nvfp4_keeps
    mlp = (_wide(gemm) if shared and gemm.name.startswith("shared_") else gemm for gemm in _mlp_gemms(model, part))
    return (*(_wide(gemm) if _keeps(model, gemm) else gemm for gemm in projections), *mlp)


def _keeps(model: ModelSpec, projection: Gemm) -> bool:
    """Whether the nvfp4 checkpoint leaves a projection of attention in 16 bits."""
    inputs = "attention_inputs" in model.nvfp4_keeps and projection.name != "o_proj"
    return inputs or "attention" in model.nvfp4_keeps


def _wide(gemm: Gemm) -> Gemm:
    return replace(gemm, dtype="bf16")


def _attention_gemms(model: ModelSpec, part: Shard) -> tuple[Gemm, ...]:
    layers, hidden = model.attention_layers, model.hidden_size
    query = part.heads * model.head_dim
    gated = 2 * query if model.attention_output_gate else query
    return (
        Gemm("qkv_proj", n=gated + 2 * part.kv_heads * model.head_dim, k=hidden, count=layers),
        Gemm("o_proj", n=hidden, k=query, count=layers),
    )


def _latent_gemms(model: ModelSpec, latent: LatentSpec, part: Shard) -> tuple[Gemm, ...]:
    """The down-projections are fused and on every rank; K and V are expanded in prompts alone (`_prefill_gemms`)."""
    layers, hidden = model.num_hidden_layers, model.hidden_size
    down = latent.q_lora_rank + latent.kv_lora_rank + latent.qk_rope_head_dim
    query = part.heads * (latent.qk_nope_head_dim + latent.qk_rope_head_dim)
    return (
        Gemm("qkv_a_proj", n=down, k=hidden, count=layers),
        Gemm("q_b_proj", n=query, k=latent.q_lora_rank, count=layers),
        Gemm("o_proj", n=hidden, k=part.heads * latent.v_head_dim, count=layers),
    )


def _prefill_gemms(model: ModelSpec, part: Shard, dtype: str) -> tuple[Gemm, ...]:
    latent = model.latent
    if latent is None or model.sparse is not None:
        return ()
    width = part.heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    expand = Gemm("kv_b_proj", n=width, k=latent.kv_lora_rank, count=model.num_hidden_layers)
    return (_wide(expand) if dtype == "nvfp4" and _keeps(model, expand) else expand,)


def _mlp_gemms(model: ModelSpec, part: Shard) -> tuple[Gemm, ...]:
    hidden, found = model.hidden_size, []
    if model.dense_layers:
        found += _gate_up_down("", part.intermediate_size, hidden, model.dense_layers, gated=model.gated_mlp)
    if model.experts is not None:
        router = Gemm("router", n=model.experts.num_experts, k=hidden, count=model.expert_layers, dtype=ROUTER_DTYPE)
        found.append(router)
        if part.shared_size:
            found += _gate_up_down("shared_", part.shared_size, hidden, model.expert_layers)
    return tuple(found)


def _gate_up_down(prefix: str, columns: int, hidden: int, count: int, *, gated: bool = True) -> list[Gemm]:
    up = ("gate_up_proj", 2 * columns) if gated else ("up_proj", columns)
    return [
        Gemm(f"{prefix}{up[0]}", n=up[1], k=hidden, count=count),
        Gemm(f"{prefix}down_proj", n=hidden, k=columns, count=count),
    ]


def _attentions(model: ModelSpec, part: Shard, dtype: str) -> tuple[AnyAttention, ...]:
    layers, sliding = model.attention_layers, model.sliding_layers
    sparse, linear = sparse_attention(model, part, dtype), linear_attention(model, part)
    if sparse is not None:
        return (sparse,)
    if model.latent is not None:
        return (LatentAttention(part.heads, layers),)
    found: list[AnyAttention] = [Attention(part.heads, part.kv_heads, model.head_dim, layers - sliding)]
    if sliding:
        found.append(Attention(part.heads, part.kv_heads, model.head_dim, sliding, model.sliding_window or 0))
    return (*found, linear) if linear else tuple(found)


def _experts(model: ModelSpec, part: Shard) -> Experts | None:
    e = model.experts
    if e is None:
        return None
    return Experts(model.hidden_size, e.moe_intermediate_size, e.num_experts, e.num_experts_per_tok, part.moe_tp,
                   part.moe_ep, model.expert_layers)  # fmt: skip


def _all_reduces(model: ModelSpec, part: Shard) -> tuple[AllReduce, ...]:
    """Two a layer (after attention and after MLP or experts), and one for the vocabulary-split embedding.

    A norm over all heads needs a third: the squares of query and key, two fp32 numbers a token (vLLM's
    MiniMaxText01RMSNormTP [known]).
    """
    if part.ranks == 1:
        return ()
    row = ACTIVATION_BYTES * model.hidden_size
    rows = AllReduce(row, count=2 * model.num_hidden_layers + 1, ranks=part.ranks)
    return (rows, AllReduce(8, count=model.attention_layers, ranks=part.ranks)) if model.qk_norm_whole else (rows,)


def _elementwise(model: ModelSpec, part: Shard) -> tuple[Elementwise, ...]:
    """HBM traffic of the passes between the GEMMs, each reading its inputs and writing its outputs once."""
    row = ACTIVATION_BYTES * model.hidden_size
    passes = [
        Elementwise("embedding", 2 * row, 1),
        # Reads and writes both the activations and the residual stream; the last one is the final norm.
        Elementwise("add_rms_norm", 4 * row, 2 * model.num_hidden_layers + 1),
        *(() if model.sparse else _attention_passes(model, part)),
        *linear_passes(model, part),
    ]
    if model.dense_layers:
        name = "silu_and_mul" if model.gated_mlp else "relu"
        row_bytes = model.mlp_matrices * ACTIVATION_BYTES * part.intermediate_size
        passes.append(Elementwise(name, row_bytes, model.dense_layers))
    if part.shared_size:
        passes.append(Elementwise("shared_silu_and_mul", 3 * ACTIVATION_BYTES * part.shared_size, model.expert_layers))
    if model.experts is not None and model.experts.shared_gate:
        # One number a token out of the hidden row, and the shared experts' row times it.
        passes.append(Elementwise("shared_gate", 3 * row, model.expert_layers))
    return tuple(passes)


def _attention_passes(model: ModelSpec, part: Shard) -> tuple[Elementwise, ...]:
    """Passes beside attention, where they are not part of a module that was measured whole."""
    layers = model.attention_layers
    kv_row, query_key = _rows(model, part)
    passes = [Elementwise("kv_write", 4 * kv_row, layers)]
    if not model.learned_positions:
        passes.insert(0, Elementwise("rotary", 2 * query_key, layers))
    if model.qk_norm:
        passes.append(Elementwise("qk_norm", 2 * query_key, layers))
    if model.attention_output_gate:
        passes.append(Elementwise("output_gate", 3 * ACTIVATION_BYTES * part.heads * model.head_dim, layers))
    if model.latent is not None:
        ranks = model.latent.q_lora_rank + model.latent.kv_lora_rank
        passes.append(Elementwise("latent_norm", 2 * ACTIVATION_BYTES * ranks, layers))
    return tuple(passes)


def _rows(model: ModelSpec, part: Shard) -> tuple[int, int]:
    """Bytes a token that one layer caches as keys (half of the KV), and of the queries and keys that are rotated."""
    latent = model.latent
    if latent is not None:
        cached = ACTIVATION_BYTES * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        return cached // 2, ACTIVATION_BYTES * (part.heads + 1) * latent.qk_rope_head_dim
    kv_row = ACTIVATION_BYTES * part.kv_heads * model.head_dim
    return kv_row, ACTIVATION_BYTES * part.heads * model.head_dim + kv_row


def _quantisation(model: ModelSpec, part: Shard, dtype: str) -> tuple[Elementwise, ...]:
    """Read 16 bit, write 8 or 4, before each GEMM in the deployment's format."""
    if dtype not in QUANTISED:
        return ()
    each = ACTIVATION_BYTES + quantised_bytes(dtype)
    gemms = (gemm for gemm in _gemms(model, part, dtype) if not gemm.dtype)
    return tuple(Elementwise(f"{gemm.name}_{dtype}_quant", round(each * gemm.k), gemm.count) for gemm in gemms)
