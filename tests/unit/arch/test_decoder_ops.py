"""A dense model as operations: shapes, splits over ranks, and the arithmetic that ties them to weights."""

from __future__ import annotations

import pytest

from simserve.arch.decoder import decoder_ops
from simserve.arch.memory import parameter_count
from simserve.arch.ops import AllReduce, Attention, Elementwise, Experts, Gemm, LatentAttention, SparseAttention
from simserve.errors import Infeasible
from simserve.perf.replica import _without_ends
from simserve.spec.model import load_model, model_names

LLAMA_8B = "meta-llama/Llama-3.1-8B"


def test_gemms_of_llama_8b_on_one_gpu() -> None:
    """Fused qkv, o, gate-up and down, once a layer, and the LM head on the vocabulary."""
    ops = decoder_ops(load_model(LLAMA_8B), 1)
    expected = (
        Gemm("qkv_proj", n=6144, k=4096, count=32),
        Gemm("o_proj", n=4096, k=4096, count=32),
        Gemm("gate_up_proj", n=28672, k=4096, count=32),
        Gemm("down_proj", n=4096, k=14336, count=32),
    )
    assert expected == ops.gemms
    assert Gemm("lm_head", n=128256, k=4096, count=1) == ops.lm_head
    assert Attention(heads=32, kv_heads=8, head_dim=128, count=32) == ops.attentions[0]
    assert ops.all_reduces == ()


