"""FlexGen and InstInfer by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.flexgen import FlexGen
from simserve.systems.instinfer import InstInfer
from simserve.testing.timeline import steps_of


def test_a_block_runs_to_completion() -> None:
    """Two GPU batches of one: requests 0 and 1 are a block, 2 waits for both although a place is free."""
    _, steps = steps_of([(0, 10, 3), (0, 10, 1), (0, 10, 1)], FlexGen(gpu_batch_size=1, num_gpu_batches=2))

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 10, 1: 10}),
        (300, {0: 1}),
        (410, {0: 1}),
        (520, {2: 10}),
    ]


def test_the_largest_block_is_bounded_by_the_seats() -> None:
    """max_num_seqs 1 beside a block of eight."""
    _, steps = steps_of([(0, 10, 1), (0, 10, 1)], FlexGen(max_num_seqs=1))

    assert [s.tokens for s in steps] == [{0: 10}, {1: 10}]


def test_memory_is_held_for_the_declared_output() -> None:
    """Prompt 16 and 16 declared are two blocks; five free blocks hold two such requests."""
    for scheduler in (FlexGen(max_new_tokens=16), InstInfer(max_new_tokens=16)):
        _, steps = steps_of([(0, 16, 2)] * 3, scheduler, num_gpu_blocks=6)

        assert [(s.tokens, s.free) for s in steps] == [
            ({0: 16, 1: 16}, 1),
            ({0: 1, 1: 1}, 1),
            ({2: 16}, 3),
            ({2: 1}, 3),
        ]


def test_a_batch_in_drives_is_closed_too() -> None:
    """An arrival during the batch waits for its end."""
    trace, steps = steps_of([(0, 10, 2), (1, 10, 1)], InstInfer())

    assert [s.tokens for s in steps] == [{0: 10}, {0: 1}, {1: 10}]
    assert trace.requests["first_token_ns"].tolist() == [200, 510]
