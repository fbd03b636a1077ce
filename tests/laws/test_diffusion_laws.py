"""Laws over random loads, for every scheduler of diffusion models; each shown failing once."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.diffusion import denoises
from simserve.errors import LawBroken
from simserve.policies import ROUTERS
from simserve.policies.denoising import Lockstep, canvas_of
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.cluster import Cluster
from simserve.sim.kv import BlockLedger
from simserve.sim.plan import Denoiser, Plan, Scheduler, View, knobs
from simserve.sim.request import Outcome, Seen
from simserve.sim.trace import Trace
from simserve.spec.confidence import ConfidenceSpec
from simserve.systems import SCHEDULERS
from simserve.systems.dllm_serve import DllmServe
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost
from simserve.workload.requests import RequestSet

DENOISING = [name for name in SCHEDULERS.names() if denoises(name)]
COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)
CONFIDENCE = ConfidenceSpec(tokens_per_step=((0.5, 3.0), (0.9, 1.5), (1.0, 1.0)), block_length=4)
PROMPT, CANVAS = 30, 30  # at most
LONGEST = PROMPT + CANVAS
# of knobs with ranges, values that loads this small can tell apart; choices are drawn from all
VALUES: dict[str, list[object]] = {
    "block_length": [1, 4, 5, 8], "delay_step": [0, 1, 2, 9], "retention_ratio": [0.05, 0.5, 1.0],
    "max_num_logits": [0, 8, 1024], "kv_moves": [5.0], "threshold": [0.0, 0.5, 0.95, 1.0], "tokens_per_step": [1, 3],
    "prompt_interval": [1, 7], "response_interval": [1, 3], "update_ratio": [0.0, 0.25, 1.0], "quantum": [1, 40, 4096],
    "margin_high": [1.0, 7.5], "margin_low": [0.0, 5.0], "rate": [2.0, 16.0],
    "max_num_batched_tokens": [40, LONGEST, 90, 2048], "max_num_seqs": [1, 3, 8],
}  # fmt: skip


@st.composite
def loads(draw: st.DrawFn, equal: bool = False) -> RequestSet:
    """Up to 20 requests: bursts and gaps, short and long, open or closed loop; equal: canvases of one length."""
    count = draw(st.integers(1, 20))
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 500, 1007, 20_000]), min_size=count, max_size=count))
    canvas = st.integers(1, CANVAS) if not equal else st.just(draw(st.integers(1, CANVAS)))
    pairs = draw(st.lists(st.tuples(st.integers(1, PROMPT), canvas), min_size=count, max_size=count))
    rows = [(int(t), p, o) for t, (p, o) in zip(np.cumsum(gaps), pairs, strict=True)]
    concurrency = draw(st.sampled_from([None, None, 1, 5]))
    return load(rows, concurrency=concurrency, confidence=CONFIDENCE, confidence_seed=draw(st.integers(0, 3)))


@st.composite
def settings_of(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Every knob of a scheduler."""
    known = knobs(SCHEDULERS.get(name))
    return {key: draw(st.sampled_from(knob["choices"] or VALUES[key])) for key, knob in known.items()}


def run(
    requests: RequestSet, name: str, options: dict[str, Any], *, router: str = "round_robin", replicas: int = 2,
    blocks: int = 401, block_size: int = 4, leap: bool = True, ahead: bool = False,
) -> tuple[Trace, Cluster]:  # fmt: skip
    """Replicas of a scheduler; every law of `sim.laws` holds, and the blocks come back. ahead: they plan ahead."""
    schedulers = [SCHEDULERS.get(name)(**options) for _ in range(replicas)]
    trace, cluster = play(
        requests, schedulers, ROUTERS.get(router)(), COST, num_gpu_blocks=blocks, block_size=block_size, leap=leap,
        async_scheduling=ahead,
    )  # fmt: skip
    laws.check(trace)
    assert [i.ledger.used for i in cluster.instances] == [0] * replicas
    return trace, cluster