def test_gemms_of_qwen_32b_over_eight_ranks() -> None:
    """Columns of qkv and gate-up and rows of o and down are split; head size need not be hidden / heads."""
    ops = decoder_ops(load_model("Qwen/Qwen3-32B"), 8)
    expected = (
        Gemm("qkv_proj", n=8 * 128 + 2 * 128, k=5120, count=64),
        Gemm("o_proj", n=5120, k=8 * 128, count=64),
        Gemm("gate_up_proj", n=2 * 3200, k=5120, count=64),
        Gemm("down_proj", n=5120, k=3200, count=64),
    )
    assert expected == ops.gemms
    assert Gemm("lm_head", n=151936 // 8, k=5120, count=1) == ops.lm_head
    assert (AllReduce(bytes_per_token=10240, count=129, ranks=8),) == ops.all_reduces


def test_a_norm_over_all_heads_sums_over_ranks() -> None:
    """MiniMax: two fp32 squares a token and layer beside the 2 x 62 + 1 rows; none on one rank."""
    minimax = load_model("MiniMaxAI/MiniMax-M2.5")
    rows, squares = decoder_ops(minimax, 4).all_reduces
    assert rows == AllReduce(bytes_per_token=6144, count=125, ranks=4)
    assert squares == AllReduce(bytes_per_token=8, count=62, ranks=4)
    assert decoder_ops(minimax, 1).all_reduces == ()
    later = _without_ends(decoder_ops(minimax, 4), first=False, last=True)
    assert [op.count for op in later.all_reduces] == [124, 62]


def test_a_gated_delta_net_is_a_dozen_launches() -> None:
    """Qwen3.5 on one rank, experts in one launch: 45 of 60 layers have a net, counted as 12 instead of 1."""
    ops = decoder_ops(load_model("Qwen/Qwen3.5-397B-A17B"), 1)
    several = (*ops.gemms, *ops.attentions, *ops.elementwise)
    assert ops.launches(1, linear_launches=12) == 1 + 60 + sum(op.count for op in several) + 45 * 11


def test_key_value_heads_are_replicated_beyond_their_number() -> None:
    """With 16 ranks and 8 key/value heads every rank holds one."""
    attention = decoder_ops(load_model("meta-llama/Llama-3.1-70B"), 16).attentions[0]
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
        decoder_ops(model, ranks)


DENSE_SPLITS = [
    (name, ranks)
    for name in model_names()
    for ranks in (1, 2, 4, 8)
    if load_model(name).experts is None and load_model(name).num_key_value_heads % ranks == 0
    if load_model(name).gated_mlp
]


@pytest.mark.parametrize(("name", "ranks"), DENSE_SPLITS)
def test_the_gemms_of_all_ranks_hold_all_matrix_weights(name: str, ranks: int) -> None:
    """Up to as many ranks as key/value heads nothing is replicated: n x k over layers and ranks, and the rest."""
    model = load_model(name)
    ops = decoder_ops(model, ranks)
    matrices = ranks * sum(g.n * g.k * g.count for g in (*ops.gemms, ops.lm_head))
    norms = model.num_hidden_layers * (2 * model.hidden_size + 2 * model.head_dim * model.qk_norm)
    heads = model.num_attention_heads + 2 * model.num_key_value_heads
    biases = model.num_hidden_layers * heads * model.head_dim * model.attention_bias
    padded = (ranks * ops.lm_head.n - model.vocab_size) * model.hidden_size  # rows that vLLM adds to the LM head
    embedding = model.vocab_size * model.hidden_size * (not model.tie_word_embeddings) - padded
    assert parameter_count(model) == matrices + norms + biases + model.hidden_size + embedding


def test_opt_has_two_matrices_an_mlp_and_no_rotation() -> None:
    """OPT-6.7B: 16384 columns up and down, relu over them, positions from a table."""
    ops = decoder_ops(load_model("facebook/opt-6.7b"), 1)

    assert [(g.name, g.n, g.k) for g in ops.gemms] == [
        ("qkv_proj", 12288, 4096), ("o_proj", 4096, 4096), ("up_proj", 16384, 4096), ("down_proj", 4096, 16384),
    ]  # fmt: skip
    assert [(e.name, e.bytes_per_token) for e in ops.elementwise] == [
        ("embedding", 16384), ("add_rms_norm", 32768), ("kv_write", 32768), ("relu", 65536),
    ]  # fmt: skip


def test_elementwise_traffic_of_llama_8b() -> None:
    """Bytes a token, by hand: 8192-byte rows, 14336 MLP columns, 4096 query and 1024 key elements."""
    expected = (
        Elementwise("embedding", 16384, 1),
        Elementwise("add_rms_norm", 32768, 65),
        Elementwise("rotary", 2 * (8192 + 2048), 32),
        Elementwise("kv_write", 8192, 32),
        Elementwise("silu_and_mul", 86016, 32),
    )
    assert expected == decoder_ops(load_model(LLAMA_8B), 1).elementwise


def test_qwen3_also_norms_queries_and_keys() -> None:
    """One more pass over q and k a layer."""
    passes = decoder_ops(load_model("Qwen/Qwen3-8B"), 1).elementwise
    assert passes.count(Elementwise("qk_norm", 2 * (8192 + 2048), 36)) == 1


REPLICATED = ("router", "qkv_a_proj")


def _splits() -> list[tuple[str, int, bool]]:
    """(model, ranks, expert parallelism) of every expert model, where the experts divide over the ranks."""
    sizes = {name: spec.experts.moe_intermediate_size for name in model_names() if (spec := load_model(name)).experts}
    ranks = ((1, False), (2, False), (8, False), (8, True))
    return [(name, n, spread) for name, size in sizes.items() for n, spread in ranks if spread or not size % n]


@pytest.mark.parametrize(("name", "ranks", "expert_parallel"), _splits())
def test_gemms_and_experts_of_all_ranks_hold_the_model(name: str, ranks: int, expert_parallel: bool) -> None:
    """n x k over layers and ranks, routers and down-projections once, and the experts; KV heads may be replicated."""
    model = load_model(name)
    ops = decoder_ops(model, ranks, expert_parallel=expert_parallel)
    gemms = (*ops.gemms, *ops.prefill_gemms, ops.lm_head)
    matrices = sum(g.n * g.k * g.count * (1 if g.name in REPLICATED else ranks) for g in gemms)
    modules = [a for a in ops.attentions if isinstance(a, SparseAttention)]
    matrices += sum(a.count * (a.shared_weights + ranks * a.head_weights) for a in modules)
    e = ops.experts
    assert e is not None
    assert e.tp * e.ep == ranks
    whole = matrices + 3 * e.hidden * e.inter * e.experts * e.count + model.vocab_size * model.hidden_size
    padding = (ops.lm_head.n * ranks - model.vocab_size) * model.hidden_size
    assert whole - padding == pytest.approx(parameter_count(model), rel=0.004)


def test_deepseek_v3_by_hand() -> None:
    """One of 8 ranks: 16 heads, three dense layers, a shared expert of 256 columns, experts split or shared out."""
    ops = decoder_ops(load_model("deepseek-ai/DeepSeek-V3"), 8, "fp8_block")
    shapes = {g.name: (g.n, g.k, g.count) for g in ops.gemms}
    assert shapes == {
        "qkv_a_proj": (1536 + 512 + 64, 7168, 61),
        "q_b_proj": (16 * 192, 1536, 61),
        "o_proj": (7168, 16 * 128, 61),
        "gate_up_proj": (2 * 18432 // 8, 7168, 3),
        "down_proj": (7168, 18432 // 8, 3),
        "router": (256, 7168, 58),
        "shared_gate_up_proj": (512, 7168, 58),
        "shared_down_proj": (7168, 256, 58),
    }
    assert ops.prefill_gemms == (Gemm("kv_b_proj", n=16 * 256, k=512, count=61),)
    assert ops.attentions == (LatentAttention(16, 61),)
    assert ops.experts == Experts(7168, 2048, 256, 8, tp=8, ep=1, count=58)
    parallel = decoder_ops(load_model("deepseek-ai/DeepSeek-V3"), 8, expert_parallel=True).experts
    assert parallel == Experts(7168, 2048, 256, 8, tp=1, ep=8, count=58)
    quantised = {e.name for e in ops.elementwise if e.name.endswith("_quant")}
    assert "router_fp8_block_quant" not in quantised
    assert "q_b_proj_fp8_block_quant" in quantised


def test_gpt_oss_has_two_kinds_of_attention() -> None:
    """Every second layer sees 128 keys."""
    assert decoder_ops(load_model("openai/gpt-oss-120b"), 4).attentions == (
        Attention(16, 2, 64, 18), Attention(16, 2, 64, 18, 128),
    )  # fmt: skip


def test_captured_pieces_leave_latent_attention_from_the_hidden_states_on() -> None:
    """61 layers: attention, three projections, in fp8 two passes that quantise, and the norm; of Llama attention."""
    deepseek = load_model("deepseek-ai/DeepSeek-V3")
    assert decoder_ops(deepseek, 8, "bf16").uncaptured_launches(latent_launches=15) == 61 * (15 + 3 + 1)
    assert decoder_ops(deepseek, 8, "fp8_block").uncaptured_launches(latent_launches=15) == 61 * (15 + 3 + 2 + 1)
    assert decoder_ops(load_model("meta-llama/Llama-3.1-8B"), 2).uncaptured_launches() == 32


def test_experts_that_cannot_be_split_are_infeasible() -> None:
    """256 experts over 3 ranks, 768 columns over 512."""
    deepseek = load_model("deepseek-ai/DeepSeek-V3")
    with pytest.raises(Infeasible, match="does not divide"):
        decoder_ops(deepseek.model_copy(update={"num_attention_heads": 129}), 3, expert_parallel=True)
    qwen = load_model("Qwen/Qwen3-30B-A3B")
    assert qwen.experts is not None
    odd = qwen.experts.model_copy(update={"moe_intermediate_size": 766})
    with pytest.raises(Infeasible, match="columns of an expert"):
        decoder_ops(qwen.model_copy(update={"experts": odd}), 4)
