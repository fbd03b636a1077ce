"""Timelines worked out by hand: integers in, integers out."""

from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.sim.plan import Plan
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.timeline import steps_of
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


def rows(trace: Trace, *names: str) -> list[tuple[int, ...]]:
    """Some columns of the requests as tuples."""
    return list(zip(*(trace.requests[n].tolist() for n in names), strict=True))


def run_one(requests: list[tuple[int, int, int]], **settings: object) -> tuple[Trace, list[object]]:
    """One instance, steps observed as (start, duration, {id: tokens}, preempted ids, free blocks)."""
    steps: list[object] = []

    def observe(start: int, duration: int, plan: Plan, free: int) -> None:
        tokens = {r.id: n for r, n in plan.tokens.items()}
        steps.append((start, duration, tokens, [r.id for r in plan.preempted], free))

    blocks = settings.pop("num_gpu_blocks", 101)
    scheduler = Vllm(**settings)  # type: ignore[arg-type]
    trace, _ = play(load(requests), [scheduler], RoundRobin(), COST, num_gpu_blocks=blocks, observer=observe)  # type: ignore[arg-type]
    return trace, steps


def test_prefill_then_decode() -> None:
    """A lone request: one prefill step, then one step per further token."""
    trace, steps = run_one([(1000, 20, 3)])

    assert steps == [
        (1000, 300, {0: 20}, [], 98),
        (1300, 110, {0: 1}, [], 98),
        (1410, 110, {0: 1}, [], 98),
    ]
    assert rows(trace, "first_scheduled_ns", "first_token_ns", "finish_ns") == [(1000, 1300, 1520)]


def test_chunks_share_the_budget_with_decodes() -> None:
    """Running requests come first; what is left of the budget chunks the newcomer's prompt."""
    _, steps = run_one([(0, 5, 4), (50, 20, 2)], max_num_batched_tokens=8)

    assert [s[2] for s in steps] == [  # type: ignore[index]
        {0: 5},
        {0: 1, 1: 7},
        {0: 1, 1: 7},
        {0: 1, 1: 6},
        {1: 1},
    ]


def test_arrival_at_a_step_end_joins_the_next_plan() -> None:
    """Tie order: the arrival at t is queued before the step that ends at t forms its next plan."""
    _, steps = run_one([(0, 10, 3), (200, 1, 1)])

    assert [(s[0], s[2]) for s in steps] == [  # type: ignore[index]
        (0, {0: 10}),
        (200, {0: 1, 1: 1}),
        (320, {0: 1}),
    ]


def test_simultaneous_arrivals_share_the_first_step() -> None:
    """An idle engine wakes once for all requests of one instant."""
    _, steps = run_one([(7, 3, 1), (7, 4, 1)])

    assert [(s[0], s[2]) for s in steps] == [(7, {0: 3, 1: 4})]  # type: ignore[index]


def test_preemption_takes_the_last_and_recomputes_it() -> None:
    """Four blocks of 16: two requests of 32 tokens each; the first to grow preempts the other."""
    trace, steps = run_one([(0, 31, 4), (0, 31, 4)], num_gpu_blocks=5)

    assert [s[2:] for s in steps] == [  # type: ignore[index]
        ({0: 31, 1: 31}, [], 0),
        ({0: 1, 1: 1}, [], 0),
        ({0: 1}, [1], 1),
        ({0: 1}, [], 1),
        ({1: 33}, [], 1),
        ({1: 1}, [], 1),
    ]
    assert rows(trace, "preemptions", "output_tokens") == [(0, 4), (1, 4)]
    assert trace.itl_gaps_ns.tolist() == [110 + 110 + 430]


def test_long_prompts_are_refused_and_long_outputs_cut() -> None:
    """max_model_len as vLLM has it: the prompt must leave room for a token, the output ends there."""
    trace, cluster = play(
        load([(0, 64, 1), (0, 60, 10)]), [Vllm()], RoundRobin(), COST, max_model_len=64
    )

    assert rows(trace, "outcome", "output_tokens") == [(1, 0), (0, 4)]
    assert trace.truncated == 1
    assert cluster.instances[0].ledger.used == 0


def test_closed_loop_keeps_its_concurrency() -> None:
    """Each end sends the next request at the same instant."""
    trace, _ = play(
        load([(0, 10, 1)] * 3, concurrency=1), [Vllm()], RoundRobin(), COST
    )

    assert rows(trace, "arrival_ns", "finish_ns") == [(0, 200), (200, 400), (400, 600)]


def test_routers_spread_requests() -> None:
    """Round robin goes in turn; least loaded avoids the busy instance."""
    requests = [(0, 10, 50), (1, 10, 1), (2, 10, 1), (900, 10, 1)]

    robin, _ = play(load(requests), [Vllm(), Vllm()], RoundRobin(), COST)
    least, _ = play(load(requests), [Vllm(), Vllm()], LeastLoaded(), COST)

    assert robin.requests["instance"].tolist() == [0, 1, 0, 1]
    assert least.requests["instance"].tolist() == [0, 1, 0, 1]
    busy, _ = play(load([(0, 10, 50), (900, 10, 1), (2000, 10, 1)]), [Vllm(), Vllm()], LeastLoaded(), COST)
    assert busy.requests["instance"].tolist() == [0, 1, 1]


def test_scheduling_ahead_leaves_an_arrival_one_step_more() -> None:
    """Request 1 arrives at 160, in the step of 150 to 260: the plan of 260 is made already, so it starts at 370."""
    rows = [(0, 5, 6), (160, 5, 1), (2000, 5, 1)]
    _, steps = steps_of(rows, Vllm())
    _, ahead = steps_of(rows, Vllm(), async_scheduling=True)

    assert [next(s.start_ns for s in steps if i in s.tokens) for i in (1, 2)] == [260, 2000]
    assert [next(s.start_ns for s in ahead if i in s.tokens) for i in (1, 2)] == [370, 2000]


def test_an_engine_that_runs_empty_takes_late_arrivals_at_once() -> None:
    """Request 1 arrives in the only step of request 0: nothing was planned for its end."""
    _, steps = steps_of([(0, 5, 1), (10, 5, 1)], Vllm(), async_scheduling=True)

    assert [(s.start_ns, s.tokens) for s in steps] == [(0, {0: 5}), (150, {1: 5})]