def same(first: Trace, second: Trace) -> bool:
    """Equal requests, steps, gaps and passes."""
    return (
        all(np.array_equal(first.requests[k], second.requests[k]) for k in first.requests)
        and all(np.array_equal(first.steps[k], second.steps[k]) for k in first.steps)
        and first.itl_gaps_ns.tolist() == second.itl_gaps_ns.tolist()
        and first.denoising == second.denoising
    )


def whole(trace: Trace, requests: RequestSet, padded: bool) -> None:
    """Every request that is finished has all of its canvas; what was committed came out, but for padding."""
    r = trace.requests
    done = r["outcome"] == Outcome.FINISHED
    assert np.array_equal(r["output_tokens"][done], requests.output_tokens[done])
    committed, out = sum(use.committed for use in trace.denoising), int(r["output_tokens"].sum())
    assert committed >= out if padded else committed == out


def limits(trace: Trace, options: dict[str, Any]) -> None:
    """No step has more query tokens than the budget, nor an instance more requests than seats."""
    assert trace.steps["tokens"].max(initial=0) <= options["max_num_batched_tokens"]
    assert trace.steps["running"].max(initial=0) <= options["max_num_seqs"]


def progress(trace: Trace, cluster: Cluster, requests: RequestSet) -> None:
    """Who can be served alone is served; nobody else."""
    scheduler, ledger = cast(Denoiser, cluster.instances[0].scheduler), cluster.instances[0].ledger
    for outcome, tokens in zip(trace.requests["outcome"], requests.prompt_tokens + requests.output_tokens, strict=True):
        fits = tokens <= scheduler.max_num_batched_tokens and ledger.count(scheduler.slots(int(tokens))) <= ledger.total
        assert outcome == (Outcome.FINISHED if fits else Outcome.REJECTED)


@pytest.mark.parametrize("name", DENOISING)
@settings(max_examples=200, deadline=None)
@given(
    data=st.data(), equal=st.booleans(), blocks=st.sampled_from([9, 11, 16, 17, 60, 401]), ahead=st.booleans(),
)  # fmt: skip
def test_laws_hold(name: str, data: st.DataObject, equal: bool, blocks: int, ahead: bool) -> None:
    """Every law of `sim.laws` and of this file, under KV pressure too; determinism; leap on == leap off."""
    requests, options = data.draw(loads(equal)), data.draw(settings_of(name))
    router, replicas = data.draw(st.sampled_from(ROUTERS.names())), data.draw(st.sampled_from([1, 3]))
    (trace, cluster), again, stepping = (
        run(requests, name, options, router=router, replicas=replicas, blocks=blocks, leap=leap, ahead=ahead)
        for leap in (True, True, False)
    )

    whole(trace, requests, padded=isinstance(cluster.instances[0].scheduler, Lockstep) and not equal)
    limits(trace, options)
    progress(trace, cluster, requests)
    assert same(trace, again[0])
    assert same(trace, stepping[0])


State = tuple[Any, dict[int, int]]


def states(requests: RequestSet, scheduler: Scheduler) -> list[State]:
    """(plan, positions that each request so far has when it is made) of every step of one replica."""
    seen: dict[int, Seen] = {}
    log: list[State] = []

    def note(start_ns: int, duration_ns: int, plan: Plan, free: int) -> None:
        seen.update((r.id, r) for r in plan.tokens)
        made = [(r.id, tokens, (plan.denoise or {})[r]) for r, tokens in plan.tokens.items()]
        log.append(((start_ns, duration_ns, free, made), {i: canvas_of(r).committed for i, r in seen.items()}))

    play(requests, [scheduler], RoundRobin(), COST, num_gpu_blocks=60, block_size=4, observer=note)
    return log


def anticipates(first: list[State], second: list[State]) -> bool:
    """Whether a plan differs before anything that was drawn does."""
    for (plan, known), (other, also) in zip(first, second, strict=False):
        if any(also[i] != positions for i, positions in known.items() if i in also):
            return False
        if plan != other:
            return True
    return False


