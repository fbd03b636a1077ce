"""Pipeline stages, worked out by hand: when steps start, overlap and end."""

import pytest

from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost, ToyPipeline

Rows = list[tuple[int, int, int]]


def run(rows: Rows, stages: tuple[int, ...], *, budget: int = 4, blocks: int = 101, **knobs: object) -> Trace:
    """Play (arrival, prompt, output) rows over stages that take so many ns each whatever is in the step."""
    cost = ToyPipeline(tuple(ToyCost(base_ns=ns) for ns in stages))
    engine = Vllm(max_num_batched_tokens=budget, **knobs)  # type: ignore[arg-type]
    trace, cluster = play(
        load(rows), [engine], RoundRobin(), cost, num_gpu_blocks=blocks, block_size=4, stages=len(stages)
    )
    laws.check(trace)
    assert cluster.instances[0].ledger.used == 0
    return trace


def table(trace: Trace) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of each step."""
    return list(zip(*(trace.steps[name].tolist() for name in ("start_ns", "end_ns", "tokens")), strict=True))


def test_two_requests_alternate() -> None:
    """Stage 0 takes 100, stage 1 takes 50. While A's prompt is in stage 1, B's is in stage 0; then their decodes.

    A: 0-100, 100-150; B: 100-200, 200-250; A's token came at 150, but stage 0 is free at 200: 200-300, 300-350; B the
    same 100 later.
    """
    trace = run([(0, 4, 2), (0, 4, 2)], (100, 50))
    assert table(trace) == [(0, 150, 4), (100, 250, 4), (200, 350, 1), (300, 450, 1)]
    assert trace.requests["first_token_ns"].tolist() == [150, 250]
    assert trace.requests["finish_ns"].tolist() == [350, 450]
    assert sorted(trace.itl_gaps_ns.tolist()) == [200, 200]


def test_chunks_of_one_prompt_follow_one_another() -> None:
    """The second chunk enters stage 0 when the first leaves it, at 50, and waits for the slow stage 1 until 150.

    The third would find two steps in flight: it starts when the first has left, at 150.
    """
    trace = run([(0, 12, 1)], (50, 100))
    assert table(trace) == [(0, 150, 4), (50, 250, 4), (150, 350, 4)]
    assert trace.requests["finish_ns"].tolist() == [350]


def test_one_request_decodes_as_if_there_were_no_pipeline() -> None:
    """Its next token needs the last one: a step every 30 + 20 + 10, though three could be in flight."""
    trace = run([(0, 4, 4)], (30, 20, 10))
    assert table(trace) == [(0, 60, 4), (60, 120, 1), (120, 180, 1), (180, 240, 1)]
    assert (trace.itl_gaps_ns.tolist(), trace.steps["decode_tokens"].tolist()) == ([], [0, 1, 1, 1])


def test_an_arrival_finds_stage_zero_free() -> None:
    """B arrives at 120, while A's step is in stage 1: stage 0 is free, it starts at once, and stage 1 at 220."""
    trace = run([(0, 4, 1), (120, 4, 1)], (100, 50))
    assert table(trace) == [(0, 150, 4), (120, 270, 4)]


def test_a_request_preempted_in_flight_loses_its_step() -> None:
    """Four blocks of 4 tokens. A and B hold two each when A decodes its 9th token at 400: B, in flight, is preempted.

    Stages of 100. A: prompt 0-200, B: prompt 100-300; A decodes 200-400, B 300-500, A needs a third block at 400 and
    takes it from B, whose token of 500 is lost; B is recomputed when A has ended at 600.
    """
    trace = run([(0, 7, 4), (0, 7, 3)], (100, 100), budget=7, blocks=5, scheduler_reserve_full_isl=False)
    assert trace.requests["preemptions"].tolist() == [0, 1]
    assert table(trace)[:5] == [(0, 200, 7), (100, 300, 7), (200, 400, 1), (300, 500, 1), (400, 600, 1)]
    assert trace.requests["output_tokens"].tolist() == [4, 3]


@pytest.mark.parametrize("stages", [2, 4])
def test_full_pipeline_is_as_fast_as_its_slowest_stage(stages: int) -> None:
    """As many requests as stages, one token of budget each: a step leaves every 100 ns once the pipeline is full."""
    trace = run([(0, 1, 20)] * stages, (100,) * stages, budget=1, max_num_seqs=stages, watermark=0.0)
    ends = trace.steps["end_ns"]
    assert set((ends[1:] - ends[:-1]).tolist()) == {100}
    assert len(ends) == 20 * stages
