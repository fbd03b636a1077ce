"""Deployments with pools, offload, swap space, stale views and router options, from spec to result."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.errors import SimserveError, SpecError, UnknownName
from simserve.explore.evaluate import reduce
from simserve.explore.objective import outcome_from_dict
from simserve.explore.runner import play, prepare
from simserve.paths import data_files
from simserve.pooled import kv_link, resolve_pools
from simserve.run import simulate
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.spec.paper import load_paper
from simserve.testing.builders import load
from simserve.workload.requests import RequestSet

LLAMA = load_model("meta-llama/Llama-3.1-8B")
POOLS: dict[str, Any] = {"system": "distserve", "pools": {"prefill": {"replicas": 2}, "decode": {}}}


def deployment(**fields: Any) -> DeploymentSpec:
    """A validated deployment."""
    return parse(DeploymentSpec, fields)


def requests(count: int = 40, output: int = 30) -> RequestSet:
    """One every 20 ms, prompts of 1,000 tokens in four families that share 800."""
    rows = [(index * 20_000_000, 1000, output) for index in range(count)]
    return load(rows, content=[((index % 4, 800), (100 + index, 200)) for index in range(count)])


def test_pools_have_their_systems_parts_unless_the_study_says_otherwise() -> None:
    """distserve schedules both; what the deployment or the pool names wins; order is the system's."""
    plain = dict(resolve_pools(deployment(**POOLS)).pools)
    named = dict(resolve_pools(deployment(**POOLS, router="random")).pools)
    pools = {"decode": {"scheduler": "vllm"}, "prefill": {}}
    mixed = dict(resolve_pools(deployment(system="distserve", pools=pools)).pools)

    assert [("distserve", "least_loaded")] * 2 == [(p.scheduler, p.router) for p in plain.values()]
    assert ["random", "random"] == [p.router for p in named.values()]
    assert [("prefill", "distserve"), ("decode", "vllm")] == [(name, p.scheduler) for name, p in mixed.items()]
    assert resolve_pools(resolve_pools(deployment(**POOLS))) == resolve_pools(deployment(**POOLS))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pools": {"prefill": {}}}, "pools need a system, e.g. system: distserve"),
        ({"system": "distserve"}, "system distserve needs pools, one entry for each, which may be empty"),
        ({"offload": {"dram_gib": 1}}, "offload needs enable_prefix_caching: true"),
        ({**POOLS, "pools": {"prefill": {"max_num_batched_tokens": 9}, "decode": {}}}, "256 in pool prefill"),
        ({**POOLS, "pools": {"prefill": {"gpus": 9}, "decode": {}}}, "unknown key"),
    ],
)
def test_what_does_not_go_together_is_one_line(fields: dict[str, Any], message: str) -> None:
    """Checked before anything runs."""
    with pytest.raises(SpecError) as caught:
        deployment(**fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pools_that_the_system_does_not_have_are_named() -> None:
    """Unknown ones with the nearest, missing ones with what there is."""
    with pytest.raises(UnknownName, match=r"deployment.pools: unknown pool of distserve 'prefil'; .*'prefill'"):
        resolve_pools(deployment(system="distserve", pools={"prefil": {}, "decode": {}}))
    with pytest.raises(SpecError, match="distserve has pools prefill and decode"):
        resolve_pools(deployment(system="distserve", pools={"prefill": {}}))


def test_a_system_runs_on_its_pools() -> None:
    """3 GPUs; prefill on 0 and 1, decode on 2; KV moves over NVLink; all laws hold; facts survive JSON."""
    asked = deployment(**POOLS)
    result = simulate(LLAMA, asked, requests())
    laws.check(result.trace)
    r = result.trace.requests

    assert (3, 3) == (asked.num_gpus, result.num_gpus)
    assert {2} == set(r["instance"].tolist())
    assert {0, 1} == set(r["prefill_instance"].tolist())
    assert (r["kv_arrived_ns"] > r["first_token_ns"]).all()
    assert ["instance 0 kv over nvlink4", "instance 1 kv over nvlink4"] == result.trace.resources
    assert 40 * 1000 * 131_072 == int(result.trace.spans["size_bytes"].sum())  # Llama-3.1-8B: 128 KiB per token

    outcome = reduce(result, LLAMA, resolve_pools(asked), None)
    assert ["prefill", "decode"] == [pool["name"] for pool in outcome.pools]
    assert [2, 1] == [pool["num_gpus"] for pool in outcome.pools]
    assert outcome == outcome_from_dict(outcome.to_dict())


def test_pools_may_be_of_different_gpus() -> None:
    """Prices, memory and the link between nodes follow; a slower decode GPU shows in TPOT only."""
    mixed = deployment(system="distserve", pools={"prefill": {}, "decode": {"gpu": "l40s"}})
    fast = deployment(system="distserve", pools={"prefill": {}, "decode": {}})
    runs = [simulate(LLAMA, d, requests()) for d in (mixed, fast)]

    assert ["ib_400g", "nvlink4"] == [kv_link(d).name for d in (mixed, fast)]
    assert runs[0].metrics.ttft_ms.mean == runs[1].metrics.ttft_ms.mean
    assert runs[0].metrics.tpot_ms.mean > 2 * runs[1].metrics.tpot_ms.mean
    prices = [reduce(run, LLAMA, d, None).usd_per_hour for run, d in zip(runs, (mixed, fast), strict=True)]
    assert prices[0] < prices[1]
    assert {"prefill", "decode"} == set(runs[0].cost_provenance["pools"])
    assert 1 == pytest.approx(sum(runs[0].cost_provenance["share_of_time_by_source"].values()), abs=1e-3)


def test_offload_brings_prefixes_back() -> None:
    """With a GPU cache for one request, the shared 800 tokens come from the host instead of being computed."""
    small = {"num_gpu_blocks": 80, "enable_prefix_caching": True}
    without, with_host = (
        simulate(LLAMA, deployment(**small, **more), requests(output=2))
        for more in ({}, {"offload": {"dram_gib": 4, "ssd_gib": 1}})
    )
    laws.check(with_host.trace)

    assert 0 == without.metrics.prefix_hit_rate
    assert 0.8 * 36 / 40 == pytest.approx(with_host.metrics.prefix_hit_rate, abs=0.01)
    assert with_host.metrics.ttft_ms.mean < 0.8 * without.metrics.ttft_ms.mean
    assert {"instance 0 pcie_in", "instance 0 pcie_out"} <= set(with_host.trace.resources)


def test_swap_space_is_used_by_who_swaps() -> None:
    """vLLM 0.x in swap mode under pressure copies over PCIe; without swap space it recomputes."""
    pressed = {"scheduler": "vllm_v0", "num_gpu_blocks": 200, "scheduler_options": {"preemption_mode": "swap"}}
    swapped, recomputed = (
        simulate(LLAMA, deployment(**pressed, swap_space_gib=gib), requests(output=400)) for gib in (4, 0)
    )
    laws.check(swapped.trace)

    assert min(swapped.metrics.preemptions, recomputed.metrics.preemptions) > 0
    assert ["instance 0 pcie_out", "instance 0 pcie_in"] == swapped.trace.resources
    assert [] == recomputed.trace.resources


def test_router_options_and_stale_views_reach_the_router() -> None:
    """Another seed routes otherwise; a view that is never refreshed sends all to the first."""
    random = [
        simulate(LLAMA, deployment(replicas=2, router="random", router_options={"seed": seed}), requests())
        for seed in (1, 2)
    ]
    stale = simulate(LLAMA, deployment(replicas=2, router="least_loaded", snapshot_interval_ms=1e6), requests())

    assert random[0].trace.requests["instance"].tolist() != random[1].trace.requests["instance"].tolist()
    assert {0} == set(stale.trace.requests["instance"].tolist())
    with pytest.raises(SimserveError, match=r"deployment.router_options: unknown knob of random 'sed'"):
        simulate(LLAMA, deployment(router="random", router_options={"sed": 1}), requests())


def test_decoding_explodes_where_its_kv_is_full_and_the_prefill_pool_hardly_uses_its_own() -> None:
    """semi-PD's finding about DistServe [paper]: at most 25 % of the KV of the prefill side is used then.

    The run of studies/papers/distserve_opt.yaml at 6 requests/s, where KV is about enough, and at 9, where it is not.
    """
    paper = load_paper(next(path for path in data_files("studies") if path.name == "distserve_opt.yaml"))
    tpot_ms, peaks = [], []
    for rate in (6, 9):
        asked = next(run for run in paper.runs if (run.run, run.at) == ("distserve", rate))
        run = play(prepare(asked.study, base_dir=paper.path.parent))
        steps, blocks = run.trace.steps, run.trace.total_blocks
        tpot_ms.append(run.metrics.tpot_ms.p90)
        peaks.append([steps["used_blocks"][steps["instance"] == i].max() / blocks[i] for i in (0, 1)])

    assert tpot_ms[1] > 2 * tpot_ms[0]
    assert peaks[0][1] < 0.95 < 0.99 < peaks[1][1]
    assert max(prefill for prefill, _ in peaks) < 0.25
