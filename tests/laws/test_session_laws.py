"""Laws over random sessions: turns that wait for turns, whose prompts contain what was generated before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.policies import ROUTERS
from simserve.sim import laws
from simserve.sim.request import Outcome
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost
from simserve.workload.requests import Content, RequestSet, generated_content, prompt_content

COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)


@st.composite
def sessions(draw: st.DrawFn) -> RequestSet:
    """Up to 25 turns of conversations that may fork; think times that meet step ends."""
    count = draw(st.integers(1, 25))
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 1007, 20_000]), min_size=count, max_size=count))
    rows: list[tuple[int, int, int]] = []
    content: list[Content] = []
    after: list[int] = []
    for index, time in enumerate(np.cumsum(gaps).tolist()):
        before = draw(st.integers(-1, index - 1))
        told: Content = () if before < 0 else (*content[before], (generated_content(before), rows[before][2]))
        new, output = draw(st.tuples(st.integers(1, 50), st.integers(1, 40)))
        content.append((*told, (prompt_content(index), new)))
        rows.append((time, sum(n for _, n in content[-1]), output))
        after.append(before)
    delay = draw(st.lists(st.sampled_from([0, 0, 1, 1007, 5000]), min_size=count, max_size=count))
    output_content = [generated_content(i) for i in range(count)]
    return load(rows, content=content, after=after, delay_ns=delay, output_content=output_content)


def follows(requests: RequestSet, trace: Trace) -> bool:
    """Every turn was sent its delay after the end of the turn before."""
    assert requests.after is not None
    assert requests.delay_ns is not None
    r = trace.requests
    ended = np.where(r["outcome"] == Outcome.FINISHED, r["finish_ns"], r["arrival_ns"])
    later = requests.after >= 0
    return bool((r["arrival_ns"][later] == (ended[requests.after] + requests.delay_ns)[later]).all())


@pytest.mark.parametrize("router", ROUTERS.names())
@settings(max_examples=60, deadline=None)
@given(
    requests=sessions(), blocks=st.sampled_from([41, 60, 400]), caching=st.booleans(),
    replicas=st.sampled_from([1, 3]),
)  # fmt: skip
def test_sessions_keep_the_laws(
    router: str, requests: RequestSet, blocks: int, caching: bool, replicas: int
) -> None:
    """Every request ends once, turns follow one another, blocks come back, leap on == leap off."""
    traces = []
    for leap in (True, False):
        trace, cluster = play(
            requests, [Vllm(33, 3) for _ in range(replicas)], ROUTERS.get(router)(), COST, num_gpu_blocks=blocks,
            block_size=4, enable_prefix_caching=caching, leap=leap,
        )  # fmt: skip
        traces.append(trace)
        assert [0] * replicas == [i.ledger.used for i in cluster.instances]
        for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
            law(trace)
        assert follows(requests, trace)

    first, second = (laws.expanded(t.steps) for t in traces)
    assert all(np.array_equal(traces[0].requests[k], traces[1].requests[k]) for k in traces[0].requests)
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_a_turn_that_does_not_wait_is_caught() -> None:
    """The rule can fail."""
    turns = load([(0, 9, 3), (0, 9, 3)], after=[-1, 0], delay_ns=[0, 5])
    rushed, _ = play(load([(0, 9, 3), (0, 9, 3)]), [Vllm()], ROUTERS.get("round_robin")(), COST)

    assert not follows(turns, rushed)
