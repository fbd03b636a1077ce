"""SGLang by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.sglang import SgLang
from simserve.testing.timeline import steps_of


def test_a_new_prompt_stalls_decodes() -> None:
    """The prompt of request 1 has a step to itself; request 0 waits for it."""
    _, steps = steps_of([(0, 10, 4), (50, 20, 2)], SgLang())

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 10}),
        (200, {1: 20}),
        (500, {0: 1, 1: 1}),
        (620, {0: 1}),
        (730, {0: 1}),
    ]


def test_decodes_wait_for_all_chunks_of_a_prompt() -> None:
    """Budget 10: the prompt takes two whole steps before the decode goes on."""
    _, steps = steps_of([(0, 5, 3), (50, 20, 1)], SgLang(max_num_batched_tokens=10))

    assert [s.tokens for s in steps] == [{0: 5}, {1: 10}, {1: 10}, {0: 1}, {0: 1}]


def test_in_mixed_chunks_decodes_ride_along() -> None:
    """The same load: the chunk is smaller by the decode that rides along."""
    _, steps = steps_of([(0, 5, 3), (50, 20, 1)], SgLang(max_num_batched_tokens=10, enable_mixed_chunk=True))

    assert [s.tokens for s in steps] == [{0: 5}, {0: 1, 1: 9}, {0: 1, 1: 9}, {1: 2}]


def test_a_second_prompt_fills_the_chunk() -> None:
    """What the first prompt leaves of the budget goes to a piece of the second."""
    _, steps = steps_of([(0, 6, 1), (0, 6, 1)], SgLang(max_num_batched_tokens=10))

    assert [s.tokens for s in steps] == [{0: 6, 1: 4}, {1: 2}]


def test_max_prefill_tokens_stops_the_batch_before_it_is_reached() -> None:
    """12 tokens: the first prompt always runs, the second only if it is smaller than what is left."""
    _, steps = steps_of([(0, 6, 1), (0, 6, 1), (0, 5, 1)], SgLang(max_prefill_tokens=12))

    assert [s.tokens for s in steps] == [{0: 6}, {1: 6, 2: 5}]


def test_running_requests_count_with_a_share_of_what_they_declare() -> None:
    """160 tokens of cache, 40 declared: beside request 0 there are 144 - 0.7 * 39 tokens for 16 + 40; for 100 not."""
    _, few = steps_of([(0, 16, 2), (50, 16, 1)], SgLang(max_new_tokens=40), num_gpu_blocks=11)
    _, many = steps_of([(0, 16, 2), (50, 16, 1)], SgLang(max_new_tokens=100), num_gpu_blocks=11)

    assert [s.tokens for s in few] == [{0: 16}, {1: 16}, {0: 1}]
    assert [s.tokens for s in many] == [{0: 16}, {0: 1}, {1: 16}]


def test_a_full_batch_admits_nobody_until_someone_leaves() -> None:
    """Request 1 fills the batch; request 2 is tiny, but waits for the end of request 0."""
    _, steps = steps_of([(0, 16, 4), (50, 128, 1), (100, 1, 1)], SgLang(max_new_tokens=20), num_gpu_blocks=11)

    assert [s.tokens for s in steps] == [{0: 16}, {0: 1}, {0: 1}, {0: 1}, {1: 128}, {2: 1}]


def test_the_shortest_output_is_retracted() -> None:
    """Four blocks: request 0 has three tokens, request 1 two when blocks run out; it is computed again."""
    trace, steps = steps_of([(0, 30, 5), (450, 30, 4)], SgLang(max_new_tokens=1), num_gpu_blocks=5)

    assert [(s.start_ns, s.tokens, s.preempted, s.free) for s in steps] == [
        (0, {0: 30}, [], 2),
        (400, {0: 1}, [], 2),
        (510, {1: 30}, [], 0),
        (910, {0: 1, 1: 1}, [], 0),
        (1030, {0: 1}, [1], 1),
        (1140, {0: 1}, [], 1),
        (1250, {1: 32}, [], 2),
        (1670, {1: 1}, [], 1),
    ]
    assert trace.requests["preemptions"].tolist() == [0, 1]


def test_the_longest_cached_prefix_goes_first() -> None:
    """Request 2 finds 32 tokens of request 0 in the cache and overtakes request 1, but not first come, first served."""
    content = [((7, 32), (100, 1)), ((8, 33),), ((7, 32), (102, 1))]
    rows = [(0, 33, 1), (1, 33, 1), (2, 33, 1)]
    _, lpm = steps_of(rows, SgLang(max_num_seqs=1, schedule_policy="lpm"), content=content)
    _, fcfs = steps_of(rows, SgLang(max_num_seqs=1), content=content)

    assert [s.tokens for s in lpm] == [{0: 33}, {2: 1}, {1: 33}]
    assert [s.tokens for s in fcfs] == [{0: 33}, {1: 33}, {2: 1}]


def test_the_ratio_decays_with_every_decode_step() -> None:
    """From 0.7 to 14 % of it in 600 steps; but the batch is full, so the decay alone lets nobody in."""
    scheduler = SgLang(max_new_tokens=200)
    _, steps = steps_of([(0, 16, 9), (50, 16, 1)], scheduler, num_gpu_blocks=21)

    assert [s.tokens for s in steps] == [{0: 16}, *[{0: 1}] * 8, {1: 16}]
    assert round(scheduler._ratio(), 9) == round(0.7 - 8 * 0.7 * 0.86 / 600, 9)


def test_the_inbox_is_looked_at_after_so_many_decode_steps() -> None:
    """Request 1 arrives at 160, in the first decode step after the look at 150: the next one is three steps later."""
    load = [(0, 5, 8), (160, 5, 1)]
    _, every = steps_of(load, SgLang())
    _, third = steps_of(load, SgLang(scheduler_recv_interval=3))

    assert next(s.start_ns for s in every if 1 in s.tokens) == 260
    assert next(s.start_ns for s in third if 1 in s.tokens) == 480


def test_overlap_leaves_an_arrival_one_step_more() -> None:
    """Request 1 arrives at 160, in the step of 150 to 260: that of 260 is planned already; at 2000 nothing runs."""
    _, steps = steps_of([(0, 5, 8), (160, 5, 1), (2000, 5, 1)], SgLang(), async_scheduling=True)

    assert [next(s.start_ns for s in steps if i in s.tokens) for i in (1, 2)] == [370, 2000]


def test_an_idle_engine_looks_at_once() -> None:
    """Nothing runs at 1000: no interval applies."""
    _, steps = steps_of([(0, 5, 2), (1000, 5, 1)], SgLang(scheduler_recv_interval=50))

    assert next(s.start_ns for s in steps if 1 in s.tokens) == 1000
