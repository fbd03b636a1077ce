"""Gated delta nets and sparse attention as operations and bytes, by hand."""

from __future__ import annotations

import pytest

from simserve.arch.decoder import decoder_ops
from simserve.arch.linear import state_bytes_per_request
from simserve.arch.memory import (
    kv_bytes_per_token,
    num_gpu_blocks,
    parameter_count,
    state_bytes,
    weight_bytes,
)
from simserve.arch.ops import Attention, Elementwise, Gemm, LinearAttention, SparseAttention
from simserve.arch.shard import shard
from simserve.errors import Infeasible
from simserve.run import simulate
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import ModelSpec, load_model
from simserve.workload.requests import RequestSet

QWEN, GLM, V32 = "Qwen/Qwen3.5-397B-A17B", "zai-org/GLM-5", "deepseek-ai/DeepSeek-V3.2"


def test_qwen_over_four_ranks() -> None:
    """Gates double the queries; 15 layers attend, 45 have a net of 4 key and 16 value heads, two scalars each."""
    ops = decoder_ops(load_model(QWEN), 4, "fp8_block")
    assert ops.gemms == (
        Gemm("qkv_proj", n=2 * 8 * 256 + 2 * 256, k=4096, count=15),
        Gemm("o_proj", n=4096, k=8 * 256, count=15),
        Gemm("in_proj_qkvz", n=2 * 4 * 128 + 2 * 16 * 128, k=4096, count=45),
        Gemm("in_proj_ba", n=32, k=4096, count=45, dtype="bf16"),
        Gemm("out_proj", n=4096, k=16 * 128, count=45),
        Gemm("router", n=512, k=4096, count=60, dtype="bf16"),
        Gemm("shared_gate_up_proj", n=512, k=4096, count=60),
        Gemm("shared_down_proj", n=4096, k=256, count=60),
    )
    net = LinearAttention(4, 16, 128, 128, conv=4, state_bytes=4, count=45)
    assert ops.attentions == (Attention(8, 1, 256, 15), net)
    assert net.channels == 2 * 4 * 128 + 16 * 128
    passes = {p.name: p for p in ops.elementwise}
    assert passes["add_rms_norm"] == Elementwise("add_rms_norm", 4 * 8192, 121)
    assert passes["output_gate"] == Elementwise("output_gate", 3 * 2 * 8 * 256, 15)
    assert passes["gated_norm"] == Elementwise("gated_norm", 3 * 2 * 16 * 128, 45)
    assert passes["qk_norm"].count == passes["rotary"].count == passes["kv_write"].count == 15
    assert "in_proj_ba_fp8_block_quant" not in passes
    assert passes["in_proj_qkvz_fp8_block_quant"].count == 45


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_gemms_of_all_ranks_hold_all_projections_of_qwen(ranks: int) -> None:
    """All weights but routed experts, routers, norms, convolutions and tables are columns of some rank's GEMM.

    Two key/value heads over more ranks are held more than once, the router on every rank.
    """
    model = load_model(QWEN)
    ops = decoder_ops(model, ranks)
    copies = max(ranks // 2, 1) - 1
    held = sum(ranks * g.n * g.k * g.count for g in ops.gemms if g.name != "router")
    held -= copies * 2 * 2 * 256 * 4096 * 15
    nets = 45 * (12288 * 4 + 2 * 64 + 128)
    norms = 60 * 2 * 4096 + 4096 + 15 * 2 * 256
    experts = 60 * 512 * 3 * 4096 * 1024
    rest = nets + norms + experts + 60 * (512 + 1) * 4096 + 2 * 248320 * 4096
    assert held + rest == parameter_count(model)


def test_blocks_of_glm_are_one_module() -> None:
    """No projection beside the module, three dense layers, kv_b_proj inside; nvfp4 keeps attention in 16 bits."""
    ops = decoder_ops(load_model(GLM), 8, "fp8_block")
    mlps = ["gate_up_proj", "down_proj", "router", "shared_gate_up_proj", "shared_down_proj"]
    assert [g.name for g in ops.gemms] == mlps
    assert ops.prefill_gemms == ()
    block = SparseAttention(8, 78, 6144, 2048, 512, 64, 192, 256, 32, 128, 2048, "fp8_block")
    assert ops.attentions == (block,)
    assert {"rotary", "kv_write", "latent_norm"}.isdisjoint(p.name for p in ops.elementwise)
    kept = decoder_ops(load_model(GLM), 8, "nvfp4")
    (narrow,) = kept.attentions
    assert isinstance(narrow, SparseAttention)
    assert narrow.dtype == "bf16"
    assert {g.name: g.dtype for g in kept.gemms}["shared_down_proj"] == ""


def test_parameters_follow_from_parts() -> None:
    """Checkpoints with the layers left out here; DeepSeek-V3.2 is V3 and an indexer a layer."""
    glm, mtp = load_model(GLM), 9_952_920_576
    assert parameter_count(glm) + mtp == 753_864_139_008
    qwen, draft, vision = load_model(QWEN), 6_595_568_128, 456_010_480
    assert parameter_count(qwen) + draft + vision == 403_397_928_944
    indexer = 1536 * 64 * 128 + 7168 * 128 + 2 * 128 + 7168 * 64
    assert parameter_count(load_model(V32)) == parameter_count(load_model("deepseek-ai/DeepSeek-V3")) + 61 * indexer


def test_what_stays_in_16_bits_weighs_so() -> None:
    """Qwen's nvfp4 checkpoint: projections and shared experts twice a byte, experts nine sixteenths of one."""
    model = load_model(QWEN)
    plain = model.model_copy(update={"nvfp4_keeps": ()})
    shared, full = 60 * 3 * 4096 * 1024, 15 * 4096 * (3 * 32 + 2 * 2) * 256
    nets = 45 * 4096 * (2 * 2048 + 2 * 8192 + 128 + 8192)
    more = weight_bytes(model, "nvfp4", 1) - weight_bytes(plain, "nvfp4", 1)
    assert more == pytest.approx((2 - 9 / 16) * (shared + full + nets), abs=2)


def test_an_nvfp4_checkpoint_may_keep_the_inputs_of_attention() -> None:
    """DeepSeek's: q_a, q_b, kv_a and kv_b in 16 bits, the output projection not; in prompts kv_b, too."""
    model = load_model("deepseek-ai/DeepSeek-V3")
    ops = decoder_ops(model, 8, "nvfp4")
    plain = model.model_copy(update={"nvfp4_keeps": ()})
    inputs = 7168 * (1536 + 576) + 128 * (1536 * 192 + 512 * 256)

    assert {gemm.name: gemm.dtype for gemm in ops.gemms if gemm.name.endswith(("a_proj", "b_proj", "o_proj"))} == {
        "qkv_a_proj": "bf16", "q_b_proj": "bf16", "o_proj": "",
    }  # fmt: skip
    assert [gemm.dtype for gemm in ops.prefill_gemms] == ["bf16"]
    assert [gemm.dtype for gemm in decoder_ops(model, 8, "fp8_block").prefill_gemms] == [""]
    more = weight_bytes(model, "nvfp4", 1) - weight_bytes(plain, "nvfp4", 1)
    assert more == pytest.approx(61 * (2 - 9 / 16) * inputs, abs=2)


def test_inputs_of_attention_alone_are_not_known_of_other_modules() -> None:
    """Where attention is one module, or a delta net, nothing tells its projections apart."""
    for name in (GLM, QWEN):
        with pytest.raises(ValueError, match="attention_inputs is not known"):
            ModelSpec.model_validate(load_model(name).model_dump() | {"nvfp4_keeps": ("attention_inputs",)})


def test_kv_grows_in_full_layers_alone_and_states_do_not() -> None:
    """15 layers of 2 heads of 256; per net 64 x 128 x 128 in fp32 and 3 x 12288 in 16 bits, over the ranks."""
    model = load_model(QWEN)
    assert kv_bytes_per_token(model, "auto", 1) == 15 * 2 * 2 * 256 * 2
    whole = 45 * (64 * 128 * 128 * 4 + 3 * 12288 * 2)
    assert state_bytes_per_request(model, shard(model, 1)) == whole == 192_061_440
    assert state_bytes(model, 256, 8) == 256 * whole // 8
    assert state_bytes(load_model("Qwen/Qwen3-8B"), 256, 1) == 0


def test_latent_vectors_and_index_keys_are_cached() -> None:
    """16 bit: 1152 + 132 bytes a layer; fp8: 512 with 4 scales, 64 in 16 bits, and the same key; on every rank."""
    for name, layers in ((GLM, 78), (V32, 61)):
        model = load_model(name)
        assert kv_bytes_per_token(model, "auto", 8) == layers * (576 * 2 + 132)
        assert kv_bytes_per_token(model, "fp8", 1) == layers * (656 + 132)


def _blocks(seqs: int) -> int:
    return num_gpu_blocks(
        load_model(QWEN), load_gpu("b200_sxm"), tp=4, dtype="fp8_block", kv_cache_dtype="auto",
        gpu_memory_utilization=0.9, block_size=16, max_num_batched_tokens=8192, max_num_seqs=seqs,
    )  # fmt: skip


def test_state_slots_take_room_from_kv_blocks() -> None:
    """A slot more costs its bytes in blocks (16 tokens of 15 layers with a replicated head); too many do not fit."""
    slot, block = 192_061_440 // 4, 16 * 15 * 2 * 256 * 2
    assert _blocks(8) - _blocks(40) == pytest.approx(32 * slot / block, abs=1)
    with pytest.raises(Infeasible, match="of state slots"):
        _blocks(4096)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"linear_num_key_heads": 2}, "does not divide the 2 linear key heads"),
        ({"linear_num_value_heads": 6}, "does not divide the 6 linear value heads"),
    ],
)
def test_heads_of_nets_must_divide(change: dict[str, int], problem: str) -> None:
    """As attention heads must."""
    model = load_model(QWEN)
    assert model.linear is not None
    other = model.model_copy(update={"linear": model.linear.model_copy(update=change)})
    with pytest.raises(Infeasible, match=problem):
        decoder_ops(other, 4)


