"""Where a run's time goes and what limits it: shares, thresholds and sentences checked by hand."""

from dataclasses import replace
from typing import Any

import pytest

from simserve.arch.layout import Layout
from simserve.explore.evaluate import reduce
from simserve.explore.limits import binding, limits
from simserve.explore.objective import NEVER_MS, Outcome, SloValue, outcome_from_dict
from simserve.perf.breakdown import KINDS, RESOURCES, kind_of, resource_of, ridge_tokens
from simserve.perf.replica import build_replica
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.slo import SloSpec
from simserve.testing.builders import load

LLAMA = load_model("meta-llama/Llama-3.1-8B")
MS = 1_000_000


def played(rows: list[tuple[int, int, int]], **fields: Any) -> Outcome:
    """A run on one H100 unless told otherwise, against 500 ms and 20 ms."""
    deployment = DeploymentSpec(gpu="h100_sxm", **fields)
    return reduce(simulate(LLAMA, deployment, load(rows)), LLAMA, deployment, SloSpec(ttft_ms=500, tpot_ms=20))


def names(run: Outcome) -> list[str]:
    """What limits it, by name."""
    return [limit.name for limit in limits(run).found]


def test_the_ridge_is_where_computing_takes_as_long_as_reading() -> None:
    """H100: 989.4e12 FLOP/s over 2 x 3.35e12 bytes/s x 2 bytes; fp8 has twice the rate and half the bytes."""
    gpu = load_gpu("h100_sxm")

    assert ridge_tokens(gpu, "bf16") == gpu.peak_flops["bf16"] / gpu.memory_bandwidth_bytes_per_s
    assert ridge_tokens(gpu, "fp8") == pytest.approx(ridge_tokens(gpu, "bf16"), rel=0.01)
    assert [resource_of("gemm", rows, 295.0) for rows in (1, 294, 295)] == ["weights", "weights", "compute"]


@pytest.mark.parametrize(
    ("model", "layout", "expected"),
    [
        ("meta-llama/Llama-3.1-8B", Layout(), {"gemm", "prefill_attention", "decode_attention", "elementwise", "host"}),
        ("Qwen/Qwen3-32B", Layout(tp=2, pp=2),
         {"gemm", "prefill_attention", "decode_attention", "elementwise", "host", "collectives"}),
        ("Qwen/Qwen3-235B-A22B", Layout(tp=2, dp=4, expert_parallel=True),
         {"gemm", "experts", "prefill_attention", "decode_attention", "elementwise", "host", "collectives"}),
        ("Qwen/Qwen3-32B", Layout(tp=16, dcp=2),
         {"gemm", "prefill_attention", "decode_attention", "elementwise", "host", "collectives"}),
    ],
)  # fmt: skip
def test_every_operation_has_a_kind(model: str, layout: Layout, expected: set[str]) -> None:
    """All that a cost model of any layout explains falls into the kinds, and each is what its name says."""
    cost = build_replica(load_model(model), load_gpu("h200_sxm"), layout)
    rows = cost.explain([(512, 0), (128, 256)], 8, 8000, 9)
    kinds = {name: kind_of(name, price) for name, price in rows}

    assert set(kinds.values()) == expected <= set(KINDS)
    assert all(kind == "collectives" for name, kind in kinds.items() if "reduce" in name or "send" in name)
    assert all(kind in name for name, kind in kinds.items() if kind.endswith("attention"))


def test_prompts_of_a_prefill_pool_are_no_part_of_tpot() -> None:
    """All its steps have prompts, and none of those that make tokens."""
    pools = {"system": "distserve", "pools": {"prefill": {}, "decode": {}}}
    run = played([(i * 30 * MS, 1200, 40) for i in range(60)], **pools)
    by_tpot = replace(run, slo=(SloValue("tpot", 90.0, 10.0, 10.5),))

    assert [part["pool"] for part in run.usage if part["prompt_steps"] == 1.0] == ["prefill"]
    assert "steps with prompts" not in limits(by_tpot).summary
    assert "steps with prompts" in limits(replace(by_tpot, usage=played([(0, 1200, 40)]).usage)).summary


def test_shares_of_the_time_add_up() -> None:
    """By kind over both phases, and by resource, each to 1; the document keeps them."""
    run = played([(i * 30 * MS, 1200, 40) for i in range(60)])
    part = run.usage[0]

    assert sum(share for phase in part["time"].values() for share in phase.values()) == pytest.approx(1, abs=2e-3)
    assert sum(part["resources"].values()) == pytest.approx(1, abs=2e-3)
    assert set(part["resources"]) <= set(RESOURCES)
    assert "prefill_attention" not in part["time"]["decode"]
    assert outcome_from_dict(run.to_dict()) == run


def test_an_idle_deployment_follows_its_load() -> None:
    """One request a second: nobody waits, and the GPU stands still most of the time."""
    found = limits(played([(i * 1000 * MS, 300, 10) for i in range(20)]))

    assert found.found[0].name == "load"
    assert "stand still in 9" in found.found[0].text
    assert found.found[1].name == "weights"


def test_long_prompts_wait_for_the_matrix_units() -> None:
    """Prompts of 6,000 tokens with one token of output are nothing but computing."""
    assert "compute" in names(played([(i * 300 * MS, 6000, 1) for i in range(20)]))


@pytest.mark.parametrize(
    ("fields", "rows", "name"),
    [
        ({"max_num_seqs": 4}, [(0, 200, 100)] * 40, "seqs"),
        ({"max_num_batched_tokens": 256, "max_num_seqs": 64}, [(0, 4000, 2)] * 20, "tokens"),
        ({"num_gpu_blocks": 200}, [(0, 600, 300)] * 40, "kv"),
    ],
)
def test_what_requests_wait_for(fields: dict[str, Any], rows: list[tuple[int, int, int]], name: str) -> None:
    """Places, tokens of a step, or KV blocks, whichever there is too little of, comes first."""
    assert names(played(rows, **fields))[0] == name


def test_the_objective_with_the_least_room_binds() -> None:
    """TPOT at 92 % of its bound binds before TTFT at 10 %; the sentence has the numbers."""
    run = replace(played([(0, 300, 10)]),
                  slo=(SloValue("ttft", 90.0, 50.0, 500.0), SloValue("tpot", 90.0, 18.4, 20.0)))  # fmt: skip
    roomy = replace(run, slo=(SloValue("ttft", 90.0, 50.0, 500.0),))
    late = replace(run, slo=(SloValue("ttft", 90.0, 1500.0, 500.0),))

    assert (binding(run) or run.slo[0]).name == "tpot"
    assert limits(run).summary.startswith("P90 TPOT binds: 18.4 ms, 8 % below its bound of 20 ms")
    assert limits(roomy).summary.startswith("P90 TTFT has the least room: 50 ms, 90 % below its bound of 500 ms; of ")
    assert limits(late).summary.startswith("P90 TTFT binds: 1,500 ms, 3 times its bound of 500 ms; of ")


def test_what_has_no_answer_says_so() -> None:
    """No objective; none that has a value; never reached; requests refused; an outcome without usage."""
    run = played([(0, 300, 10)])
    never = replace(run, slo=(SloValue("ttft", 90.0, NEVER_MS, 500.0),))

    assert limits(replace(run, slo=())).summary == "No objective is set, so none binds."
    assert binding(replace(run, slo=(SloValue("tpot", 90.0, None, 20.0),))) is None
    assert "never reached" in limits(never).summary
    assert "turned away 3 requests" in limits(replace(run, turned_away=3)).summary
    assert limits(replace(run, usage=(), metrics={})).found == ()
