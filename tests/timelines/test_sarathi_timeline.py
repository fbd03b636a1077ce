"""Sarathi-Serve by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.sarathi import Sarathi
from simserve.testing.timeline import steps_of


def test_a_long_prompt_never_stalls_decodes() -> None:
    """Budget 10: the decode is in every step, the prompt takes the nine tokens that are left."""
    trace, steps = steps_of([(0, 5, 5), (50, 20, 2)], Sarathi(max_num_batched_tokens=10))

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 5}),
        (150, {0: 1, 1: 9}),
        (350, {0: 1, 1: 9}),
        (550, {0: 1, 1: 2}),
        (680, {0: 1, 1: 1}),
    ]
    assert trace.requests["finish_ns"].tolist() == [800, 800]


def test_decodes_come_before_an_older_prompt() -> None:
    """Request 0 is still in its prompt when request 1 decodes: the budget goes to the decode first."""
    _, steps = steps_of([(0, 7, 3), (0, 4, 1)], Sarathi(max_num_batched_tokens=8))

    assert [list(s.tokens.items()) for s in steps] == [[(0, 7), (1, 1)], [(0, 1), (1, 3)], [(0, 1)]]


def test_prompts_fill_the_budget_in_order() -> None:
    """What the first prompt leaves goes to the next one; only the last is cut."""
    _, steps = steps_of([(0, 6, 1), (0, 6, 1), (0, 6, 1)], Sarathi(max_num_batched_tokens=8))

    assert [s.tokens for s in steps] == [{0: 6, 1: 2}, {1: 4, 2: 4}, {2: 2}]


def test_room_for_the_whole_prompt_is_kept() -> None:
    """Three blocks: request 1 needs two, of which its first piece takes one; request 0 may not take the other."""
    _, steps = steps_of([(0, 15, 4), (0, 17, 1)], Sarathi(max_num_batched_tokens=24), num_gpu_blocks=4)

    assert [(s.tokens, s.free) for s in steps] == [
        ({0: 15, 1: 9}, 1),
        ({0: 1, 1: 8}, 0),
        ({0: 1}, 1),
        ({0: 1}, 1),
    ]


def test_the_last_request_gives_way() -> None:
    """Four blocks, two requests of two blocks each: the first to grow preempts the other."""
    trace, steps = steps_of([(0, 31, 4), (0, 31, 4)], Sarathi(), num_gpu_blocks=5)

    assert [(s.tokens, s.preempted) for s in steps] == [
        ({0: 31, 1: 31}, []),
        ({0: 1, 1: 1}, []),
        ({0: 1}, [1]),
        ({0: 1}, []),
        ({1: 33}, []),
        ({1: 1}, []),
    ]
    assert trace.requests["preemptions"].tolist() == [0, 1]
