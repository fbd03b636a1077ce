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
from simserve.testing.conformance import same
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


class Spoiled:
    """A scheduler's plans with one rule broken."""

    cpu_kernel = "llamafile"

    def __init__(self, name: str, spoil: Callable[[View, Plan], None]) -> None:
        limits = {"max_num_batched_tokens": 64, "max_num_seqs": 8}
        own = {"decision": "overlap", "min_cohort": 1} if name == "apex" else {"launch_ms": 0.0}
        self.inner, self.spoil = SCHEDULERS.get(name)(**limits, **own), spoil  # type: ignore[call-arg]
        self.max_num_batched_tokens, self.max_num_seqs = 64, 8

    def plan(self, view: View) -> Plan:
        """The inner plan, spoiled."""
        self.inner.predictor = self.predictor  # type: ignore[attr-defined]
        plan = self.inner.plan(view)
        self.spoil(view, plan)
        return plan


def spoiled(name: str, spoil: Callable[[View, Plan], None]) -> Trace:
    """A run in which all three ways to use the host occur."""
    scheduler, tier = Spoiled(name, spoil), HostTier(40, HybridCost(TIMES))
    requests = load([(0, 60, 20), (0, 30, 9), (0, 20, 9), (0, 12, 7)])
    return play(requests, [scheduler], RoundRobin(), TIMES, num_gpu_blocks=22, block_size=4, tier=tier)[0]


def keeps_the_gpus_blocks(view: View, plan: Plan) -> None:
    """A request leaves for the host and its blocks there come from the GPU's ledger."""
    for request in plan.admitted_host:
        view.host_blocks.release(request)  # type: ignore[union-attr]
        view.blocks.reserve(request, 1)


def forgets_the_token(_: View, plan: Plan) -> None:
    """The CPU attends for a request that the token map leaves out."""
    if plan.hybrid is not None:
        for request in (*plan.hybrid.batch0, *plan.hybrid.batch1):
            del plan.tokens[request]


def decodes_twice(_: View, plan: Plan) -> None:
    """One request in both sub-batches."""
    if plan.hybrid is not None and plan.hybrid.batch1:
        plan.hybrid = dataclasses.replace(plan.hybrid, batch0=plan.hybrid.batch1)


def splits_a_gpu_request(view: View, plan: Plan) -> None:
    """The CPU attends for a request whose KV is on the GPU."""
    if view.running and plan.hybrid is not None and plan.hybrid.batch1:
        plan.hybrid = dataclasses.replace(plan.hybrid, batch0=(next(iter(view.running.values())),))


def leaves_between_layers(view: View, plan: Plan) -> None:
    """A request of a cohort comes to the GPU."""
    for cohort in view.cohorts.values():
        plan.to_gpu.append(cohort.requests[0])


def joins_in_a_pipelined_step(view: View, plan: Plan) -> None:
    """A cohort goes on in a step whose sub-batches join at every stage."""
    if view.cohorts and plan.hybrid is not None:
        plan.hybrid = dataclasses.replace(plan.hybrid, strategy=Strategy.PIPELINE, started=())


def goes_to_the_host_twice(_: View, plan: Plan) -> None:
    """A request that is not on the GPU is sent to the host."""
    plan.to_host.extend(plan.admitted_host)


def takes_no_slot(view: View, plan: Plan) -> None:
    """Starts a cohort without a slot for the newest token."""
    if plan.hybrid is not None:
        for request in plan.hybrid.started:
            view.host_blocks.release(request)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "spoil", "law"),
    [("neo", keeps_the_gpus_blocks, "tiers"), ("fastdecode", forgets_the_token, "tokens"),
     ("fastdecode", decodes_twice, "cohort"), ("neo", splits_a_gpu_request, "cohort"),
     ("apex", leaves_between_layers, "cohort"), ("apex", joins_in_a_pipelined_step, "cohort"),
     ("neo", goes_to_the_host_twice, "tiers"), ("apex", takes_no_slot, "tiers|tokens")],
)  # fmt: skip
def test_a_broken_rule_is_caught(name: str, spoil: Callable[[View, Plan], None], law: str) -> None:
    """The instance refuses plans that break the rules of two tiers."""
    with pytest.raises(LawBroken, match=f"^law broken: ({law})"):
        spoiled(name, spoil)


def test_the_same_plans_unspoiled_pass() -> None:
    """What the spoiled runs refuse is what was spoiled; and the host is used."""
    for name in OWN_KNOBS:
        trace = spoiled(name, lambda *_: None)
        laws.check(trace)
        assert "instance 0 cpu" in trace.resources


def test_a_hybrid_step_says_whether_it_needs_no_tokens() -> None:
    """One that starts or joins a cohort goes on without any GPU request."""
    assert [HybridStep(Strategy.GPU).moves_on, HybridStep(Strategy.OVERLAP, joined=(0,)).moves_on] == [False, True]
