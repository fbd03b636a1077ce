"""Turns that wait for the turn before: timelines worked out by hand, in integers."""

import pytest

from simserve.errors import SpecError
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.request import Outcome
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)
TURNS = load(
    [(0, 20, 6), (0, 31, 1)], after=[-1, 0], delay_ns=[0, 80], session=[7, 7], output_content=[-2, -4],
    content=[((-1, 20),), ((-1, 20), (-2, 6), (-3, 5))],
)  # fmt: skip


@pytest.mark.parametrize("leap", [True, False])
def test_a_turn_is_sent_after_thinking_and_finds_the_generated_tokens(leap: bool) -> None:
    """20 tokens to 300, five decode steps of 110 to 850; 80 later six blocks of 4 are found and 7 tokens computed."""
    trace, cluster = play(TURNS, [Vllm()], RoundRobin(), COST, block_size=4, enable_prefix_caching=True, leap=leap)

    laws.check(trace)
    assert [0, 930] == trace.requests["arrival_ns"].tolist()
    assert [850, 1100] == trace.requests["finish_ns"].tolist()
    assert [0, 24] == trace.requests["cached_tokens"].tolist()
    assert 0 == cluster.instances[0].ledger.used


def test_turns_after_a_rejection_are_sent_too() -> None:
    """40 tokens are too many for 30: rejected at 5, so the next one comes at 25, and waits for nobody else."""
    requests = load([(5, 40, 2), (5, 10, 1), (9, 10, 1)], after=[-1, 0, -1], delay_ns=[0, 20, 0])

    trace, _ = play(requests, [Vllm()], RoundRobin(), COST, max_model_len=30)

    assert [Outcome.REJECTED, Outcome.FINISHED, Outcome.FINISHED] == trace.requests["outcome"].tolist()
    assert [5, 25, 9] == trace.requests["arrival_ns"].tolist()
    assert [-1, 409, 209] == trace.requests["finish_ns"].tolist()


def test_two_turns_may_follow_one() -> None:
    """Both are sent at the end of the first, and without delays at once."""
    trace, _ = play(load([(0, 10, 1)] * 3, after=[-1, 0, 0]), [Vllm()], RoundRobin(), COST)

    assert [0, 200, 200] == trace.requests["arrival_ns"].tolist()
    assert [200, 500, 500] == trace.requests["finish_ns"].tolist()


def test_routers_see_the_session() -> None:
    """-1 for requests without one."""
    seen: list[int] = []

    class Noting(RoundRobin):
        def route(self, request, views):  # type: ignore[no-untyped-def]
            seen.append(request.session)
            return super().route(request, views)

    play(TURNS, [Vllm()], Noting(), COST)
    play(load([(0, 1, 1)]), [Vllm()], Noting(), COST)

    assert [7, 7, -1] == seen


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"after": [0, -1]}, "after: a request can only wait for an earlier one"),
     ({"after": [-2, 0]}, "after: a request can only wait for an earlier one"),
     ({"after": [-1, 0], "delay_ns": [0, -1]}, "delay_ns: must not be negative"),
     ({"after": [-1, 0], "concurrency": 2}, "concurrency: requests that wait for others belong to an open loop"),
     ({"after": [-1]}, "different lengths")],
)  # fmt: skip
def test_what_cannot_wait_is_refused(columns: dict[str, list[int]], message: str) -> None:
    """Order, signs and lengths."""
    with pytest.raises(SpecError, match=message):
        load([(0, 1, 1), (0, 1, 1)], **columns)


def test_the_head_keeps_its_columns() -> None:
    """The first turn alone."""
    head = TURNS.head(1)

    assert head.after is not None
    assert head.session is not None
    assert ([-1], [7], [((-1, 20),)]) == (head.after.tolist(), head.session.tolist(), list(head.content or []))
