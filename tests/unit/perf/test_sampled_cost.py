"""What a run's time rests on: a sample of its own steps, the long ones by their weight."""

import pytest

from simserve.perf.model import TableCost, build_cost
from simserve.perf.sampled import SampledCost
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model


def inner(gpu: str = "h100_sxm", dtype: str = "bf16") -> TableCost:
    """Llama-3.1-8B on one GPU."""
    return build_cost(load_model("meta-llama/Llama-3.1-8B"), load_gpu(gpu), dtype=dtype)


def test_prices_are_those_of_the_inner_model() -> None:
    """Sampling changes nothing."""
    plain, sampled = inner(), SampledCost(inner())

    assert plain.step_ns([(512, 0)], 3, 3000, 4) == sampled.step_ns([(512, 0)], 3, 3000, 4)
    assert plain.decode_run_ns(3, 3000, 9).tolist() == sampled.decode_run_ns(3, 3000, 9).tolist()


def test_shares_are_of_this_run() -> None:
    """Long prefill over long context is mostly modelled, decoding mostly interpolated; shares add up to 1."""
    prefills, decodes = SampledCost(inner()), SampledCost(inner())
    prefills.step_ns([(8192, 110_000)], 0, 0, 0)
    decodes.decode_run_ns(32, 32_000, 100)

    assert prefills.shares()["modelled"] > 0.7
    assert decodes.shares()["interpolated"] > 0.5
    assert sum(prefills.shares().values()) == pytest.approx(1, abs=1e-3)


def test_the_sample_stays_small_and_weighs_time() -> None:
    """Many short decode steps and a few long prefills: the share follows the time, not the number of steps."""
    cost = SampledCost(inner(), keep=64)
    times = {"decode": 0, "prefill": 0}
    for i in range(4000):
        times["decode"] += cost.step_ns((), 8, 8000 + i, 8)
        if i % 8 == 0:
            times["prefill"] += cost.step_ns([(4096, 90_000)], 0, 0, 0)
    modelled = inner().explain([(4096, 90_000)], 0, 0, 0)
    dominant = sum(p.ns for _, p in modelled if p.source == "modelled") / sum(p.ns for _, p in modelled)

    assert len(cost._calls) < 64
    assert cost.shares()["modelled"] == pytest.approx(
        dominant * times["prefill"] / sum(times.values()), abs=0.15
    )


def test_a_run_that_is_cut_counts_with_the_steps_that_it_took() -> None:
    """Priced for 100 steps, ended after 4 while the next is under way; the sample is thinned on the way."""
    cost, open_run = SampledCost(inner(), keep=8), None
    for _ in range(50):
        run = cost.decode_run_ns(8, 8000, 100)
        if open_run is not None:
            cost.cut(open_run, 4)
        open_run = run
        cost.step_ns([(512, 0)], 0, 0, 0)
        cost.step_ns([(512, 0)], 0, 0, 0)
    assert open_run is not None
    cost.cut(open_run, 4)
    runs = [(call, ns) for call, ns in cost._calls if not call[0]]

    assert runs
    assert set(runs) == {(((), 8, 8016, 8), int(open_run[:4].sum()))}
    assert not cost._runs


def test_a_gpu_without_tables_is_modelled_throughout() -> None:
    """And says so."""
    alone = load_gpu("l4").model_copy(update={"name": "unheard_of"})
    cost = SampledCost(build_cost(load_model("meta-llama/Llama-3.1-8B"), alone, dtype="bf16"))
    cost.step_ns([(100, 0)], 2, 50, 3)

    assert {"modelled": 1.0} == cost.shares()


def test_fp8_pays_for_quantising_activations() -> None:
    """Four passes a layer that bf16 does not have."""
    names = {dtype: {name for name, _ in inner(dtype=dtype).explain((), 4, 400, 4)} for dtype in ("bf16", "fp8")}

    assert {f"{p}_proj_fp8_quant" for p in ("qkv", "o", "gate_up", "down")} == names["fp8"] - names["bf16"]
