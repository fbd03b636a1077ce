"""Batches in lockstep of reference implementations, and Sangam's deficit counter, step by step, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.systems.dllm_cache import DllmCache
from simserve.systems.fast_dllm import FastDllm
from simserve.systems.sangam import Sangam
from simserve.systems.sparse_dllm import SparseDllm
from simserve.systems.vanilla_dllm import VanillaDllm
from simserve.testing.denoising import Row, ToyConfidence, denoised
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=10, per_token_ns=1)


def knobs(**more: Any) -> dict[str, Any]:
    """A budget of 64 query tokens, 2 seats, blocks of 4."""
    return {"max_num_batched_tokens": 64, "max_num_seqs": 2, "block_length": 4, **more}


def passes(steps: list[tuple[int, int, dict[int, Row]]]) -> list[dict[int, Row]]:
    """Without their times."""
    return [found for *_, found in steps]


def test_a_batch_is_padded_and_ends_together() -> None:
    """Prompts of 3 and 5, canvases of 4 and 6: rows of 5 + 6 with logits everywhere, two positions a step, so 2 steps
    for the first block and 1 for the rest. Both answers come then, and the third request starts.
    """
    scheduler = VanillaDllm(**knobs(tokens_per_step=2))
    steps, trace = denoised([(0, 3, 4), (0, 5, 6), (0, 3, 2)], scheduler, COST, block_size=1)

    row, last = ("full", 11, 0, 11), ("full", 5, 0, 5)
    assert [
        (0, 32, {0: row, 1: row}), (32, 64, {0: row, 1: row}), (64, 96, {0: row, 1: row}), (96, 111, {2: last}),
    ] == steps  # fmt: skip
    assert [64, 64, 111] == trace.requests["first_token_ns"].tolist()
    assert [96, 96, 111] == trace.requests["finish_ns"].tolist()
    assert [4, 6, 2] == trace.requests["output_tokens"].tolist()
    assert 2 * 6 + 2 == trace.denoising[0].committed
    assert [22, 22, 22, 5] == trace.steps["used_blocks"].tolist()


def test_padding_takes_memory_and_budget() -> None:
    """1 + 8 and 8 + 1 are padded to 16 each: 32 do not fit into 31 slots, nor into 31 tokens a step."""
    rows = [(0, 1, 8), (0, 8, 1)]
    for engine, limits in (({"num_gpu_blocks": 32, "block_size": 1}, {}), ({}, {"max_num_batched_tokens": 31})):
        steps, _ = denoised(rows, VanillaDllm(**knobs(**limits)), COST, **engine)
        assert [[0]] * 8 + [[1]] == [list(found) for found in passes(steps)]
    steps, _ = denoised(rows, VanillaDllm(**knobs()), COST, num_gpu_blocks=33, block_size=1)
    assert [[0, 1]] * 8 == [list(found) for found in passes(steps)]


def test_a_batch_takes_nobody_in() -> None:
    """A seat is free, but the batch runs to its end."""
    steps, _ = denoised([(0, 3, 2), (5, 3, 2)], VanillaDllm(**knobs()), COST)

    assert [[0], [0], [1], [1]] == [list(found) for found in passes(steps)]


def test_a_row_whose_block_is_done_waits() -> None:
    """Request 0 finds its first block at once, request 1 in 1 + 2 + 1; the second one both in 2 steps, 3 + 1 and 1 + 3.
    All rows are queries in all 5 steps. A block is there when its own row has it, the answers at the end.
    """
    sure = ToyConfidence({0: [4, 3, 1], 1: [1, 2, 1, 1, 3]})
    steps, trace = denoised([(0, 3, 8)] * 2, VanillaDllm(**knobs(threshold=0.9)), COST, confidence=sure)

    assert [{0: ("full", 11, 0, 11), 1: ("full", 11, 0, 11)}] * 5 == passes(steps)
    assert [32, 96] == trace.requests["first_token_ns"].tolist()
    assert [160, 160] == trace.requests["finish_ns"].tolist()
    assert [64, 128] == sorted(trace.itl_gaps_ns.tolist())


def test_an_answer_waits_for_the_slowest() -> None:
    """Request 0 has its whole canvas at once, request 1 after 3 steps: both end then, and request 2 starts."""
    sure = ToyConfidence({0: [4], 1: [1, 2, 1], 2: [4]})
    steps, trace = denoised([(0, 3, 4)] * 3, VanillaDllm(**knobs(threshold=0.9)), COST, confidence=sure)

    assert [[0, 1]] * 3 + [[2]] == [list(found) for found in passes(steps)]
    assert [24, 72, 72 + 17] == trace.requests["first_token_ns"].tolist()
    assert [72, 72, 72 + 17] == trace.requests["finish_ns"].tolist()


BUILD = ("build", 13, 0, 13)


@pytest.mark.parametrize(
    ("cache", "first", "second"),
    [("prefix", ("reuse", 8, 5, 8), ("reuse", 4, 9, 4)), ("dual", ("reuse", 4, 9, 4), ("reuse", 4, 9, 4))],
)
def test_fast_dllm_queries_the_block_and_what_is_behind_it(cache: str, first: Row, second: Row) -> None:
    """5 + 8: a full pass a block; then canvas from the block on beside what is before it, or the block beside all."""
    steps, _ = denoised([(0, 5, 8)], FastDllm(**knobs(cache=cache)), COST)

    assert [{0: row} for row in [BUILD, *[first] * 3, BUILD, *[second] * 3]] == passes(steps)


def test_fast_dllm_ends_a_block_with_its_last_mask() -> None:
    """With a threshold: 3 + 1, then all 4."""
    scheduler = FastDllm(**knobs(cache="dual", threshold=0.9))
    steps, _ = denoised([(0, 5, 8)], scheduler, COST, confidence=ToyConfidence({0: [3, 1, 4]}))

    assert [{0: row} for row in [BUILD, ("reuse", 4, 9, 4), BUILD]] == passes(steps)


def test_sparse_dllm_keeps_a_share() -> None:
    """dLLM-Serve's states, with logits of all queries; floor(0.5 x 9) kept."""
    steps, _ = denoised([(0, 5, 8)], SparseDllm(**knobs()), COST)

    reuse = ("reuse", 4, 4, 4)
    assert [{0: row} for row in [("full", 13, 0, 13), BUILD, reuse, reuse] * 2] == passes(steps)