@pytest.mark.parametrize("name", DENOISING)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_policy_anticipates_what_is_drawn(name: str, data: st.DataObject) -> None:
    """Equal canvases, another seed: plans are the same until a canvas differs. Before the first step none does."""
    requests, options = data.draw(loads(equal=True)), data.draw(settings_of(name))
    other = dataclasses.replace(requests, confidence_seed=requests.confidence_seed + 1)
    first, second = (states(each, SCHEDULERS.get(name)(**options)) for each in (requests, other))

    assert first[:1] == second[:1]
    assert not anticipates(first, second)


KNOBS = {"max_num_batched_tokens": 64, "max_num_seqs": 8, "block_length": 4}


class Wrapped:
    """dLLM-Serve's plans with one rule broken."""

    max_num_batched_tokens, max_num_seqs, block_length = 64, 8, 4

    def __init__(self, spoil: Callable[[View, Plan], None]) -> None:
        self.inner, self.spoil = DllmServe(**KNOBS, delay_step=0), spoil
        self.slots, self.traits = self.inner.slots, self.inner.traits

    def plan(self, view: View) -> Plan:
        """The inner plan, spoiled."""
        plan = self.inner.plan(view)
        self.spoil(view, plan)
        return plan


def each_pass(**changes: Any) -> Callable[[View, Plan], None]:
    """Every pass with other numbers."""

    def spoil(_: View, plan: Plan) -> None:
        plan.denoise = {r: dataclasses.replace(p, **changes) for r, p in (plan.denoise or {}).items()}

    return spoil


def over_budget(_: View, plan: Plan) -> None:
    """Queries beyond the budget."""
    for request in plan.tokens:
        plan.tokens[request] += 40


def no_queries(_: View, plan: Plan) -> None:
    """A pass over nothing."""
    for request in plan.tokens:
        plan.tokens[request] = 0


def without_pages(view: View, plan: Plan) -> None:
    """Reads what is kept nowhere."""
    for request in plan.tokens:
        view.blocks.release(request)


def without_passes(_: View, plan: Plan) -> None:
    """Tokens with no pass."""
    plan.denoise = {}


def not_admitted(_: View, plan: Plan) -> None:
    """Steps of requests that wait."""
    plan.admitted.clear()


def twice_admitted(_: View, plan: Plan) -> None:
    """Admits a request that is not waiting."""
    plan.admitted.extend(plan.admitted)


@pytest.mark.parametrize(
    ("spoil", "law"),
    [(over_budget, "budget"), (no_queries, "tokens"), (without_pages, "tokens"), (without_passes, "running"),
     (not_admitted, "running"), (twice_admitted, "admit"), (each_pass(cached_tokens=1000), "tokens"),
     (each_pass(masked=5), "tokens"), (each_pass(masked=4), "tokens"), (each_pass(masked=-1), "tokens"),
     (each_pass(least=0), "progress"), (each_pass(least=5), "progress")],
)  # fmt: skip
def test_a_broken_rule_is_caught(spoil: Callable[[View, Plan], None], law: str) -> None:
    """The instance refuses plans that break its rules."""
    requests = load([(0, 10, 8), (0, 20, 8)], confidence=CONFIDENCE)
    with pytest.raises(LawBroken, match=f"^law broken: {law}"):
        play(requests, [Wrapped(spoil)], RoundRobin(), COST)


def test_a_seat_too_many_is_caught() -> None:
    """Two requests run where one may."""
    scheduler = Wrapped(lambda *_: None)
    scheduler.max_num_seqs = 1
    with pytest.raises(LawBroken, match=r"^law broken: max_num_seqs"):
        play(load([(0, 10, 8)] * 2, confidence=CONFIDENCE), [scheduler], RoundRobin(), COST)


