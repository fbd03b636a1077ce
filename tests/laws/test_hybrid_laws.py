"""Laws for schedulers with a host tier, under pressure on both tiers; each shown failing once."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.errors import LawBroken
from simserve.perf.hybrid import HybridCost
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.hybrid import HybridStep, Strategy
from simserve.sim.hybrid_instance import HostTier, HybridInstance
from simserve.sim.plan import Plan, View
from simserve.sim.trace import Trace
from simserve.systems import SCHEDULERS
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyLayers
from simserve.workload.requests import RequestSet

OWN_KNOBS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "neo": {
        "always_gpu": st.booleans(), "launch_ms": st.sampled_from([0.0, 1e-5, 1e-3]),
        "linear_threshold": st.sampled_from([0, 20, 128]), "swap_in": st.sampled_from([0.5, 0.95]),
    },
    "apex": {
        "decision": st.sampled_from(["inequality", "estimator", "overlap", "pipeline"]),
        "min_cohort": st.sampled_from([1, 3]), "n_cohorts": st.sampled_from([1, 2, 4]),
        "host_depth": st.sampled_from([0.3, 2.0, 100.0]), "launch_ms": st.sampled_from([0.0, 1e-4]),
    },
    "fastdecode": {"launch_ms": st.sampled_from([0.0, 1e-4])},
}  # fmt: skip
TIMES = ToyLayers(layers=3, linear_base_ns=200, linear_token_ns=3, cpu_base_ns=5, cpu_context_ns=4, down_ns=2, up_ns=1)


@st.composite
def loads(draw: st.DrawFn) -> RequestSet:
    """Up to 30 requests in bursts and with gaps, open or closed loop."""
    count = draw(st.integers(1, 30))
    lengths = st.tuples(st.sampled_from([0, 0, 1, 500, 1007, 20_000]), st.integers(1, 90), st.integers(1, 60))
    rows, now = [], 0
    for gap, prompt, output in draw(st.lists(lengths, min_size=count, max_size=count)):
        now += gap
        rows.append((now, prompt, output))
    return load(rows, concurrency=draw(st.sampled_from([None, None, 1, 5])))


def same(first: Trace, second: Trace) -> bool:
    """Equal requests, equal steps when expanded, equal gaps."""
    steps = [laws.expanded(t.steps) for t in (first, second)]
    return (
        all((first.requests[k] == second.requests[k]).all() for k in first.requests)
        and all(len(steps[0][k]) == len(steps[1][k]) and (steps[0][k] == steps[1][k]).all() for k in steps[0])
        and sorted(first.itl_gaps_ns.tolist()) == sorted(second.itl_gaps_ns.tolist())
    )


@pytest.mark.parametrize("name", OWN_KNOBS)
@settings(max_examples=150, deadline=None)
@given(
    data=st.data(), requests=loads(), blocks=st.sampled_from([41, 50, 70, 400]),
    host=st.sampled_from([2, 10, 60, 150, 1000]), copies=st.sampled_from([0.0, 300.0]),
)  # fmt: skip
def test_host_tiers_keep_the_laws(
    name: str, data: st.DataObject, requests: RequestSet, blocks: int, host: int, copies: float
) -> None:
    """Every request ends once, both ledgers are empty at the end, nobody stands still, leap on == leap off."""
    knobs = {key: data.draw(choice, label=key) for key, choice in OWN_KNOBS[name].items()}
    knobs["max_num_batched_tokens"] = data.draw(st.sampled_from([8, 33, 2048]))
    knobs["max_num_seqs"] = data.draw(st.sampled_from([1, 3, 8]))
    tier = HostTier(host, HybridCost(TIMES, block_out_ns=copies, block_in_ns=copies))
    traces = []
    for leap in (True, False):
        trace, cluster = play(
            requests, [SCHEDULERS.get(name)(**knobs)], RoundRobin(), TIMES, num_gpu_blocks=blocks, block_size=4,
            leap=leap, tier=tier,
        )  # fmt: skip
        (instance,) = cluster.instances
        assert isinstance(instance, HybridInstance)
        assert (instance.ledger.used, instance.host_ledger.used, instance.cohorts) == (0, 0, {})
        laws.check(trace)
        traces.append(trace)

    assert (traces[0].requests["outcome"] != 2).all()
    assert same(*traces)
