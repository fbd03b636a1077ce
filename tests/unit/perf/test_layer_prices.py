"""Times of a layer: they add up to a step; a study's CPU bandwidth; a wrong profile."""

import pytest

from simserve.errors import Infeasible
from simserve.perf.cpu_attention import cpu_attention, kernels
from simserve.perf.hybrid import HybridCost, PipelinedStep
from simserve.perf.layers import CpuSide, LayerPrices, PredictedTimes
from simserve.perf.model import TableCost, build_cost
from simserve.perf.roofline import kv_bytes
from simserve.spec.hardware import load_gpu, load_host, load_link
from simserve.spec.model import load_model
from simserve.testing.toy import ToyLayers

BOXES = {
    "t4": ("meta-llama--Llama-2-7b-hf", "xeon_gold_6130_x2", 32, 32),
    "a10": ("meta-llama--Llama-3.1-8B", "xeon_gold_6342_x2", 32, 8),
}


def prices(gpu: str, **cpu: float) -> tuple[TableCost, LayerPrices]:
    """Layer prices of one of APEX's boxes."""
    model, host, _, _ = BOXES[gpu]
    cost = build_cost(load_model(model), load_gpu(gpu), dtype="fp16", max_num_seqs=256)
    side = CpuSide(load_host(host), "llamafile", **cpu)  # type: ignore[arg-type]
    return cost, LayerPrices(cost, load_link(load_gpu(gpu).host_link), side)


@pytest.mark.parametrize("gpu", BOXES)
@pytest.mark.parametrize(
    ("prefill", "seqs", "context"),
    [([], 1, 5), ([], 37, 20_001), ([], 200, 170_000), ([(700, 0)], 0, 0), ([(512, 0), (90, 300)], 0, 0),
     ([(512, 0)], 16, 9_000), ([(2000, 0), (31, 64)], 120, 90_000)],
)  # fmt: skip
def test_layers_add_up_to_the_step(gpu: str, prefill: list[tuple[int, int]], seqs: int, context: int) -> None:
    """Layers x (linear + attention) + head + host is the price of the step, within rounding."""
    cost, layers = prices(gpu)
    tokens, requests = seqs + sum(n for n, _ in prefill), seqs + len(prefill)
    layer = layers.linear_ns(tokens) + layers.attention_ns(prefill, seqs, context)
    whole = layers.layers * layer + layers.head_ns(requests) + layers.host_ns(requests)

    assert 32 == layers.layers
    assert cost.step_ns(prefill, seqs, context, requests) == pytest.approx(whole, abs=1)


def test_a_studys_bandwidth_replaces_the_kernels_rate_and_keeps_its_curve() -> None:
    """20 GB/s for llamafile at large batches: a batch of 4 gets 4 / 4.5 of it; ispc 6 / 10 and its own curve."""
    _, layers = prices("t4", bytes_per_s=20e9)
    token = kv_bytes(1, 32, 128, 2)
    launch = kernels()["llamafile"].launch_ns
    rate = {b: b * 1024 * token / (layers.cpu_attention_ns(b, b * 1024) - launch) for b in (4, 256)}

    assert rate[256] == pytest.approx(20 * 256 / 256.5, rel=1e-6)
    assert rate[4] == pytest.approx(20 * 4 / 4.5, rel=1e-6)
    ispc = cpu_attention(load_host("xeon_gold_6130_x2"), 32, 32, 128, kernel="ispc", bytes_per_s=20e9)
    alone = 64 * 1024 * token / (ispc.time_ns(64, 64 * 1024) - kernels()["ispc"].launch_ns)
    assert alone == pytest.approx(12 * 64 / 64.05, rel=1e-6)


def test_copies_are_queries_keys_and_values_down_and_outputs_up() -> None:
    """Llama-2-7B: 24 KiB down and 8 KiB up a request and layer, at PCIe 3.0's rates [derived]."""
    _, layers = prices("t4")
    down, up = (layers.copies_ns(201)[i] - layers.copies_ns(1)[i] for i in (0, 1))

    assert (0.0, 0.0) == layers.copies_ns(0)
    assert 200 * 24 * 1024 / down == pytest.approx(12.5, rel=0.15)
    assert down / up == pytest.approx(3, rel=0.1)


def test_models_with_other_layers_are_refused() -> None:
    """Several kinds of attention have no single layer time."""
    cost = build_cost(load_model("openai--gpt-oss-20b"), load_gpu("h100_sxm"))
    with pytest.raises(Infeasible, match="one kind of attention"):
        LayerPrices(cost, load_link("pcie5_x16"), CpuSide(load_host("epyc_7r32"), "ispc"))


def test_a_wrong_profile_is_off_and_always_the_same() -> None:
    """Error 0 changes nothing; 0.2 changes each table by factors that the seed decides."""
    _, layers = prices("a10")
    exact, wrong, again, other = (PredictedTimes(layers, e, s) for e, s in ((0.0, 1), (0.2, 1), (0.2, 1), (0.2, 2)))
    asked = [(7, 3000), (200, 200_000)]
    of = [[p.cpu_attention_ns(*a) for a in asked] + [p.linear_ns(64)] for p in (layers, exact, wrong, again, other)]

    assert of[0] == of[1] != of[2] == of[3] != of[4]
    assert all(0.4 < b / a < 2.5 for a, b in zip(of[0], of[2], strict=True))


def test_a_pipelined_step_by_hand() -> None:
    """Two layers: stage A max(12, 3 + 2 + 40), stage B max(10 + 30, 3 + 4 + 20): 45 + 40, twice; the GPU
    alone 12 + 40."""
    cost = HybridCost(ToyLayers(linear_base_ns=9, linear_token_ns=1, down_ns=1, up_ns=1))
    step = PipelinedStep((), (1, 30), (2, 20), (1, 40), 4, 3)

    assert cost.pipelined_ns(step) == (2 * (45 + 40), 2 * 60, 2 * (12 + 40))


def test_a_layer_of_a_cohort_by_hand() -> None:
    """Five rows beside ten: linear 9 + 15 and 5 down, 70 on the CPU, 10 up; 5 more rows at one layer."""
    cost = HybridCost(ToyLayers(linear_base_ns=9, linear_token_ns=1, down_ns=1, up_ns=2))
    times = cost.cohort(10, 5, 70)

    assert (times.before_ns, times.cpu_ns, times.after_ns, times.whole_ns) == (29, 70, 10, 109)
    assert 5 == cost.joined_ns(10, 5)
    assert 218 == HybridCost(cost.times, factor=2.0).cohort(10, 5, 70).whole_ns
