"""Tokens that a denoising step commits: published means, spread over requests, and early exits."""

from __future__ import annotations

import math
import statistics

import pytest

from simserve.sim.confidence import Confidence, RequestConfidence, solved
from simserve.spec.confidence import FAST_DLLM, ConfidenceSpec

SPEC = ConfidenceSpec()


def steps_of(request: RequestConfidence, canvas: int, threshold: float, block: int) -> int:
    """Steps until nothing is masked, block by block."""
    steps = 0
    for begin in range(0, canvas, block):
        masked = min(block, canvas - begin)
        while masked:
            masked -= request.accepted(threshold, masked, block)
            steps += 1
    return steps


def all_steps(
    spec: ConfidenceSpec, threshold: float, *, count: int = 3000, canvas: int = 256, block: int = 32, seed: int = 1
) -> list[int]:
    """Of each of `count` requests."""
    every = Confidence(spec, seed)
    return [steps_of(every.of(i), canvas, threshold, block) for i in range(count)]


def steps_of_a_block(more: float, length: int) -> float:
    """Mean steps, by recursion over what the first step commits: 1 + a geometric number of mean `more`, cut."""
    on = more / (1 + more)
    mean = [0.0]
    for masked in range(1, length + 1):
        rest = sum(on ** (a - 1) * (1 - on) * mean[masked - a] for a in range(1, masked))
        mean.append(1 + rest)
    return mean[length]


@pytest.mark.parametrize(("threshold", "mean"), FAST_DLLM)
def test_steps_commit_the_published_mean(threshold: float, mean: float) -> None:
    """Fast-dLLM on GSM8K: within 2 %, all tokens over all steps, ease and ends of blocks included."""
    steps = all_steps(SPEC, threshold)

    assert 256 * len(steps) / sum(steps) == pytest.approx(mean, rel=0.02)
    if threshold == 1:
        assert set(steps) == {256}


def test_without_the_ends_of_blocks_and_the_ease_the_mean_would_be_off() -> None:
    """A geometric number of the published mean loses more than 15 % at 0.5 to what is cut and to slow requests."""
    naive = Confidence(SPEC, 1)
    naive._more[0.5] = 7.01 - 1
    steps = [steps_of(naive.of(i), 256, 0.5, 32) for i in range(1000)]

    assert 256 * len(steps) / sum(steps) < 0.85 * 7.01


@pytest.mark.parametrize(("mean", "length"), [(3.25, 32), (7.01, 32), (2.0, 8), (1.5, 5)])
def test_equally_easy_requests_by_recursion(mean: float, length: int) -> None:
    """Without spread the parameter has a closed form; a block of 2 shows it: 2 / (1 + q) = mean."""
    more = solved(mean, length, 0.0)

    assert length / steps_of_a_block(more, length) == pytest.approx(mean, rel=1e-6)
    assert more == pytest.approx((length - 1) / (length / mean - 1) - 1, rel=1e-6)
    assert solved(1.6, 2, 0.0) == pytest.approx(3.0, rel=1e-6)  # ends = 0.25


def test_the_mean_over_the_ease_is_that_of_a_gamma_distribution() -> None:
    """Exponential ease: E[1 / (1 + x e)] = exp(1 / x) E1(1 / x) / x, by quadrature; and spread asks for more."""
    from scipy.special import exp1

    more = solved(3.25, 32, 1.0)
    ends = math.exp(1 / more) * exp1(1 / more) / more

    assert 32 / (1 + 31 * ends) == pytest.approx(3.25, rel=1e-3)
    assert solved(3.25, 32, 0.0) < solved(3.25, 32, 0.5) < more


def test_requests_differ_as_much_as_measured() -> None:
    """CV of steps at 512 tokens and threshold 0.9: 0.27 to 0.45 on the H200, 0.345 by default; less without ease."""

    def cv(spec: ConfidenceSpec) -> float:
        steps = all_steps(spec, 0.9, canvas=512)
        return statistics.pstdev(steps) / statistics.fmean(steps)

    assert cv(SPEC) == pytest.approx(0.345, abs=0.02)
    assert cv(ConfidenceSpec(cv=0)) < 0.1


