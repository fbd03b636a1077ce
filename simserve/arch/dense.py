"""A dense decoder (llama, mistral, qwen2, qwen3) as the operations of one step of one rank."""

from __future__ import annotations

from simserve.arch.dtypes import ACTIVATION_BYTES, element_bytes
from simserve.arch.ops import AllReduce, Attention, Elementwise, Gemm, StepOps
from simserve.arch.shard import Shard, shard
from simserve.spec.model import ModelSpec


def dense_ops(model: ModelSpec, tensor_parallel_size: int, dtype: str = "bf16") -> StepOps:
    """The operations of one step, per rank; projections fused as serving engines fuse them.

    With fp8 weights each GEMM's input is quantised in a pass of its own (dynamic, per token, not fused with
    the norm before it [derived]). Raises Infeasible when the model does not split over `tensor_parallel_size` ranks.
    """
    part = shard(model, tensor_parallel_size)
    layers, hidden = model.num_hidden_layers, model.hidden_size
    return StepOps(
        gemms=_gemms(model, part),
        attention=Attention(part.heads, part.kv_heads, model.head_dim, layers),
        all_reduces=_all_reduces(model, part),
        elementwise=_elementwise(model, part) + _quantisation(model, part, dtype),
        lm_head=Gemm("lm_head", n=part.vocab_rows, k=hidden, count=1),
    )


def _gemms(model: ModelSpec, part: Shard) -> tuple[Gemm, ...]:
    layers, hidden = model.num_hidden_layers, model.hidden_size
    query = part.heads * model.head_dim
    return (
        Gemm("qkv_proj", n=query + 2 * part.kv_heads * model.head_dim, k=hidden, count=layers),
        Gemm("o_proj", n=hidden, k=query, count=layers),
        Gemm("gate_up_proj", n=2 * part.intermediate_size, k=hidden, count=layers),
        Gemm("down_proj", n=hidden, k=part.intermediate_size, count=layers),
    )


def _all_reduces(model: ModelSpec, part: Shard) -> tuple[AllReduce, ...]:
    """Two a layer (after attention and after the MLP), and one for the vocabulary-split embedding."""
    if part.ranks == 1:
        return ()
    row = ACTIVATION_BYTES * model.hidden_size
    return (AllReduce(row, count=2 * model.num_hidden_layers + 1, ranks=part.ranks),)


def _elementwise(model: ModelSpec, part: Shard) -> tuple[Elementwise, ...]:
    """HBM traffic of the passes between the GEMMs, each reading its inputs and writing its outputs once."""
    layers, row = model.num_hidden_layers, ACTIVATION_BYTES * model.hidden_size
    kv_row = ACTIVATION_BYTES * part.kv_heads * model.head_dim
    query_key = ACTIVATION_BYTES * part.heads * model.head_dim + kv_row
    passes = [
        Elementwise("embedding", 2 * row, 1),
        # Reads and writes both the activations and the residual stream; the last one is the final norm.
        Elementwise("add_rms_norm", 4 * row, 2 * layers + 1),
        Elementwise("rotary", 2 * query_key, layers),
        Elementwise("kv_write", 4 * kv_row, layers),
        Elementwise("silu_and_mul", 3 * ACTIVATION_BYTES * part.intermediate_size, layers),
    ]
    if model.qk_norm:
        passes.append(Elementwise("qk_norm", 2 * query_key, layers))
    return tuple(passes)


def _quantisation(model: ModelSpec, part: Shard, dtype: str) -> tuple[Elementwise, ...]:
    """Read 16 bit, write fp8, before each of the four projections of a layer."""
    if dtype != "fp8":
        return ()
    each = ACTIVATION_BYTES + element_bytes(dtype)
    return tuple(
        Elementwise(f"{gemm.name}_fp8_quant", each * gemm.k, gemm.count) for gemm in _gemms(model, part)
    )
