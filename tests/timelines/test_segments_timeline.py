"""Segments, interruption and shared lanes: timelines worked out by hand, in integers."""

from dataclasses import dataclass, field

import pytest

from simserve.errors import LawBroken
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.cluster import Cluster
from simserve.sim.lanes import GpuLanes
from simserve.sim.plan import Lane, Plan, Segment, View, WorkKind
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


@dataclass
class LayerGroups:
    """vLLM's plans with each step in `groups` equal segments; short prompts interrupt long ones."""

    groups: int = 4
    demand: dict[Lane, int] = field(default_factory=dict)
    interruptible: bool = True
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256

    def plan(self, view: View) -> Plan:
        """Fresh work first, then whatever was interrupted."""
        plan = Vllm().plan(view)
        plan.repeats = False
        if not plan.tokens and view.suspended:
            return Plan(resume=next(iter(view.suspended)))
        tokens = sum(plan.tokens.values())
        plan.segments = tuple(
            Segment(WorkKind.PREFILL, (i, i + 1), tokens, self.demand) for i in range(self.groups)
        )
        plan.interruptible = self.interruptible
        return plan


def played(requests: list[tuple[int, int, int]], *engines: LayerGroups, shared: bool = False) -> Trace:
    """One instance per engine, on GPUs of their own or on one; requests in turn."""
    cluster = Cluster(RoundRobin())
    gpu = GpuLanes(cluster.clock) if shared else None
    for engine in engines:
        cluster.add(engine, COST, num_gpu_blocks=101, block_size=16, gpu=gpu)
    trace = cluster.play(load(requests))
    assert [0] * len(engines) == [i.ledger.used for i in cluster.instances]
    laws.check(trace)
    return trace


def steps(trace: Trace) -> list[tuple[int, int, int]]:
    """(start, end, tokens) per row of the step log."""
    return list(zip(*(trace.steps[k].tolist() for k in ("start_ns", "end_ns", "tokens")), strict=True))


def test_segments_of_a_lone_engine_last_as_long_as_the_step() -> None:
    """Three segments of a step that costs 310 take 103, 103 and 104: nothing is gained or lost."""
    request = [(7, 21, 1)]

    assert [(7, 317, 21)] == steps(played(request, LayerGroups(groups=3)))
    assert [(7, 317, 21)] == steps(played(request, LayerGroups(groups=1)))


def test_an_arrival_stops_the_step_at_a_boundary_and_the_work_is_credited() -> None:
    """100 tokens cost 1100, in segments of 275; at 300 a short prompt arrives.

    The second segment ends at 550; the short prompt (10 tokens, 200 ns) runs to 750; the other two segments
    take 550 more, to 1300: not a ns of the first two is repeated.
    """
    trace = played([(0, 100, 1), (300, 10, 1)], LayerGroups())

    assert [(0, 550, 0), (550, 750, 10), (750, 1300, 100)] == steps(trace)
    assert [1300, 750] == trace.requests["finish_ns"].tolist()


def test_without_interruption_the_short_prompt_waits() -> None:
    """The same arrivals, head of line blocked."""
    trace = played([(0, 100, 1), (300, 10, 1)], LayerGroups(interruptible=False))

    assert [1100, 1300] == trace.requests["finish_ns"].tolist()


def test_an_arrival_at_a_boundary_stops_there_and_in_the_last_segment_not() -> None:
    """Tie order: at 275 the arrival comes before the segment's end; at 900 only one segment is left."""
    at_boundary = played([(0, 100, 1), (275, 10, 1)], LayerGroups())
    in_the_last = played([(0, 100, 1), (900, 10, 1)], LayerGroups())

    assert [1300, 475] == at_boundary.requests["finish_ns"].tolist()
    assert [1100, 1300] == in_the_last.requests["finish_ns"].tolist()


def test_two_engines_on_one_gpu_slow_each_other_while_both_are_active() -> None:
    """A: 200 ns from 0; B: 200 ns from 50. Both at half pace from 50: A ends at 350, B alone from there to 400."""
    trace = played([(0, 10, 1), (50, 10, 1)], LayerGroups(1), LayerGroups(1), shared=True)

    assert [350, 400] == trace.requests["finish_ns"].tolist()


def test_two_engines_on_different_lanes_do_not() -> None:
    """One keeps HBM busy, the other compute: both take the time they take alone."""
    memory, compute = LayerGroups(1, {Lane.HBM: 300}), LayerGroups(1, {Lane.COMPUTE: 120, Lane.HBM: 0})
    trace = played([(0, 10, 1), (50, 10, 1)], memory, compute, shared=True)

    assert [300, 170] == trace.requests["finish_ns"].tolist()


def test_partial_shares_interfere_by_what_they_oversubscribe() -> None:
    """HBM shares 1 and 1/2: both at 2/3 pace while both run.

    A (HBM 300) has done 60 of 300 when B (compute 120, HBM 60) starts at 60. B needs 120 / (2/3) = 180, to 240; A has
    then done 60 + 120 and needs 120 more alone: 360.
    """
    first, second = LayerGroups(1, {Lane.HBM: 300}), LayerGroups(1, {Lane.COMPUTE: 120, Lane.HBM: 60})
    trace = played([(0, 10, 1), (60, 10, 1)], first, second, shared=True)

    assert [360, 240] == trace.requests["finish_ns"].tolist()


def test_resuming_what_was_not_suspended_is_a_broken_law() -> None:
    """A plan cannot invent work."""

    class Inventive(LayerGroups):
        def plan(self, view: View) -> Plan:
            return Plan(resume=7)

    with pytest.raises(LawBroken, match=r"^law broken: resume"):
        played([(0, 10, 1)], Inventive())