def test_between_thresholds_and_beyond() -> None:
    """Half-way in the logarithm; flat outside; one at a time from 1 on."""
    between = 256 * 3000 / sum(all_steps(SPEC, 0.85))
    assert between == pytest.approx(math.sqrt(4.24 * 3.25), rel=0.02)
    assert SPEC.mean_tokens(0.85) == pytest.approx(math.sqrt(4.24 * 3.25))
    assert (SPEC.mean_tokens(0.1), SPEC.mean_tokens(0.5)) == (7.01, 7.01)
    assert SPEC.mean_tokens(0.9) == pytest.approx(3.25)

    few = ConfidenceSpec(tokens_per_step=((0.7, 5.0), (0.9, 3.0)))
    assert (few.mean_tokens(0.3), few.mean_tokens(0.95)) == (5.0, 3.0)
    assert {1} == {Confidence(few, 0).of(i).accepted(1.0, 32, 32) for i in range(50)}


def test_other_block_lengths_keep_the_parameter() -> None:
    """Short blocks cut more steps, long ones fewer: tokens per step as by recursion at the same parameter."""
    spec = ConfidenceSpec(cv=0)
    more = Confidence(spec, 0).more_tokens(0.7)
    found = {block: 256 * 2000 / sum(all_steps(spec, 0.7, block=block, count=2000)) for block in (8, 64)}

    for block, mean in found.items():
        assert mean == pytest.approx(block / steps_of_a_block(more, block), rel=0.02)
    assert found[8] < 5.12 < found[64]


def test_never_beyond_what_is_masked() -> None:
    """At least one, at most all that is masked in a block; all of these occur."""
    for masked in (1, 2, 5):
        drawn = {Confidence(SPEC, 3).of(i).accepted(0.5, masked, 32) for i in range(500)}
        assert drawn == set(range(1, masked + 1))
    assert max(Confidence(SPEC, 3).of(i).accepted(0.5, 999, 8) for i in range(500)) == 8


def test_draws_depend_on_seed_and_request_alone() -> None:
    """In whatever order requests ask, and however their steps interleave."""

    def drawn(request: RequestConfidence, steps: int = 20) -> list[int]:
        return [request.accepted(0.6, 32, 32) for _ in range(steps)]

    first, second = Confidence(SPEC, 7), Confidence(SPEC, 7)
    forwards = [drawn(first.of(i)) for i in range(20)]
    backwards = [drawn(second.of(i)) for i in reversed(range(20))][::-1]
    one, two = second.of(0), second.of(1)
    turns = [(one.accepted(0.6, 32, 32), two.accepted(0.6, 32, 32)) for _ in range(20)]

    assert forwards == backwards
    assert forwards[:2] == [list(column) for column in zip(*turns, strict=True)]
    assert forwards != [drawn(Confidence(SPEC, 8).of(i)) for i in range(20)]
    assert len({tuple(row) for row in forwards}) == 20
    assert first.of(0).exits(0.3, 5) == first.of(0).exits(0.3, 5)


def executed(request: RequestConfidence, steps: int, high: float, low: float) -> int:
    """SchED: steps until the margin reaches one that falls linearly from high to low."""
    reached = (t for t in range(1, steps + 1) if request.exits(t / steps, high + (low - high) * t / steps))
    return next(reached, steps)


@pytest.mark.parametrize(("low", "speed_up"), [(0.0, 3.91), (2.5, 3.73)])
def test_early_exit_saves_what_was_published(low: float, speed_up: float) -> None:
    """3.8 to 4.0 for instruct models; the margin asked for falls from 7.5. To 2.5 it is a little less."""
    every = Confidence(SPEC, 2)
    found = statistics.fmean(256 / executed(every.of(i), 256, 7.5, low) for i in range(3000))

    assert found == pytest.approx(speed_up, abs=0.06)


def test_margins_are_a_sigmoid_of_progress() -> None:
    """Half of it at the midpoint; a request that has exited stays so; who asks for more than there is, waits."""
    sure = Confidence(ConfidenceSpec(margin_midpoint=0.5, margin_midpoint_std=0, margin_top=8), 0).of(0)

    assert [sure.exits(p, 4.0) for p in (0.1, 0.499, 0.501, 1.0)] == [False, False, True, True]
    assert not sure.exits(1.0, 8.0)
    assert sure.exits(0.0, 0.0)


def test_an_exit_is_no_draw() -> None:
    """Whether a margin was asked for does not move what steps commit."""
    plain, asked = Confidence(SPEC, 1).of(4), Confidence(SPEC, 1).of(4)
    drawn = []
    for _ in range(10):
        asked.exits(0.5, 5)
        drawn.append((plain.accepted(0.5, 32, 32), asked.accepted(0.5, 32, 32)))
    assert all(one == other for one, other in drawn)
