"""Laws over random workloads, for every registered scheduler and router; each shown failing once."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.diffusion import denoises
from simserve.errors import LawBroken
from simserve.perf.hybrid import HybridCost
from simserve.policies import ROUTERS
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.hybrid_instance import HostTier
from simserve.sim.plan import Plan, View
from simserve.sim.trace import Trace
from simserve.systems import SCHEDULERS
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.conformance import same
from simserve.testing.toy import ToyCost, ToyLayers
from simserve.workload.requests import RequestSet

DECODING = [name for name in SCHEDULERS.names() if not denoises(name)]
COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)
# for schedulers that keep KV on a host
LAYERS = ToyLayers(layers=2, linear_base_ns=400, linear_token_ns=4, cpu_context_ns=3)


@st.composite
def loads(draw: st.DrawFn) -> RequestSet:
    """Up to 40 requests: bursts and gaps, short and long, open or closed loop."""
    count = draw(st.integers(1, 40))
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 500, 1007, 20_000]), min_size=count, max_size=count))
    lengths = st.tuples(st.integers(1, 90), st.integers(1, 60))
    pairs = draw(st.lists(lengths, min_size=count, max_size=count))
    priority = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    rows = [(int(t), p, o) for t, (p, o) in zip(np.cumsum(gaps), pairs, strict=True)]
    shared = [draw(st.integers(0, 3)) for _ in rows]
    content = [
        ((topic, prompt // 2), (100 + i, prompt - prompt // 2))
        for i, (topic, (_, prompt, _)) in enumerate(zip(shared, rows, strict=True))
    ]
    concurrency = draw(st.sampled_from([None, None, 1, 5]))
    return load(rows, priority=priority, concurrency=concurrency, content=content)


settings_of_engine = st.fixed_dictionaries({
    "max_num_batched_tokens": st.sampled_from([8, 33, 2048]),
    "max_num_seqs": st.sampled_from([1, 3, 8]),
})  # fmt: skip


def run(
    requests: RequestSet, name: str, knobs: dict[str, object], router: str, blocks: int, leap: bool,
    caching: bool = False,
) -> Trace:
    """Two replicas of a scheduler; the blocks must come back at the end."""
    schedulers = [SCHEDULERS.get(name)(**knobs) for _ in range(2)]
    trace, cluster = play(
        requests, schedulers, ROUTERS.get(router)(), COST, num_gpu_blocks=blocks, leap=leap,
        block_size=4 if caching else 16, enable_prefix_caching=caching, tier=HostTier(30, HybridCost(LAYERS)),
    )  # fmt: skip
    assert [i.ledger.used for i in cluster.instances] == [0, 0]
    return trace


@pytest.mark.parametrize("router", ROUTERS.names())
@pytest.mark.parametrize("name", DECODING)
@settings(max_examples=60, deadline=None)
@given(requests=loads(), knobs=settings_of_engine, blocks=st.sampled_from([11, 14, 40, 400]))
def test_laws_hold(
    name: str, router: str, requests: RequestSet, knobs: dict[str, object], blocks: int
) -> None:
    """Every law of `sim.laws`, blocks free at the end, determinism, leap on == leap off."""
    leaping = run(requests, name, knobs, router, blocks, leap=True)
    again = run(requests, name, knobs, router, blocks, leap=True)
    stepping = run(requests, name, knobs, router, blocks, leap=False)

    laws.check(leaping)
    laws.check(stepping)
    assert same(leaping, again)
    assert same(leaping, stepping)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@settings(max_examples=40, deadline=None)
@given(requests=loads(), knobs=settings_of_engine, threshold=st.sampled_from([0, 5]), reserve=st.booleans())
def test_vllm_knobs_keep_the_laws(
    policy: str, requests: RequestSet, knobs: dict[str, object], threshold: int, reserve: bool
) -> None:
    """The knobs of vLLM, under KV pressure."""
    full = {
        **knobs, "policy": policy, "long_prefill_token_threshold": threshold,
        "scheduler_reserve_full_isl": reserve,
    }  # fmt: skip
    leaping = run(requests, "vllm", full, "round_robin", 12, leap=True)

    laws.check(leaping)
    assert same(leaping, run(requests, "vllm", full, "round_robin", 12, leap=False))


@settings(max_examples=100, deadline=None)
@given(requests=loads(), knobs=settings_of_engine, blocks=st.sampled_from([41, 50, 400]))
def test_prefix_caching_keeps_the_laws(
    requests: RequestSet, knobs: dict[str, object], blocks: int
) -> None:
    """Shared prefixes, evictions and leaps: all blocks come back, leap on == leap off."""
    leaping = run(requests, "vllm", knobs, "round_robin", blocks, leap=True, caching=True)
    stepping = run(requests, "vllm", knobs, "round_robin", blocks, leap=False, caching=True)

    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(leaping)
    assert same(leaping, stepping)


@settings(max_examples=40, deadline=None)
@given(requests=loads(), knobs=settings_of_engine, name=st.sampled_from(DECODING))
def test_no_policy_anticipates_output_lengths(
    requests: RequestSet, knobs: dict[str, object], name: str
) -> None:
    """With longer outputs nothing differs until the first request would have finished."""
    longer = dataclasses.replace(requests, output_tokens=requests.output_tokens + 13)
    plans: list[list[tuple[int, dict[int, int]]]] = []
    for each in (requests, longer):
        steps: list[tuple[int, dict[int, int]]] = []
        trace, _ = play(
            each, [SCHEDULERS.get(name)(**knobs)], RoundRobin(), COST, num_gpu_blocks=40,
            tier=HostTier(60, HybridCost(LAYERS)),
            observer=lambda start, _ns, plan, _free, log=steps: log.append(  # type: ignore[misc]
                (start, {r.id: n for r, n in plan.tokens.items()})
            ),
        )  # fmt: skip
        plans.append(steps)
        if each is requests:
            first_end = int(trace.requests["finish_ns"].min())
    before = [[s for s in steps if s[0] < first_end] for steps in plans]

    assert before[0] == before[1]


class Wrapped:
    """vLLM's plans with one rule broken."""

    max_num_batched_tokens, max_num_seqs = 64, 8

    def __init__(self, spoil: Callable[[View, Plan], None]) -> None:
        self.inner, self.spoil = Vllm(64, 8), spoil

    def plan(self, view: View) -> Plan:
        """The inner plan, spoiled."""
        plan = self.inner.plan(view)
        self.spoil(view, plan)
        return plan


