"""Static batching by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.static import Static
from simserve.testing.timeline import steps_of


def test_arrivals_wait_for_the_slowest_of_the_batch() -> None:
    """Request 1 leaves after two tokens; its seat stays empty until request 0 has its four."""
    trace, steps = steps_of([(0, 10, 4), (0, 10, 2), (50, 10, 1)], Static(max_num_seqs=2))

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 10, 1: 10}),
        (300, {0: 1, 1: 1}),
        (420, {0: 1}),
        (530, {0: 1}),
        (640, {2: 10}),
    ]
    assert trace.requests["first_token_ns"].tolist() == [300, 300, 840]


def test_an_arrival_does_not_join_a_batch_with_empty_seats() -> None:
    """Eight seats, one taken: the batch was closed when it began."""
    _, steps = steps_of([(0, 10, 2), (1, 10, 1)], Static())

    assert [s.tokens for s in steps] == [{0: 10}, {0: 1}, {1: 10}]


def test_all_prompts_come_before_any_decode() -> None:
    """Prompts of 8, 8 and 4 tokens under a budget of 12: two steps, then decodes."""
    _, steps = steps_of([(0, 8, 2), (0, 8, 2), (0, 4, 2)], Static(max_num_batched_tokens=12))

    assert [s.tokens for s in steps] == [{0: 8, 1: 4}, {1: 4, 2: 4}, {0: 1, 1: 1, 2: 1}]


def test_memory_for_the_longest_output_is_held_from_the_start() -> None:
    """Prompt 16 and 48 declared are four blocks; nine free blocks hold two such requests."""
    _, steps = steps_of([(0, 16, 2)] * 3, Static(max_new_tokens=48), num_gpu_blocks=10)

    assert [(s.tokens, s.free) for s in steps] == [
        ({0: 16, 1: 16}, 1),
        ({0: 1, 1: 1}, 1),
        ({2: 16}, 5),
        ({2: 1}, 5),
    ]


def test_a_declared_limit_that_no_cache_holds_runs_alone() -> None:
    """Three blocks, 1024 declared: one request at a time, with the whole cache."""
    _, steps = steps_of([(0, 16, 1), (0, 16, 1)], Static(), num_gpu_blocks=4)

    assert [(s.tokens, s.free) for s in steps] == [({0: 16}, 0), ({1: 16}, 0)]
