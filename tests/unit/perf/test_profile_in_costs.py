"""What a profile changes in prices: factors, and the floor of steps that the host must launch."""

from dataclasses import replace
from pathlib import Path

import pytest

from simserve.api.hardware import vary_gpu
from simserve.arch.layout import Layout
from simserve.perf.host import kernel_folders, load_profile
from simserve.perf.model import TableCost, build_cost
from simserve.perf.replica import build_replica
from simserve.perf.second_source import others
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

PLAIN = load_profile("vllm", calibrated=False)


def cost(**changes: object) -> TableCost:
    """Llama-3.1-8B on H100 under a changed profile."""
    base = build_cost(load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm"), profile=PLAIN)
    return base.under(replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_a_step_of_prompts_is_no_faster_than_its_launches() -> None:
    """1 + 32 x (4 GEMMs, attention) + the passes between them, 100 us each; captured steps are not held up."""
    plain, slow = cost(), cost(eager_ns_per_op=100_000)
    launches = slow.ops.launches(PLAIN.expert_launches)
    assert launches == 1 + 32 * 5 + sum(op.count for op in slow.ops.elementwise)
    assert slow.step_ns([(1000, 0)], 0, 0, 1) == launches * 100_000 + PLAIN.host_ns_per_step
    assert slow.step_ns([(8192, 0)], 0, 0, 1) == plain.step_ns([(8192, 0)], 0, 0, 1)
    assert slow.step_ns([(200, 0)], 0, 0, 1) == plain.step_ns([(200, 0)], 0, 0, 1)
    assert slow.step_ns((), 4, 4000, 4) == plain.step_ns((), 4, 4000, 4)
    named = dict(slow.explain([(1000, 0)], 0, 0, 1))
    assert named["launches"].ns > 0
    assert abs(sum(price.ns for price in named.values()) - slow.step_ns([(1000, 0)], 0, 0, 1)) <= 1


def test_captured_pieces_leave_attention_to_launch() -> None:
    """32 operations of 1,000 us instead of all; a draft module is a layer launched whole; captured decodes: none."""
    pieces = cost(eager_ns_per_op=1_000_000, piecewise_capture=1, max_mixed_cudagraph_tokens=0)
    assert pieces.step_ns([(1000, 0)], 0, 0, 1) == 32 * 1_000_000 + PLAIN.host_ns_per_step
    assert pieces.step_ns((), 4, 4000, 4) == cost().step_ns((), 4, 4000, 4)
    whole = pieces.ops.launches(PLAIN.expert_launches)
    assert pieces.profile.launching_ns(pieces.ops, drafts=3) == (32 + 3 * whole // 32) * 1_000_000


def test_factors_scale_their_family_alone() -> None:
    """Twice the GEMMs, and the LM head, which is one; the rest of the explanation stays."""
    step = [(900, 0)], 3, 900, 4
    plain, twice = dict(cost().explain(*step)), dict(cost(gemm_time_factor=2.0).explain(*step))
    for name, price in plain.items():
        gemm = price.table.endswith("/gemm")
        assert abs(twice[name].ns - price.ns * (2 if gemm else 1)) < 1e-6 * price.ns
    slow = dict(cost(prefill_attention_time_factor=3.0).explain(*step))
    assert abs(slow["prefill_attention"].ns / plain["prefill_attention"].ns - 3) < 1e-9
    passes = dict(cost(elementwise_time_factor=2.0).explain(*step))
    for name, price in plain.items():
        times = 2 if price.table.endswith("/elementwise") else 1
        assert abs(passes[name].ns - price.ns * times) < 1e-6 * price.ns
    assert any(price.table.endswith("/elementwise") for price in plain.values())
    decode = dict(cost(decode_attention_time_factor=3.0).explain((), 3, 900, 3))
    alone = dict(cost().explain((), 3, 900, 3))
    assert abs(decode["decode_attention"].ns / alone["decode_attention"].ns - 3) < 1e-9


def test_an_engine_is_priced_by_its_own_kernels_first() -> None:
    """TensorRT-LLM's all-reduce over eight GPUs of a rack, measured; another family from the device, measured as well;
    tables that a GPU's name asks for come before the engine's.
    """
    model, gpu = load_model("deepseek-ai/DeepSeek-V3"), load_gpu("gb300")
    own, other = (
        dict(build_cost(model, gpu, tensor_parallel_size=8, dtype="nvfp4", expert_parallel=True,
                        profile=load_profile(name, calibrated=False)).explain((), 1, 1000, 1))
        for name in ("trtllm", "vllm")
    )  # fmt: skip
    llama = build_cost(load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm/vidur"),
                       profile=load_profile("trtllm", calibrated=False))  # fmt: skip

    assert (own["all_reduce"].table, other["all_reduce"].table) == ("gb300/trtllm/all_reduce", "gb300/all_reduce")
    assert own["all_reduce"].ns < 0.5 * other["all_reduce"].ns
    assert (own["experts"].table, own["experts"].source) == ("gb300/moe", other["experts"].source)
    tables = {price.table for _, price in llama.explain((), 4, 4000, 4)}
    assert "h100_sxm/vidur/gemm" in tables
    assert not any("trtllm" in table for table in tables if not table.startswith("engines/"))


def test_an_expert_layer_is_several_launches() -> None:
    """As many as the engine has operations for it: TensorRT-LLM fewer than vLLM."""
    model = load_model("Qwen/Qwen3-30B-A3B")
    ops = build_cost(model, load_gpu("h100_sxm")).ops
    assert ops.experts is not None
    several = (ops.gemms, ops.attentions, ops.elementwise)
    others = 1 + sum(op.count for group in several for op in group)
    for engine, own in (("vllm", 8), ("sglang", 8), ("trtllm", 2)):
        assert ops.launches(load_profile(engine, calibrated=False).expert_launches) == others + 48 * own


def test_fused_passes_are_neither_priced_nor_launched() -> None:
    """TensorRT-LLM rotates and caches inside its attention, vLLM in two kernels a layer, on every parallel layout."""
    model, gpu = load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm")
    for layout in (Layout(tp=2), Layout(pp=2)):
        own, other = (
            build_replica(model, gpu, layout, max_num_batched_tokens=512, profile=load_profile(name, calibrated=False))
            for name in ("trtllm", "vllm")
        )
        fused, all_of_them = ({name.split()[-1] for name, _ in c.explain((), 1, 1000, 1)} for c in (own, other))
        assert all_of_them - fused == {"rotary", "kv_write"}
    both = [build_cost(model, gpu, profile=replace(PLAIN, fused_passes=names)).ops for names in ("", "rotary kv_write")]
    assert both[0].launches(8) - both[1].launches(8) == 2 * 32


def test_delta_nets_over_prompts_have_a_factor_of_their_own() -> None:
    """Twice the scan of Qwen3.5's delta nets; its full attention and all decoding stay."""
    base = build_cost(load_model("Qwen/Qwen3.5-397B-A17B"), load_gpu("h200_sxm"), tensor_parallel_size=8,
                      dtype="fp8_block", profile=PLAIN)  # fmt: skip
    slow = base.under(replace(PLAIN, gdn_prefill_time_factor=2.0))
    plain, twice = (dict(c.explain([(900, 0)], 3, 900, 4)) for c in (base, slow))
    assert {name: round(twice[name].ns / p.ns, 6) for name, p in plain.items() if twice[name].ns != p.ns} == {
        "prefill_attention_linear": 2.0
    }


@pytest.mark.parametrize(
    ("engine", "version", "model", "gpu", "table"),
    [
        ("sglang", "0.5.9", "Qwen/Qwen3.5-397B-A17B", "b200_sxm", "b200_sxm/triton/moe"),
        ("sglang", "0.5.10", "Qwen/Qwen3.5-397B-A17B", "b200_sxm", "b200_sxm/moe"),
        ("sglang", "0.5.9", "deepseek-ai/DeepSeek-R1", "b200_sxm", "b200_sxm/moe"),
        ("sglang", "0.5.9", "Qwen/Qwen3.5-397B-A17B", "h200_sxm", "h200_sxm/sglang_0.5.10/moe"),
        ("sglang", "", "Qwen/Qwen3.5-397B-A17B", "h200_sxm", "h200_sxm/moe"),
        ("vllm", "0.17.0", "MiniMaxAI/MiniMax-M2.5", "b200_sxm", "b200_sxm/triton/moe"),
        ("vllm", "0.18.0", "MiniMaxAI/MiniMax-M2.5", "b200_sxm", "b200_sxm/moe"),
        ("trtllm", "", "deepseek-ai/DeepSeek-R1", "h200_sxm", "h200_sxm/trtllm/moe"),
    ],
)
def test_experts_are_those_of_the_version(engine: str, version: str, model: str, gpu: str, table: str) -> None:
    """Kernels changed by up to a factor of two; an older table answers for the models that it holds alone."""
    cost = build_cost(
        load_model(model), load_gpu(gpu), tensor_parallel_size=8, dtype="fp8_block", max_num_batched_tokens=512,
        profile=load_profile(engine, version, calibrated=False),
    )  # fmt: skip
    assert dict(cost.explain((), 4, 4000, 4))["experts"].table == table


def test_a_gpu_like_another_takes_its_older_experts_by_model(tmp_path: Path) -> None:
    """Of B200's Triton rows those of Qwen3.5; DeepSeek's, which are not there, come from the device's table."""
    mine = vary_gpu("b200_sxm", tmp_path / "mine.yaml", price_usd_per_hour=1.0)
    tables = []
    for model in ("Qwen/Qwen3.5-397B-A17B", "deepseek-ai/DeepSeek-R1"):
        cost = build_cost(
            load_model(model), load_gpu(mine), tensor_parallel_size=8, dtype="fp8_block",
            max_num_batched_tokens=512, profile=load_profile("sglang", "0.5.9", calibrated=False),
        )  # fmt: skip
        tables.append(dict(cost.explain((), 4, 4000, 4))["experts"].table)
    assert tables == ["b200_sxm/triton/moe", "b200_sxm/moe"]


def test_older_kernels_are_no_second_source() -> None:
    """Folders that a profile names are of the same source; Vidur's and the others' are not."""
    assert kernel_folders() == {"sglang", "sglang_0.5.10", "triton", "trtllm"}
    assert others("b200_sxm") == []
    assert "vidur" in others("h100_sxm")
    assert "sglang_0.5.10" not in others("h100_sxm")


@pytest.mark.parametrize("layout", [Layout(4), Layout(1, dp=4, expert_parallel=True)])
def test_experts_in_fp8_have_a_factor_of_their_own(layout: Layout) -> None:
    """Beside that of all experts: 1.5 x 2 in fp8, 1.5 in 16 bits; a dense model does not see it."""
    model, gpu = load_model("Qwen/Qwen3-30B-A3B"), load_gpu("h100_sxm")
    for dtype, factor in (("fp8", 3.0), ("bf16", 1.5)):
        plain = build_replica(model, gpu, layout, dtype=dtype, profile=PLAIN)
        slow = plain.under(replace(PLAIN, moe_time_factor=1.5, fp8_moe_time_factor=2.0))
        before, after = ({name: price.ns for name, price in c.explain((), 8, 8000, 8)} for c in (plain, slow))
        assert after["experts"] == pytest.approx(factor * before["experts"], abs=2)
        assert sum(after.values()) - sum(before.values()) == pytest.approx(after["experts"] - before["experts"], abs=4)
    assert cost(fp8_moe_time_factor=2.0).step_ns((), 8, 8000, 8) == cost().step_ns((), 8, 8000, 8)
