"""The compiled cost model: laws of the contract, sources, limits, physics."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.arch.dtypes import weight_element_bytes
from simserve.errors import Infeasible, OutOfRange
from simserve.perf.model import TableCost, build_cost
from simserve.spec.hardware import gpu_names, load_gpu
from simserve.spec.model import load_model

LLAMA = "meta-llama/Llama-3.1-8B"


def cost(gpu: str = "h100_sxm", model: str = LLAMA, **options: object) -> TableCost:
    """Cached compiled cost."""
    return build_cost(load_model(model), load_gpu(gpu), **options)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(
    gpu=st.sampled_from(["h100_sxm", "a100_sxm", "t4"]),
    batch=st.integers(1, 256),
    mean=st.integers(1, 100_000),
    extra=st.integers(0, 1000),
    steps=st.integers(1, 400),
)
def test_run_equals_steps_bit_for_bit(gpu: str, batch: int, mean: int, extra: int, steps: int) -> None:
    """decode_run_ns is the list of step_ns, exactly, across segment borders too."""
    model = cost(gpu, dtype="fp16" if gpu == "t4" else "bf16")
    context = batch * mean + extra
    expected = [model.step_ns((), batch, context + i * batch, batch) for i in range(steps)]
    assert expected == model.decode_run_ns(batch, context, steps).tolist()


def test_run_type_and_empty_run() -> None:
    """int64 durations; zero steps give an empty array."""
    run = cost().decode_run_ns(8, 8000, 0)
    assert (run.dtype, run.tolist()) == (np.dtype(np.int64), [])


chunks = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 30_000)), max_size=8)


@settings(max_examples=200, deadline=None)
@given(prefill=chunks, batch=st.integers(0, 200), mean=st.integers(1, 5000))
def test_explanation_adds_up(prefill: list[tuple[int, int]], batch: int, mean: int) -> None:
    """The prices of explain sum to step_ns within 1 ns, each with a source and a table."""
    model = cost()
    sampled = batch + len(prefill)
    rows = model.explain(prefill, batch, batch * mean, sampled)
    total = model.step_ns(prefill, batch, batch * mean, sampled)
    assert abs(sum(price.ns for _, price in rows) - total) <= 1
    assert all(price.source in ("measured", "interpolated", "transferred", "modelled") for _, price in rows)
    assert all(price.table for _, price in rows)


@settings(max_examples=100, deadline=None)
@given(batch=st.integers(1, 256), context=st.integers(256, 2_000_000))
def test_longer_context_never_takes_less(batch: int, context: int) -> None:
    """Decode steps grow with the sum of contexts."""
    model = cost("l40s")
    assert model.step_ns((), batch, context, batch) <= model.step_ns((), batch, 2 * context, batch)


def test_measured_rows_come_back_as_they_are() -> None:
    """qkv and o projection of Llama-3.1-8B at 32 tokens are rows of the H100 table: 23748 and 16506 ns x 32."""
    prices = dict(cost().explain((), 32, 32 * 1024, 32))
    assert (prices["qkv_proj"].source, prices["o_proj"].source) == ("measured", "measured")
    assert prices["o_proj"].ns == 32 * 16506
    assert (prices["decode_attention"].source, prices["decode_attention"].ns) == ("measured", 32 * 59819)


def test_sources_and_errors_are_carried() -> None:
    """Between shapes: interpolated with the left-out error; past the grid: modelled, and the note says so."""
    prices = dict(cost().explain([(512, 700)], 3, 3000, 4))
    assert prices["gate_up_proj"].source == "interpolated"
    assert prices["gate_up_proj"].error_fraction == pytest.approx(0.028, abs=0.01)
    assert (prices["lm_head"].source, prices["prefill_attention"].source) == ("modelled", "modelled")
    assert "outside the grid" in prices["lm_head"].note
    assert prices["prefill_attention"].table == "h100_sxm/prefill_attention"


def test_a100_40gb_is_transferred() -> None:
    """The 40 GB card has no tables: utilisation of the 80 GB card, slower by the memory ratio in decode."""
    small, large = cost("a100_sxm_40gb"), cost("a100_sxm")
    prices = dict(small.explain((), 1, 1024, 1))
    assert {prices[n].source for n in ("qkv_proj", "decode_attention")} == {"transferred"}
    ratio = small.step_ns((), 1, 1024, 1) / large.step_ns((), 1, 1024, 1)
    assert 1.2 < ratio < 2039 / 1555


@pytest.mark.parametrize("gpu", gpu_names())
def test_every_device_has_prices_above_its_roofline(gpu: str) -> None:
    """All of hw_specs works, tables or not, and no decode step beats reading the weights once."""
    spec = load_gpu(gpu)
    model = cost(gpu, dtype="bf16" if "bf16" in spec.peak_flops else "fp16", max_num_batched_tokens=2048)
    weights = 2 * sum(op.n * op.k * op.count for op in (*model.ops.gemms, model.ops.lm_head))
    assert model.step_ns((), 1, 512, 1) > weights / spec.memory_bandwidth_bytes_per_s * 1e9


def test_tensor_parallel_splits_work_and_adds_all_reduce() -> None:
    """Four ranks are faster than two, by less than two times; all-reduce appears."""
    two = cost(model="meta-llama/Llama-3.1-70B", tensor_parallel_size=2)
    four = cost(model="meta-llama/Llama-3.1-70B", tensor_parallel_size=4)
    slow, fast = two.step_ns((), 16, 16_000, 16), four.step_ns((), 16, 16_000, 16)
    assert fast < slow < 2 * fast
    assert "all_reduce" in dict(four.explain((), 16, 16_000, 16))


def test_fp8_weights_and_cache_are_faster_in_decode() -> None:
    """Half the bytes, less time; the LM head keeps 16 bits."""
    full, half = cost(), cost(dtype="fp8", kv_cache_dtype="fp8")
    assert half.step_ns((), 64, 64 * 4096, 64) < full.step_ns((), 64, 64 * 4096, 64)
    ends = [dict(m.explain((), 64, 64 * 4096, 64))["lm_head"].ns for m in (full, half)]
    assert ends[0] == ends[1]


def test_graph_padding() -> None:
    """33 decoding requests run the captured size 40: the same GEMM time; past 512 nothing is padded."""
    model = cost()
    name = "gate_up_proj"
    at = [dict(model.explain((), b, 40_000, b))[name].ns for b in (33, 40, 41)]
    assert at[0] == at[1] != at[2]


def test_limits_and_formats_are_refused_in_words() -> None:
    """More than compiled for: OutOfRange; fp8 on A100: Infeasible."""
    with pytest.raises(OutOfRange, match="compiled for"):
        cost().step_ns([(9000, 0)], 0, 0, 1)
    with pytest.raises(OutOfRange, match="256 requests"):
        cost().decode_run_ns(257, 1000, 3)
    with pytest.raises(Infeasible, match="fp8"):
        cost("a100_sxm", dtype="fp8")


def test_provenance_names_tables() -> None:
    """Tables, versions, licence, profile numbers with sources."""
    about = cost().provenance()
    assert sorted(about["tables"]) == ["h100_sxm/decode_attention", "h100_sxm/gemm", "h100_sxm/prefill_attention"]
    assert about["tables"]["h100_sxm/gemm"]["licence"] == "Apache-2.0, NVIDIA"
    assert about["engine_profile"]["host_ns_per_step"]["value"] == 180_000


EXPERT_RUNS = [
    ("mistralai/Mixtral-8x7B-v0.1", "h100_sxm", {"tensor_parallel_size": 2}),
    ("Qwen/Qwen3-30B-A3B", "rtx_pro_6000", {}),
    ("Qwen/Qwen3-235B-A22B", "h200_sxm", {"tensor_parallel_size": 4, "dtype": "fp8", "expert_parallel": True}),
    ("MiniMaxAI/MiniMax-M2.5", "b200_sxm", {"tensor_parallel_size": 2, "dtype": "nvfp4"}),
    ("openai/gpt-oss-120b", "h100_sxm", {"moe_dtype": "w4a16_mxfp4"}),
    ("deepseek-ai/DeepSeek-R1", "h200_sxm", {"tensor_parallel_size": 8, "dtype": "fp8_block"}),
    ("moonshotai/Kimi-K2.5", "b200_sxm", {"tensor_parallel_size": 8, "moe_dtype": "int4_wo"}),
]


@pytest.mark.parametrize(("model", "gpu", "options"), EXPERT_RUNS)
def test_expert_models_are_priced_from_their_tables(model: str, gpu: str, options: dict[str, Any]) -> None:
    """Every operation adds up; experts come from a table; a step reads at least the experts that it needs."""
    priced = cost(gpu, model, max_num_batched_tokens=4096, **options)
    for step in (((), 16, 16_000, 16), ([(700, 0), (30, 500)], 16, 16_000, 18), ([(2000, 3000)], 0, 0, 1)):
        rows = priced.explain(*step)
        assert sum(price.ns for _, price in rows) == pytest.approx(priced.step_ns(*step), abs=2)
        assert dict(rows)["experts"].table == f"{gpu}/moe"
    alone = priced.step_ns((), 1, 1000, 1)
    e = priced.ops.experts
    assert e is not None
    element = weight_element_bytes(options.get("moe_dtype") or options.get("dtype", "bf16"))
    # One token needs its own experts, at the least the busiest rank's share of them.
    least = e.count * 3 * e.hidden * e.inter * e.topk * element / e.tp / e.ep
    assert alone > least / load_gpu(gpu).memory_bandwidth_bytes_per_s * 1e9


def test_latent_attention_hardly_grows_with_the_context() -> None:
    """576 values a token for 16 heads; keys and values of 8 heads of 128 would be four times that."""
    deepseek = cost("h200_sxm", "deepseek-ai/DeepSeek-R1", tensor_parallel_size=8, dtype="fp8_block")
    names = dict(deepseek.explain((), 64, 64 * 8000, 64))
    assert names["decode_attention"].table == "h200_sxm/mla_decode"
    prompt = dict(deepseek.explain([(1000, 0)], 0, 0, 1))
    assert {"kv_b_proj", "prefill_attention"} <= set(prompt)
    assert "kv_b_proj" not in names
    assert names["decode_attention"].ns < 61 * 64 * 8000 * 2 * 8 * 128 * 2 / 4.8e12 * 1e9


def test_a_window_bounds_decode_attention() -> None:
    """gpt-oss: layers that see 128 keys cost the same at 1,000 and 100,000 tokens; the others grow."""
    oss = cost(model="openai/gpt-oss-120b", moe_dtype="w4a16_mxfp4", tensor_parallel_size=2)
    short, long = (dict(oss.explain((), 8, 8 * context, 8)) for context in (1000, 100_000))
    assert long["decode_attention_window_128"].ns < 1.3 * short["decode_attention_window_128"].ns
    assert long["decode_attention"].ns > 5 * short["decode_attention"].ns