def over_budget(view: View, plan: Plan) -> None:
    """Schedules more than the budget."""
    for request in plan.tokens:
        if view.blocks.reserve(request, request.num_tokens):
            plan.tokens[request] = request.num_tokens - request.computed_tokens


def without_blocks(view: View, plan: Plan) -> None:
    """Gives tokens without slots."""
    for request in plan.tokens:
        view.blocks.release(request)


def twice_admitted(_: View, plan: Plan) -> None:
    """Admits a request that is not waiting."""
    plan.admitted.extend(plan.admitted)


def keeps_blocks_of_victims(_: View, plan: Plan) -> None:
    """Preempts without releasing."""
    plan.preempted.extend(list(plan.tokens)[:1])


def beyond_the_prompt(_: View, plan: Plan) -> None:
    """Schedules tokens that are not known yet."""
    for request in plan.tokens:
        plan.tokens[request] += 1


@pytest.mark.parametrize(
    ("spoil", "law"),
    [(over_budget, "budget"), (without_blocks, "tokens"), (twice_admitted, "admit"),
     (keeps_blocks_of_victims, "preempt"), (beyond_the_prompt, "tokens")],
)  # fmt: skip
def test_a_broken_rule_is_caught(spoil: Callable[[View, Plan], None], law: str) -> None:
    """The instance refuses plans that break its rules."""
    with pytest.raises(LawBroken, match=f"^law broken: {law}"):
        play(load([(0, 100, 3), (0, 30, 3)]), [Wrapped(spoil)], RoundRobin(), COST)


def change(trace: Trace, table: str, column: str, row: int, value: int) -> Trace:
    """A copy of a trace with one entry changed."""
    columns = {k: v.copy() for k, v in getattr(trace, table).items()}
    columns[column][row] = value
    return dataclasses.replace(trace, **{table: columns})


@pytest.mark.parametrize(
    ("law", "table", "column", "row", "value"),
    [("conservation", "requests", "id", 1, 0), ("causality", "requests", "first_token_ns", 0, 10**12),
     ("causality", "requests", "first_scheduled_ns", 1, 0), ("tokens", "steps", "tokens", 0, 3),
     ("lanes", "steps", "start_ns", 1, 1), ("lanes", "steps", "first_dt_ns", 0, 9),
     ("memory", "steps", "used_blocks", 0, 10**6), ("memory", "steps", "used_blocks", 0, -1)],
)  # fmt: skip
def test_a_false_trace_is_caught(law: str, table: str, column: str, row: int, value: int) -> None:
    """Each law of a trace fails when what it protects is changed."""
    trace, _ = play(load([(0, 100, 3), (5, 30, 3)]), [Vllm(64, 8)], RoundRobin(), COST)
    laws.check(trace)

    with pytest.raises(LawBroken, match=f"^law broken: {law}"):
        laws.check(change(trace, table, column, row, value))


def test_an_idle_engine_with_work_is_caught() -> None:
    """Work conservation: a lazy scheduler that plans nothing while a request runs."""

    class Lazy(Wrapped):
        calls = 0

        def plan(self, view: View) -> Plan:
            Lazy.calls += 1
            return Plan() if Lazy.calls == 2 else self.inner.plan(view)

    trace, _ = play(load([(0, 10, 5), (50_000, 10, 1)]), [Lazy(lambda *_: None)], RoundRobin(), COST)

    with pytest.raises(LawBroken, match=r"^law broken: work conservation"):
        laws.check(trace)


def test_a_false_leap_is_caught() -> None:
    """Leap on == leap off fails for a scheduler that promises to repeat and does not."""

    class Fickle(Wrapped):
        def plan(self, view: View) -> Plan:
            plan = self.inner.plan(view)
            plan.repeats, plan.arrival_breaks = True, False
            return plan

    requests = load([(0, 10, 20), (1500, 10, 20)])
    traces = [
        play(requests, [Fickle(lambda *_: None)], RoundRobin(), COST, leap=leap)[0] for leap in (True, False)
    ]

    assert not same(traces[0], traces[1])
