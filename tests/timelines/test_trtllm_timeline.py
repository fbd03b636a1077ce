"""TensorRT-LLM by hand: a step costs 100 ns and 10 ns a token."""

from simserve.systems.trtllm import TrtLlm
from simserve.testing.timeline import steps_of

EVICTS = {"capacity_policy": "max_utilization"}


def test_contexts_are_cut_to_multiples_of_a_block() -> None:
    """Budget 40: the generation takes one token; of the 39 left the context gets two blocks of 16."""
    _, steps = steps_of([(0, 5, 4), (50, 50, 1)], TrtLlm(max_num_batched_tokens=40))

    assert [(s.start_ns, s.tokens) for s in steps] == [
        (0, {0: 5}),
        (150, {0: 1, 1: 32}),
        (580, {0: 1, 1: 18}),
        (870, {0: 1}),
    ]


def test_without_chunked_context_a_prompt_waits_until_it_fits_whole() -> None:
    """Budget 40: 39 tokens fit beside a generation, 40 do not."""
    settings = {"max_num_batched_tokens": 40, "enable_chunked_context": False}
    _, fits = steps_of([(0, 5, 3), (50, 39, 1)], TrtLlm(**settings))
    _, waits = steps_of([(0, 5, 3), (50, 40, 1)], TrtLlm(**settings))

    assert [s.tokens for s in fits] == [{0: 5}, {0: 1, 1: 39}, {0: 1}]
    assert [s.tokens for s in waits] == [{0: 5}, {0: 1}, {0: 1}, {1: 40}]


def test_no_evict_starts_only_what_can_run_to_its_end() -> None:
    """16 + 48 tokens are four blocks: nine free blocks guarantee two requests, though seven stay free."""
    _, steps = steps_of([(0, 16, 2)] * 3, TrtLlm(max_new_tokens=48), num_gpu_blocks=10)

    assert [(s.tokens, s.free) for s in steps] == [
        ({0: 16, 1: 16}, 7),
        ({0: 1, 1: 1}, 5),
        ({2: 16}, 8),
        ({2: 1}, 7),
    ]


def test_max_utilization_starts_whatever_fits_now() -> None:
    """The same load: all three at once."""
    _, steps = steps_of([(0, 16, 2)] * 3, TrtLlm(max_new_tokens=48, **EVICTS), num_gpu_blocks=10)

    assert [(s.tokens, s.free) for s in steps] == [({0: 16, 1: 16, 2: 16}, 6), ({0: 1, 1: 1, 2: 1}, 3)]


def test_max_utilization_pauses_the_youngest_and_restarts_it() -> None:
    """Four blocks, two requests of two: the older takes a third block, the younger is computed again."""
    trace, steps = steps_of([(0, 31, 4), (0, 31, 4)], TrtLlm(**EVICTS), num_gpu_blocks=5)

    assert [(s.tokens, s.preempted, s.free) for s in steps] == [
        ({0: 31, 1: 31}, [], 0),
        ({0: 1, 1: 1}, [], 0),
        ({0: 1}, [1], 1),
        ({0: 1}, [], 1),
        ({1: 33}, [], 1),
        ({1: 1}, [], 1),
    ]
    assert trace.requests["preemptions"].tolist() == [0, 1]


def test_no_evict_never_recomputes() -> None:
    """The same load with four tokens declared: three blocks each, so the second waits for the first."""
    trace, steps = steps_of([(0, 31, 4), (0, 31, 4)], TrtLlm(max_new_tokens=4), num_gpu_blocks=5)

    assert [s.tokens for s in steps] == [{0: 31}, {0: 1}, {0: 1}, {0: 1}, {1: 31}, {1: 1}, {1: 1}, {1: 1}]
    assert trace.requests["preemptions"].tolist() == [0, 0]


def test_batch_size_limits_who_is_active() -> None:
    """Two seats: the third request starts when one is free."""
    for policy in ("guaranteed_no_evict", "max_utilization"):
        _, steps = steps_of([(0, 4, 2), (0, 4, 1), (0, 4, 1)], TrtLlm(max_num_seqs=2, capacity_policy=policy))

        assert [s.tokens for s in steps] == [{0: 4, 1: 4}, {0: 1, 2: 4}]


def test_contexts_wait_for_company_beside_generations() -> None:
    """Request 1 may wait two steps for half the budget of 20; request 2 arrives in the first and makes it full."""
    knobs = {"max_num_batched_tokens": 20, "batch_wait_timeout_iters": 2, "batch_wait_max_tokens_ratio": 0.5}
    _, alone = steps_of([(0, 5, 6), (50, 5, 1)], TrtLlm(**knobs))
    _, both = steps_of([(0, 5, 6), (50, 5, 1), (160, 5, 1)], TrtLlm(**knobs))

    assert [s.tokens for s in alone][:4] == [{0: 5}, {0: 1}, {0: 1}, {0: 1, 1: 5}]
    assert [s.tokens for s in both][:3] == [{0: 5}, {0: 1}, {0: 1, 1: 5, 2: 5}]


def test_an_idle_engine_holds_no_context_back() -> None:
    """Without generations there is nothing to wait beside."""
    _, steps = steps_of([(0, 5, 1)], TrtLlm(batch_wait_timeout_iters=9, batch_wait_max_tokens_ratio=1.0))

    assert [s.start_ns for s in steps] == [0]


def test_ranks_wait_for_contexts_on_all_of_them() -> None:
    """Two ranks that generate: request 2 waits alone until the third step without one on each; three wait for none."""
    ranks = {"attention_dp_size": 2, "attention_dp_timeout_iters": 3}
    start = [(0, 5, 9), (0, 5, 9)]
    _, alone = steps_of([*start, (250, 5, 1)], TrtLlm(**ranks))
    _, many = steps_of([*start, *[(250, 5, 1)] * 3], TrtLlm(**ranks))

    assert [s.tokens for s in alone][:5] == [{0: 5, 1: 5}, {0: 1, 1: 1}, {0: 1, 1: 1}, {0: 1, 1: 1, 2: 5}, {0: 1, 1: 1}]
    assert [s.tokens for s in many][:3] == [{0: 5, 1: 5}, {0: 1, 1: 1}, {0: 1, 1: 1, 2: 5, 3: 5, 4: 5}]


def test_a_rank_that_generates_nothing_waits_for_no_other() -> None:
    """One generation on two ranks: the next context starts at once."""
    _, steps = steps_of([(0, 5, 4), (50, 5, 1)], TrtLlm(attention_dp_size=2, attention_dp_timeout_iters=9))

    assert [s.tokens for s in steps][:2] == [{0: 5}, {0: 1, 1: 5}]