@pytest.mark.parametrize(
    ("law", "table", "column", "value"),
    [("tokens", "steps", "tokens", 3), ("tokens", "requests", "output_tokens", 99),
     ("causality", "requests", "first_token_ns", 10**12), ("memory", "steps", "used_blocks", 10**6),
     ("conservation", "requests", "id", 1)],
)  # fmt: skip
def test_a_false_trace_is_caught(law: str, table: str, column: str, value: int) -> None:
    """Each law of a trace fails when what it protects is changed."""
    trace, _ = run(load([(0, 10, 8), (5, 20, 8)], confidence=CONFIDENCE), "dllm_serve", KNOBS)
    columns = {k: v.copy() for k, v in getattr(trace, table).items()}
    columns[column][0] = value

    with pytest.raises(LawBroken, match=f"^law broken: {law}"):
        laws.check(dataclasses.replace(trace, **{table: columns}))


def test_what_this_file_asserts_can_fail() -> None:
    """Pages that are kept, canvases cut, positions committed twice or never, limits passed, who could run refused."""
    requests = load([(0, 10, 8), (5, 20, 8)], confidence=CONFIDENCE)
    trace, cluster = run(requests, "dllm_serve", KNOBS)
    whole(trace, requests, padded=False)
    progress(trace, cluster, requests)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockLedger, "release", lambda *_: None)
        with pytest.raises(AssertionError):
            run(requests, "dllm_serve", KNOBS)
    longer = dataclasses.replace(requests, output_tokens=requests.output_tokens + 1)
    with pytest.raises(AssertionError):
        whole(trace, longer, padded=False)
    for option in KNOBS:
        if option != "block_length":
            with pytest.raises(AssertionError):
                limits(trace, {**KNOBS, option: 0})
    with pytest.raises(AssertionError):
        progress(trace, run(requests, "dllm_serve", KNOBS, blocks=4)[1], requests)
    trace.denoising[0].committed += 1
    with pytest.raises(AssertionError):
        whole(trace, requests, padded=False)
    trace.denoising[0].committed -= 2
    with pytest.raises(LawBroken, match=r"^law broken: tokens"):
        laws.check(trace)


def test_an_idle_engine_with_work_is_caught() -> None:
    """Work conservation: a scheduler that plans nothing once while a request runs."""
    calls: list[int] = []

    def lazy(_: View, plan: Plan) -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            plan.tokens.clear()

    trace, _ = play(load([(0, 10, 8), (90_000, 10, 4)], confidence=CONFIDENCE), [Wrapped(lazy)], RoundRobin(), COST)
    with pytest.raises(LawBroken, match=r"^law broken: work conservation"):
        laws.check(trace)


def test_chance_in_a_policy_is_caught() -> None:
    """Determinism fails for a scheduler that remembers the run before."""
    calls: list[int] = []

    def fickle(_: View, plan: Plan) -> None:
        calls.append(len(calls))
        for request in list(plan.tokens)[1:] if len(calls) % 4 == 0 else ():
            del plan.tokens[request]

    requests = load([(0, 10, 8), (0, 10, 6), (0, 9, 8)], confidence=CONFIDENCE)
    first, second = (play(requests, [Wrapped(fickle)], RoundRobin(), COST)[0] for _ in range(2))

    assert not same(first, second)


def test_a_policy_that_anticipates_is_caught() -> None:
    """One that reads how easy its requests are."""

    def knows(view: View, plan: Plan) -> None:
        easy = sorted(view.running.values(), key=lambda r: cast(Any, r).confidence.ease)
        for request in easy[:1] if len(plan.tokens) > 1 else ():
            plan.tokens.pop(request, None)

    requests = load([(0, 10, 8), (0, 10, 8)], confidence=CONFIDENCE)
    found = [states(dataclasses.replace(requests, confidence_seed=seed), Wrapped(knows)) for seed in range(6)]
    honest = [
        states(dataclasses.replace(requests, confidence_seed=seed), Wrapped(lambda *_: None)) for seed in range(6)
    ]

    assert any(anticipates(found[0], each) for each in found)
    assert not any(anticipates(honest[0], each) for each in honest)