def test_impossible_hybrids_are_refused() -> None:
    """Sparse attention without a latent vector, and no layer of full attention left."""
    fields = load_model(GLM).model_dump()
    with pytest.raises(Exception, match="sparse attention needs latent attention"):
        parse(ModelSpec, {**fields, "latent": None}, file="x")
    fields = load_model(QWEN).model_dump()
    with pytest.raises(Exception, match="must leave a layer of full attention"):
        parse(ModelSpec, {**fields, "num_hidden_layers": 45}, file="x")


@pytest.mark.parametrize(("name", "gpu", "ranks"), [(QWEN, "b200_sxm", 4), (GLM, "h200_sxm", 8), (V32, "h200_sxm", 8)])
def test_hybrids_are_served(name: str, gpu: str, ranks: int) -> None:
    """Sixteen requests through SGLang's scheduler finish, more of them sooner than one after the other."""
    import numpy as np

    engine = {"gpu": gpu, "tensor_parallel_size": ranks, "dtype": "fp8_block", "scheduler": "sglang"}
    deployment, zeros = parse(DeploymentSpec, {**engine, "max_num_seqs": 16}, file="x"), np.zeros(16, dtype=np.int64)
    ends = []
    for together in (1, 8):
        requests = RequestSet(zeros, zeros + 1500, zeros + 20, zeros, together, {})
        ends.append(simulate(load_model(name), deployment, requests).trace.end_ns)
    assert 0 < ends[1] < ends[0]
