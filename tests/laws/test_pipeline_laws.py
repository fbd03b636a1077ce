"""Laws over random workloads for pipelined instances; one stage is the plain instance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.errors import LawBroken
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.pipeline import PipelinedInstance
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost, ToyPipeline

LENGTHS = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=30)
STAGES = (ToyCost(700, 7, 1), ToyCost(300, 9, 1), ToyCost(1100, 1, 0))


def run(rows: list[tuple[int, int, int]], stages: int, blocks: int, caching: bool, knobs: dict[str, int]) -> Trace:
    """One pipelined instance under vLLM's scheduler."""
    trace, cluster = play(
        load(sorted(rows)), [Vllm(**knobs)], RoundRobin(), ToyPipeline(STAGES[:stages]), num_gpu_blocks=blocks,
        block_size=4, enable_prefix_caching=caching, stages=stages, leap=False,
    )  # fmt: skip
    assert cluster.instances[0].ledger.used == 0
    return trace


KNOBS = st.fixed_dictionaries({
    "max_num_batched_tokens": st.sampled_from([8, 33, 2048]), "max_num_seqs": st.sampled_from([1, 3, 8]),
})  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    rows=LENGTHS, stages=st.integers(2, 3), blocks=st.sampled_from([40, 60, 400]), caching=st.booleans(), knobs=KNOBS
)  # fmt: skip
def test_laws_hold(
    rows: list[tuple[int, int, int]], stages: int, blocks: int, caching: bool, knobs: dict[str, int]
) -> None:
    """Every law, every token of every request, and the same again."""
    trace = run(rows, stages, blocks, caching, knobs)
    laws.check(trace)
    assert sorted(trace.requests["output_tokens"].tolist()) == sorted(output for _, _, output in rows)
    again = run(rows, stages, blocks, caching, knobs)
    assert all(np.array_equal(trace.steps[name], again.steps[name]) for name in trace.steps)


@settings(max_examples=60, deadline=None)
@given(rows=LENGTHS, blocks=st.sampled_from([40, 400]), knobs=KNOBS)
def test_one_stage_is_the_plain_instance(
    rows: list[tuple[int, int, int]], blocks: int, knobs: dict[str, int]
) -> None:
    """The pipelined instance with one stage makes the same trace as `Instance`."""
    from simserve.sim import cluster as module

    plain = run(rows, 1, blocks, False, knobs)
    original = module.Instance
    try:
        module.Instance = lambda *a, **k: PipelinedInstance(*a, stages=1, **k)  # type: ignore
        piped = run(rows, 1, blocks, False, knobs)
    finally:
        module.Instance = original
    assert all(np.array_equal(plain.steps[name], piped.steps[name]) for name in plain.steps)
    assert all(np.array_equal(plain.requests[name], piped.requests[name]) for name in plain.requests)
    assert sorted(plain.itl_gaps_ns.tolist()) == sorted(piped.itl_gaps_ns.tolist())


def test_law_of_lanes_sees_too_many_steps() -> None:
    """The same trace breaks the law if the instance had one stage."""
    trace = run([(0, 20, 5), (0, 20, 5)], 2, 400, False, {"max_num_batched_tokens": 8})
    laws.lanes(trace)
    trace.depths[0] = 1
    with pytest.raises(LawBroken, match="starts before"):
        laws.lanes(trace)
