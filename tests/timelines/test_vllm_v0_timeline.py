"""vLLM 0.x: prompts first, and preemption by swapping against recomputation, worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.errors import LawBroken
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.request import Seen
from simserve.sim.swap import Copies, SwapSpace
from simserve.sim.trace import Trace
from simserve.systems.vllm_v0 import VllmV0
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


def space(blocks: int = 100) -> SwapSpace:
    """Blocks of 1000 bytes in one piece each, 1 byte per ns, 5 ns per launch out and 7 ns back."""
    return SwapSpace(blocks, 1000, out=Copies(5, 10**9), back=Copies(7, 10**9))


def played(
    requests: list[tuple[int, int, int]], *, host_blocks: int = 100, num_gpu_blocks: int = 5, leap: bool = True,
    **knobs: object,
) -> Trace:  # fmt: skip
    """One instance of 4 usable blocks; all blocks come back, on both sides."""
    spaces: list[SwapSpace] = []

    def make() -> SwapSpace:
        spaces.append(space(host_blocks))
        return spaces[-1]

    trace, cluster = play(
        load(requests), [VllmV0(**knobs)], RoundRobin(), COST, num_gpu_blocks=num_gpu_blocks, leap=leap, swap=make,  # type: ignore[arg-type]
    )  # fmt: skip
    assert (0, host_blocks) == (cluster.instances[0].ledger.used, spaces[0].free)
    laws.check(trace)
    return trace


def rows(trace: Trace) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of each step, leaps expanded."""
    e = laws.expanded(trace.steps)
    ends = (e["start_ns"] + e["duration_ns"]).tolist()
    return list(zip(e["start_ns"].tolist(), ends, e["tokens"].tolist(), strict=True))


def test_a_new_prompt_stalls_decodes() -> None:
    """Request 1 arrives while request 0 decodes: a step of its prompt alone, then both decode."""
    trace = played([(0, 10, 4), (250, 5, 2)])

    assert [(0, 200, 10), (200, 310, 1), (310, 460, 5), (460, 580, 2), (580, 690, 1)] == rows(trace)
    assert [150 + 120] == trace.itl_gaps_ns.tolist()


def test_swapping_delays_the_steps_that_copy_and_recomputes_nothing() -> None:
    """Two prompts of 31 fill 4 blocks; at the 33rd token request 1 goes to the host (2 x 1005 ns), and comes back
    (2 x 1007 ns) when request 0 has finished.
    """
    trace = played([(0, 31, 4), (0, 31, 4)], preemption_mode="swap", watermark=0.0)

    assert [
        (0, 720, 62), (720, 840, 2), (840, 840 + 110 + 2010, 1), (2960, 3070, 1),
        (3070, 3070 + 110 + 2014, 1), (5194, 5304, 1),
    ] == rows(trace)  # fmt: skip
    assert [0, 1] == trace.requests["preemptions"].tolist()
    assert [5194 - 840] == trace.itl_gaps_ns.tolist()


def test_recomputation_pays_in_tokens_instead() -> None:
    """The same load: request 1 prefills its 33 tokens again."""
    trace = played([(0, 31, 4), (0, 31, 4)], watermark=0.0)

    assert [
        (0, 720, 62), (720, 840, 2), (840, 950, 1), (950, 1060, 1), (1060, 1490, 33), (1490, 1600, 1),
    ] == rows(trace)  # fmt: skip


def test_without_room_on_the_host_it_recomputes() -> None:
    """One host block is too few for a victim of two."""
    full = played([(0, 31, 4), (0, 31, 4)], host_blocks=1, preemption_mode="swap", watermark=0.0)

    assert 1600 == int(full.requests["finish_ns"].max())


def test_swapped_requests_come_before_new_prompts() -> None:
    """A prompt that would fit waits until nobody is on the host."""
    trace = played([(0, 31, 4), (0, 31, 4), (900, 1, 1)], preemption_mode="swap", watermark=0.0)
    first_scheduled = trace.requests["first_scheduled_ns"].tolist()

    assert first_scheduled[2] == 5194


def test_giving_back_what_is_not_there_is_a_broken_law() -> None:
    """A swap space knows what it holds."""
    with pytest.raises(LawBroken, match=r"^law broken: swap"):
        space().give_back(Seen(0, 0, 10))


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([0, 9, 700, 4000]), st.integers(1, 50), st.integers(1, 40)),
                  min_size=1, max_size=20),
    host_blocks=st.sampled_from([0, 3, 50]), num_gpu_blocks=st.sampled_from([8, 12, 40]),
    mode=st.sampled_from(["swap", "recompute"]),
)  # fmt: skip
def test_laws_hold_and_leaps_are_exact(
    rows: list[tuple[int, int, int]], host_blocks: int, num_gpu_blocks: int, mode: str
) -> None:
    """Random loads under KV pressure."""
    at, requests = 0, []
    for gap, prompt, output in rows:
        at += gap
        requests.append((at, prompt, output))
    runs = [
        played(requests, host_blocks=host_blocks, num_gpu_blocks=num_gpu_blocks, preemption_mode=mode, leap=leap)
        for leap in (True, False)
    ]

    assert all(runs[0].requests[k].tolist() == runs[1].requests[k].tolist() for k in runs[0].requests)
