"""Gated delta nets (Qwen3.5): projections, passes, parameters and the state that a request holds instead of KV.

Names and sizes as in transformers' Qwen3_5MoeGatedDeltaNet; engines fuse the projections of queries, keys, values and
the output's gate into one GEMM, those of the two scalars per value head into another [known: vLLM, SGLang].
"""

from __future__ import annotations

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.ops import Elementwise, Gemm, LinearAttention
from simserve.arch.shard import Shard
from simserve.errors import Infeasible
from simserve.spec.model import ModelSpec

_STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def linear_attention(model: ModelSpec, part: Shard) -> LinearAttention | None:
    """The layers with a gated delta net on one rank, None for a model without; heads are split like those of attention.

    Raises Infeasible naming the divisor when the heads do not divide.
    """
    spec = model.linear
    if spec is None:
        return None
    ranks = model.num_attention_heads // part.heads
    for heads, what in ((spec.linear_num_key_heads, "key"), (spec.linear_num_value_heads, "value")):
        if heads % ranks:
            raise Infeasible(
                f"tensor_parallel_size {ranks} does not divide the {heads} linear {what} heads of {model.name}"
            )
    return LinearAttention(
        spec.linear_num_key_heads // ranks, spec.linear_num_value_heads // ranks, spec.linear_key_head_dim,
        spec.linear_value_head_dim, spec.linear_conv_kernel_dim, _STATE_BYTES[spec.mamba_ssm_dtype], spec.linear_layers,
    )  # fmt: skip


def linear_gemms(model: ModelSpec, part: Shard) -> tuple[Gemm, ...]:
    """Projections of the gated delta nets on one rank; the two scalars per head stay in 16 bits."""
    op = linear_attention(model, part)
    if op is None:
        return ()
    values = op.value_heads * op.value_dim
    return (
        Gemm("in_proj_qkvz", n=op.channels + values, k=model.hidden_size, count=op.count),
        Gemm("in_proj_ba", n=2 * op.value_heads, k=model.hidden_size, count=op.count, dtype="bf16"),
        Gemm("out_proj", n=model.hidden_size, k=values, count=op.count),
    )


def linear_passes(model: ModelSpec, part: Shard) -> tuple[Elementwise, ...]:
    """The norm of the output, weighted by its gate: two rows read, one written."""
    op = linear_attention(model, part)
    if op is None:
        return ()
    return (Elementwise("gated_norm", 3 * ACTIVATION_BYTES * op.value_heads * op.value_dim, op.count),)


def linear_parameters(model: ModelSpec, part: Shard) -> int:
    """Weights of the projections of all gated delta nets on one rank."""
    return sum(gemm.n * gemm.k * gemm.count for gemm in linear_gemms(model, part))


def linear_small_parameters(model: ModelSpec, part: Shard) -> int:
    """Convolution, decay and time-step bias per value head, and the norm over a value head, of all of them."""
    op = linear_attention(model, part)
    if op is None:
        return 0
    return op.count * (op.channels * op.conv + 2 * op.value_heads + op.value_dim)


def state_bytes_per_request(model: ModelSpec, part: Shard) -> int:
    """Bytes on one rank that a running request holds, however long it is: states, and inputs that convolutions recall.

    As vLLM's and SGLang's state slots: the state in mamba_ssm_dtype, conv - 1 inputs in 16 bits [known]; 0 without.
    """
    op = linear_attention(model, part)
    if op is None:
        return 0
    state = op.value_heads * op.key_dim * op.value_dim * op.state_bytes
    return op.count * (state + op.channels * (op.conv - 1) * ACTIVATION_BYTES)