def test_dllm_cache_goes_by_intervals() -> None:
    """All each 6 steps, the canvas each 3, else a quarter and 1/13 of the rest: 0.308 x 8, so 3 of 13."""
    scheduler = DllmCache(**knobs(prompt_interval=6, response_interval=3, update_ratio=0.25))
    steps, _ = denoised([(0, 5, 8)], scheduler, COST)

    some = ("reuse", 3, 10, 3)
    assert [{0: row} for row in [BUILD, some, some, ("build", 8, 5, 8), some, some, BUILD, some]] == passes(steps)


def deficits(rows: list[tuple[int, int, int]], **more: Any) -> list[tuple[int, int, dict[int, Row]]]:
    """Steps of Sangam with a quantum of 8 (the knob asks for 64 at least in studies), one position a step."""
    engine = {k: more.pop(k) for k in ("num_gpu_blocks", "block_size") if k in more}
    scheduler = Sangam(**{**knobs(max_num_seqs=8), "quantum": 8, "threshold": 0.0, **more})
    return denoised(rows, scheduler, COST, **engine)[0]


def test_sangam_s_refreshes_wait_for_their_deficit() -> None:
    """S = 8 and 12. Request 0 has its 8 at once; then each step gathers 8 less the 4 of its reuse: 4, 8, 12."""
    steps = deficits([(0, 4, 4), (0, 8, 4)])

    first, second = ("reuse", 4, 4, 4), ("reuse", 4, 8, 4)
    assert [
        (0, 18, {0: ("build", 8, 0, 4)}), (18, 32, {0: first}), (32, 46, {0: first}),
        (46, 72, {0: first, 1: ("build", 12, 0, 4)}), (72, 86, {1: second}), (86, 100, {1: second}),
        (100, 114, {1: second}),
    ] == steps  # fmt: skip


def test_sangam_gathers_nothing_for_nobody() -> None:
    """A quantum of 10 leaves 2 of request 0's 8, gone when nobody is there in the next step. Request 1 comes in it and
    has 6 in the third, not 8, so its 8 in the fourth.
    """
    steps = deficits([(0, 4, 4), (20, 4, 4)], quantum=10)

    assert [(0, [0]), (18, [0]), (32, [0]), (46, [0, 1])] == [(start, list(found)) for start, _, found in steps[:4]]


def test_sangam_with_a_large_quantum_refreshes_at_once() -> None:
    """As dLLM-Serve's queue does."""
    steps = deficits([(0, 4, 4), (0, 8, 4)], quantum=64)

    assert {0: ("build", 8, 0, 4), 1: ("build", 12, 0, 4)} == passes(steps)[0]


def test_sangam_does_not_stand_still() -> None:
    """12 tokens for a quantum of 8, and nothing to reuse: at once, block after block."""
    steps = deficits([(0, 4, 8)])

    build, reuse = ("build", 12, 0, 4), ("reuse", 4, 8, 4)
    assert [{0: row} for row in [build, reuse, reuse, reuse] * 2] == passes(steps)


def test_sangam_gathers_nothing_while_memory_is_short() -> None:
    """S = 8, 12 and 4 are 2, 3 and 1 pages of 4. Request 1 has its 12 in the fourth step but no pages until 0 ends;
    they have not grown then, so request 2 waits a step for its 4.
    """
    steps = deficits([(0, 4, 4), (0, 8, 4), (0, 1, 3)], num_gpu_blocks=5, block_size=4)

    assert [[0], [0], [0], [0], [1], [1, 2], [1, 2], [1, 2]] == [list(found) for found in passes(steps)]


def test_sangam_s_running_refreshes_come_before_who_waits() -> None:
    """A quantum of 4, which reuses take whole: nothing is gathered. When request 0 is at its second block nothing else
    can run, and it comes first.
    """
    steps = deficits([(0, 4, 8), (0, 12, 4)], quantum=4)

    kinds = [(i, row[0]) for found in passes(steps) for i, row in found.items()]
    block = ["build", "reuse", "reuse", "reuse"]
    assert [*((0, kind) for kind in block * 2), *((1, kind) for kind in block)] == kinds
