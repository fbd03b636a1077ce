"""dLLM-Serve and SchED's early exit on its queue, step by step, by hand: blocks of 4, half of the tokens kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from simserve.policies.routers import RoundRobin
from simserve.sim.confidence import Confidence
from simserve.sim.request import Outcome
from simserve.spec.confidence import ConfidenceSpec
from simserve.systems.dllm_serve import DllmServe
from simserve.systems.sched_early_exit import SchedEarlyExit
from simserve.testing.builders import load, play
from simserve.testing.denoising import Row, denoised
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=10, per_token_ns=1)


def knobs(**more: Any) -> dict[str, Any]:
    """A budget of 64 query tokens, 8 seats, blocks of 4."""
    return {"max_num_batched_tokens": 64, "max_num_seqs": 8, "block_length": 4, **more}


def passes(steps: list[tuple[int, int, dict[int, Row]]]) -> list[dict[int, Row]]:
    """Without their times."""
    return [found for *_, found in steps]


FULL, BUILD, REUSE = ("full", 13, 0, 4), ("build", 13, 0, 4), ("reuse", 4, 4, 4)


@pytest.mark.parametrize(
    ("delay_step", "block"),
    [(0, [BUILD, REUSE, REUSE, REUSE]), (1, [FULL, BUILD, REUSE, REUSE]), (2, [FULL, FULL, BUILD, REUSE]),
     (3, [FULL, FULL, FULL, BUILD]), (4, [FULL] * 4)],
)  # fmt: skip
def test_states_of_a_block(delay_step: int, block: list[Row]) -> None:
    """S = 5 + 8: a refresh has 13 queries, a reuse the 4 of the block beside floor(0.5 x 9) kept; twice the same."""
    steps, _ = denoised([(0, 5, 8)], DllmServe(**knobs(delay_step=delay_step)), COST)

    assert [{0: row} for row in block * 2] == passes(steps)


def test_when_its_tokens_come() -> None:
    """Refreshes take 10 + 13 + 2 x 13, reuses 10 + 4 + 2 x (4 + 4): twice 49 + 49 + 30 + 30. Tokens come by blocks."""
    steps, trace = denoised([(7, 5, 8)], DllmServe(**knobs()), ToyCost(10, per_token_ns=1, per_context_ns=2))

    assert [7, 56, 105, 135, 165, 214, 263, 293] == [start for start, *_ in steps]
    assert (7, 165, 323) == tuple(
        int(trace.requests[name][0]) for name in ("first_scheduled_ns", "first_token_ns", "finish_ns")
    )
    assert [158] == trace.itl_gaps_ns.tolist()


def test_a_short_last_block() -> None:
    """A canvas of 6: S = 11, floor(0.5 x 7) kept; 2 positions are left, done before anything is reused."""
    steps, _ = denoised([(0, 5, 6)], DllmServe(**knobs()), COST)

    block = [("full", 11, 0, 4), ("build", 11, 0, 4), ("reuse", 4, 3, 4), ("reuse", 4, 3, 4)]
    assert [{0: row} for row in [*block, ("full", 11, 0, 2), ("build", 11, 0, 2)]] == passes(steps)


def test_a_reuse_of_a_short_last_block() -> None:
    """Without delay: 2 queries beside floor(0.5 x 9)."""
    steps, _ = denoised([(0, 5, 6)], DllmServe(**knobs(delay_step=0)), COST)

    assert {0: ("reuse", 2, 4, 2)} == passes(steps)[-1]


def test_what_is_kept_is_at_least_one_token() -> None:
    """One of one token outside the block, at any ratio."""
    steps, _ = denoised([(0, 1, 4)], DllmServe(**knobs(retention_ratio=0.05, delay_step=0)), COST)

    assert [{0: ("build", 5, 0, 4)}, *[{0: ("reuse", 4, 1, 4)}] * 3] == passes(steps)


def test_without_pruning_every_query_has_logits() -> None:
    """Rows of the LM head as many as query tokens."""
    steps, _ = denoised([(0, 5, 4)], DllmServe(**knobs(prune_logits=False)), COST)

    assert [13 - 4, 13 - 4, 4, 4] == [row[0][3] for row in passes(steps)]


class Priced(ToyCost):
    """10,000 ns a row of logits, 100 a cached token, 1 a query token."""

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        assert decode_seqs == decode_context_tokens == 0
        return sampled * 10_000 + sum(cached * 100 + queries for queries, cached in prefill)


@pytest.mark.parametrize(
    ("prune_logits", "durations"),
    [(True, [40_009, 80_018, 80_213, 80_408, 40_204]), (False, [90_009, 180_018, 130_213, 80_408, 40_204])],
)
def test_what_a_step_is_priced_by(prune_logits: bool, durations: list[int]) -> None:
    """Query tokens, cached tokens and rows of logits of its requests. S = 9, 2 of 5 tokens kept: FULL, BUILD + FULL,
    REUSE + BUILD, two REUSE, one; request 1 comes in the first step.
    """
    scheduler = DllmServe(**knobs(prune_logits=prune_logits))
    steps, _ = denoised([(0, 5, 4), (1, 5, 4)], scheduler, Priced())

    assert durations == [end - start for start, end, _ in steps]


def test_a_head_that_does_not_fit_stops_all_behind_it() -> None:
    """20 tokens a step, S = 13, 13, 5: request 2 would fit beside 0, but waits for 1. Request 1 starts when 0 reuses
    (4 + 13), request 2 when 1 does (4 + 5): refreshes and reuses share a step.
    """
    rows = [(0, 9, 4), (0, 9, 4), (0, 1, 4)]
    steps, trace = denoised(rows, DllmServe(**knobs(max_num_batched_tokens=20)), COST)

    small = {"full": ("full", 5, 0, 4), "build": ("build", 5, 0, 4), "reuse": ("reuse", 4, 1, 4)}
    assert [
        (0, 23, {0: FULL}), (23, 46, {0: BUILD}), (46, 73, {0: REUSE, 1: FULL}), (73, 100, {0: REUSE, 1: BUILD}),
        (100, 119, {1: REUSE, 2: small["full"]}), (119, 138, {1: REUSE, 2: small["build"]}),
        (138, 152, {2: small["reuse"]}), (152, 166, {2: small["reuse"]}),
    ] == steps  # fmt: skip
    assert [100, 138, 166] == trace.requests["finish_ns"].tolist()


def test_who_is_passed_over_keeps_its_place() -> None:
    """With two full steps before the build: request 1 starts when 0 reuses, then waits for the next block of 0. In the
    first step without it, request 2 is admitted into what is left (13 + 5), but later runs only behind 1.
    """
    rows = [(0, 5, 8), (0, 9, 4), (0, 1, 4)]
    steps, _ = denoised(rows, DllmServe(**knobs(max_num_batched_tokens=20, delay_step=2)), COST)

    assert [
        [0], [0], [0], [0, 1], [0, 2], [0], [0], [0, 1], [1, 2], [1, 2], [2],
    ] == [list(found) for found in passes(steps)]  # fmt: skip


def test_pages_are_reserved_at_admission_and_freed_at_the_end() -> None:
    """S = 13, half of it: 7 tokens are 2 pages of 4. Of 3 pages request 1 needs 2 and waits for the end of 0; request 2
    needs one, which is free, and waits behind 1.
    """
    log: list[tuple[int, int, list[int]]] = []
    play(
        load([(0, 5, 8), (0, 9, 4), (0, 1, 4)], confidence=ConfidenceSpec()), [DllmServe(**knobs())], RoundRobin(),
        COST, num_gpu_blocks=4, block_size=4,
        observer=lambda start, _ns, plan, free: log.append((start, free, [r.id for r in plan.tokens])),
    )  # fmt: skip

    ends = 2 * (23 + 23 + 14 + 14)
    assert [(1, [0])] * 8 == [entry[1:] for entry in log if entry[0] < ends]
    assert [(0, [1, 2])] * 4 == [entry[1:] for entry in log if entry[0] >= ends]


def test_seats_are_kept() -> None:
    """One seat: one after the other, though tokens and pages are there for all."""
    steps, _ = denoised([(0, 5, 4)] * 2, DllmServe(**knobs(max_num_seqs=1)), COST)

    assert [[0]] * 4 + [[1]] * 4 == [list(found) for found in passes(steps)]


@pytest.mark.parametrize("engine", [{"max_model_len": 12}, {"num_gpu_blocks": 2, "block_size": 4}])
def test_who_can_never_run_is_refused(engine: dict[str, int]) -> None:
    """13 tokens against a context of 12, or 7 slots against a page of 4; a request as large as both is served."""
    _, trace = denoised([(0, 5, 8), (0, 4, 4)], DllmServe(**knobs()), COST, **engine)

    assert [Outcome.REJECTED, Outcome.FINISHED] == trace.requests["outcome"].tolist()


def test_a_pass_beyond_the_budget_is_refused() -> None:
    """13 query tokens against 12."""
    _, trace = denoised([(0, 5, 8), (0, 4, 8)], DllmServe(**knobs(max_num_batched_tokens=12)), COST)

    assert [Outcome.REJECTED, Outcome.FINISHED] == trace.requests["outcome"].tolist()


SURE = ConfidenceSpec(cv=0, margin_top=10, margin_midpoint=0.25, margin_midpoint_std=0, margin_width=0.05)


@pytest.mark.parametrize(("schedule", "count"), [("linear", 3), ("cosine", 3), ("exp", 2)])
def test_sched_ends_when_the_margin_is_there(schedule: str, count: int) -> None:
    """After step s of 8 the margin is 10 / (1 + exp((0.25 - s/8) / 0.05)): 0.76, 5, 9.24. It falls linearly from 7.5
    to 6.56, 5.63, 4.69; as a cosine to 7.21, 6.40, 5.19; with exp(-4p) to 4.55, 2.76.
    """
    scheduler = SchedEarlyExit(**knobs(schedule=schedule))
    steps, trace = denoised([(0, 5, 8)], scheduler, COST, confidence=Confidence(SURE, 0))

    assert [{0: FULL}, {0: BUILD}, {0: REUSE}][:count] == passes(steps)
    end = [23, 46, 60][count - 1]
    assert (end, end, 8) == tuple(
        int(trace.requests[name][0]) for name in ("first_token_ns", "finish_ns", "output_tokens")
    )
    assert 8 == trace.denoising[0].committed


def test_an_early_exit_frees_its_seat() -> None:
    """The first block of 2 comes after 2 steps; the request ends in the next one, and the second one starts."""
    scheduler = SchedEarlyExit(**knobs(block_length=2, max_num_seqs=1))
    _, trace = denoised([(0, 5, 8), (0, 5, 8)], scheduler, COST, confidence=Confidence(SURE, 0))

    assert [46, 46 + 69] == trace.requests["first_token_ns"].tolist()
    assert [69, 138] == trace.requests["finish_ns"].tolist()


def test_a_margin_that_never_comes() -> None:
    """All steps are made."""
    unsure = SURE.model_copy(update={"margin_top": 1.0})
    steps, _ = denoised(
        [(0, 5, 8)], SchedEarlyExit(**knobs(margin_low=2.0)), COST, confidence=Confidence(unsure, 0)
    )

    assert [{0: row} for row in [FULL, BUILD, REUSE, REUSE] * 2] == passes(steps)
