"""semi-PD from spec to result: prices of lanes, GPUs counted once, and what it is not modelled with."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.errors import Infeasible, SpecError, UnknownName
from simserve.perf.lane_split import LaneSplit
from simserve.perf.model import build_cost
from simserve.run import simulate
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.testing.builders import load

LLAMA = load_model("meta-llama/Llama-3.1-8B")
ASKED: dict[str, Any] = {"gpu": "a100_sxm", "system": "semi_pd", "pools": {"workers": {}}}


def deployment(**fields: Any) -> DeploymentSpec:
    """A validated deployment of one pair, or more."""
    return parse(DeploymentSpec, {**ASKED, **fields})


ONE = load([(0, 1000, 20)])
CALLS: list[tuple[list[tuple[int, int]], int, int, int]] = [
    ([(2048, 0)], 0, 0, 1), ([(700, 4000), (30, 0)], 0, 0, 2), ([], 1, 500, 1), ([], 100, 45_000, 100)
]  # fmt: skip


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_the_parts_of_a_step_add_up_to_its_price(call: tuple[Any, ...], tp: int) -> None:
    """Prompts are bound by compute, decodes by memory; collectives only beside tensor parallelism."""
    cost = build_cost(LLAMA, load_gpu("a100_sxm"), tensor_parallel_size=tp)
    price = cost.step_ns(*call)
    parts = LaneSplit(cost)(*call, price)
    lanes = [sum(column) for column in zip(*parts, strict=True)]

    assert price == sum(max(part) for part in parts)
    assert (lanes[2] > 0) == (tp > 1)
    assert 0 < lanes[3] < 0.4 * price
    assert (lanes[0] > 0.6 * price) if call[0] else (lanes[1] > 0.6 * price > lanes[0])
    assert [2 * lane for lane in lanes[:3]] == pytest.approx(
        [sum(column) for column in zip(*LaneSplit(cost, 2.0)(*call, 2 * price), strict=True)][:3], abs=4
    )


def test_a_pair_is_one_gpu_and_alone_it_is_as_fast_as_an_engine() -> None:
    """One request sees all SMs in both workers: what vLLM takes for it, step by step."""
    shared, engine = (
        simulate(LLAMA, asked, ONE) for asked in (deployment(), parse(DeploymentSpec, {"gpu": "a100_sxm"}))
    )
    names = ("first_token_ns", "finish_ns")

    assert (1, 1) == (deployment().num_gpus, shared.num_gpus)
    assert [shared.trace.requests[name].tolist() for name in names] == [
        engine.trace.requests[name].tolist() for name in names
    ]
    assert shared.num_gpu_blocks == engine.num_gpu_blocks


def test_shares_are_options_of_the_system() -> None:
    """Half of the SMs: a prompt takes longer, decoding does not."""
    full, half = (
        simulate(LLAMA, deployment(system_options={"prefill_share": share}), ONE).metrics for share in (100, 50)
    )

    assert 1.5 < half.ttft_ms.mean / full.ttft_ms.mean < 2
    assert half.tpot_ms.mean == pytest.approx(full.tpot_ms.mean)


def test_replicas_are_pairs() -> None:
    """Two GPUs, four workers."""
    run = simulate(LLAMA, deployment(replicas=2), load([(0, 500, 9), (1, 500, 9)]))

    assert (2, 4) == (run.num_gpus, len(run.trace.total_blocks))
    assert [1, 3] == run.trace.requests["instance"].tolist()
    assert range(4) == run.engines[0].instances
    assert 1 == pytest.approx(sum(run.cost_provenance["share_of_time_by_source"].values()), abs=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"enable_prefix_caching": True}, "semi_pd is not modelled with enable_prefix_caching"),
        ({"swap_space_gib": 1}, "semi_pd is not modelled with swap_space_gib"),
        ({"async_scheduling": True}, "semi_pd is not modelled with async_scheduling"),
        ({"pipeline_parallel_size": 2}, "modelled with the scheduler vllm, not semi_pd"),
        ({"scheduler": "vllm"}, "semi_pd is not modelled with the scheduler vllm"),
        ({"num_speculative_tokens": 2}, "without num_speculative_tokens"),
    ],
)
def test_what_is_not_modelled_is_one_line(fields: dict[str, Any], message: str) -> None:
    """Before anything runs."""
    with pytest.raises(Infeasible, match=message):
        simulate(LLAMA, deployment(**fields), ONE)


def test_bad_options_are_one_line() -> None:
    """The nearest knob, the range, and that options need a system."""
    with pytest.raises(UnknownName, match=r"deployment.system_options: unknown knob of semi_pd 'prefil_share'; .*'pre"):
        simulate(LLAMA, deployment(system_options={"prefil_share": 50}), ONE)
    with pytest.raises(SpecError, match=r"deployment.system_options.prefill_share: must be a number from 10 to 100"):
        simulate(LLAMA, deployment(system_options={"prefill_share": 5}), ONE)
    with pytest.raises(SpecError, match="system_options need a system"):
        parse(DeploymentSpec, {"system_options": {"step": 5}})
