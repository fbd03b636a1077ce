"""A dense model as operations: shapes, splits over ranks, and the arithmetic that ties them to weights."""

from __future__ import annotations

import pytest

from simserve.arch.dense import dense_ops
from simserve.arch.memory import parameter_count
from simserve.arch.ops import AllReduce, Attention, Elementwise, Gemm
from simserve.errors import Infeasible
from simserve.spec.model import load_model, model_names

LLAMA_8B = "meta-llama/Llama-3.1-8B"


def test_gemms_of_llama_8b_on_one_gpu() -> None:
    """Fused qkv, o, gate-up and down, once a layer, and the LM head on the vocabulary."""
    ops = dense_ops(load_model(LLAMA_8B), 1)
    expected = (
        Gemm("qkv_proj", n=6144, k=4096, count=32),
        Gemm("o_proj", n=4096, k=4096, count=32),
        Gemm("gate_up_proj", n=28672, k=4096, count=32),
        Gemm("down_proj", n=4096, k=14336, count=32),
    )
    assert expected == ops.gemms
    assert Gemm("lm_head", n=128256, k=4096, count=1) == ops.lm_head
    assert Attention(heads=32, kv_heads=8, head_dim=128, count=32) == ops.attention
    assert ops.all_reduces == ()


def test_gemms_of_qwen_32b_over_eight_ranks() -> None:
    """Columns of qkv and gate-up and rows of o and down are split; head size need not be hidden / heads."""
    ops = dense_ops(load_model("Qwen/Qwen3-32B"), 8)
    expected = (
        Gemm("qkv_proj", n=8 * 128 + 2 * 128, k=5120, count=64),
        Gemm("o_proj", n=5120, k=8 * 128, count=64),
        Gemm("gate_up_proj", n=2 * 3200, k=5120, count=64),
        Gemm("down_proj", n=5120, k=3200, count=64),
    )
    assert expected == ops.gemms
    assert Gemm("lm_head", n=151936 // 8, k=5120, count=1) == ops.lm_head
    assert (AllReduce(bytes_per_token=10240, count=129, ranks=8),) == ops.all_reduces


def test_key_value_heads_are_replicated_beyond_their_number() -> None:
    """With 16 ranks and 8 key/value heads every rank holds one."""
    attention = dense_ops(load_model("meta-llama/Llama-3.1-70B"), 16).attention
    assert Attention(heads=4, kv_heads=1, head_dim=128, count=80) == attention


@pytest.mark.parametrize(
    ("changes", "ranks", "problem"),
    [
        ({}, 3, "tensor_parallel_size 3 does not divide the 32 attention heads"),
        ({}, 0, "tensor_parallel_size must be at least 1, not 0"),
        ({"intermediate_size": 14337}, 2, "does not divide the 14337 MLP columns"),
        ({"num_attention_heads": 36, "num_key_value_heads": 6}, 4, "does not divide the 6 key/value heads"),
        ({"num_attention_heads": 24, "num_key_value_heads": 3}, 8, "not a multiple of the 3 key/value heads"),
    ],
)
def test_a_split_that_does_not_come_out_is_infeasible(
    changes: dict[str, int], ranks: int, problem: str
) -> None:
    """The message names the divisor and what it fails to divide."""
    model = load_model(LLAMA_8B).model_copy(update=changes)
    with pytest.raises(Infeasible, match=problem):
        dense_ops(model, ranks)


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_gemms_of_all_ranks_hold_all_matrix_weights(name: str, ranks: int) -> None:
    """Up to 8 ranks nothing is replicated: n x k over layers and ranks, and the rest, make the model."""
    model = load_model(name)
    ops = dense_ops(model, ranks)
    matrices = ranks * sum(g.n * g.k * g.count for g in (*ops.gemms, ops.lm_head))
    norms = model.num_hidden_layers * (2 * model.hidden_size + 2 * model.head_dim * model.qk_norm)
    embedding = model.vocab_size * model.hidden_size
    assert parameter_count(model) == matrices + norms + model.hidden_size + embedding


def test_elementwise_traffic_of_llama_8b() -> None:
    """Bytes a token, by hand: 8192-byte rows, 14336 MLP columns, 4096 query and 1024 key elements."""
    expected = (
        Elementwise("embedding", 16384, 1),
        Elementwise("add_rms_norm", 32768, 65),
        Elementwise("rotary", 2 * (8192 + 2048), 32),
        Elementwise("kv_write", 8192, 32),
        Elementwise("silu_and_mul", 86016, 32),
    )
    assert expected == dense_ops(load_model(LLAMA_8B), 1).elementwise


def test_qwen3_also_norms_queries_and_keys() -> None:
    """One more pass over q and k a layer."""
    last = dense_ops(load_model("Qwen/Qwen3-8B"), 1).elementwise[-1]
    assert Elementwise("qk_norm", 2 * (8192 + 2048), 36) == last
