"""Orca by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.orca import Orca
from simserve.testing.timeline import steps_of


def test_requests_join_and_leave_at_every_iteration() -> None:
    """The prompt of request 1 runs whole beside a decode; request 2 takes its seat when it ends."""
    _, steps = steps_of([(0, 10, 4), (50, 20, 2), (60, 5, 1)], Orca(max_num_seqs=2))

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 10}),
        (200, {0: 1, 1: 20}),
        (510, {0: 1, 1: 1}),
        (630, {0: 1, 2: 5}),
    ]


def test_whole_prompts_stall_decodes() -> None:
    """A prompt of 1000 tokens delays the decode beside it by all of its 10 us."""
    _, steps = steps_of([(0, 10, 3), (50, 1000, 1)], Orca())

    assert [(s.start_ns, s.tokens) for s in steps] == [(0, {0: 10}), (200, {0: 1, 1: 1000}), (10_310, {0: 1})]


def test_a_prompt_waits_until_it_fits_the_budget_whole() -> None:
    """Budget 12: one decode leaves 11, so the prompt of 12 waits, and nobody overtakes it."""
    _, steps = steps_of([(0, 10, 3), (50, 12, 1), (60, 2, 1)], Orca(max_num_batched_tokens=12))

    assert [s.tokens for s in steps] == [{0: 10}, {0: 1}, {0: 1}, {1: 12}, {2: 2}]


def test_reserved_memory_limits_the_batch() -> None:
    """16 + 48 tokens are four blocks: of nine free blocks two requests reserve eight, the third waits."""
    _, steps = steps_of([(0, 16, 1), (0, 16, 2), (0, 16, 1)], Orca(max_new_tokens=48), num_gpu_blocks=10)

    assert [(s.tokens, s.free) for s in steps] == [
        ({0: 16, 1: 16}, 1),
        ({1: 1, 2: 16}, 1),
    ]


def test_without_a_declared_limit_the_model_length_is_reserved() -> None:
    """Orca (Max): every request takes 64 tokens, whatever its prompt."""
    _, steps = steps_of([(0, 1, 1), (0, 40, 1)], Orca(max_new_tokens=0, max_model_len=64), num_gpu_blocks=10)

    assert [(s.tokens, s.free) for s in steps] == [({0: 1, 1: 40}, 1)]


def test_a_request_that_outlives_its_reservation_grows() -> None:
    """One block each, declared; request 0 takes the last free block at 17 tokens, request 1 gives way."""
    _, steps = steps_of([(0, 15, 3), (0, 15, 3)], Orca(max_new_tokens=1), num_gpu_blocks=4)

    assert [(s.tokens, s.preempted, s.free) for s in steps] == [
        ({0: 15, 1: 15}, [], 1),
        ({0: 1, 1: 1}, [], 1),
        ({0: 1}, [1], 1),
        ({1: 17}, [], 1),
    ]
