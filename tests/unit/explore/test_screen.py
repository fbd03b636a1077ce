"""The analytic screen against cases worked out by hand, and the order that it gives."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.explore.load import Load, summarise
from simserve.explore.screen import Screen, estimate_group, places
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.slo import SloSpec
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

LIGHT = Load(1000, 1.0, None, 100.0, 50.0, 1.0, 1000.0, 150, 150)
BLOCKS = np.array([1000.0])


def test_a_light_load_costs_one_step_per_token() -> None:
    """1 request/s, 10 ms steps: prefill takes 1 % of the time, so TPOT = 10 ms / 0.99."""
    found = estimate_group(ToyCost(base_ns=10_000_000), [DeploymentSpec()], BLOCKS, LIGHT)

    assert found[1, 0] == pytest.approx(10.0 / 0.99)


def test_light_load_throughput_is_the_offered_load() -> None:
    """150 tokens per request, 1 request/s, on 2 GPUs."""
    found = estimate_group(ToyCost(), [DeploymentSpec(replicas=2)], BLOCKS, LIGHT)

    assert found[3, 0] == pytest.approx(75.0)


def test_overload_is_seen() -> None:
    """One sequence at a time, 0.51 s per request, 4 requests/s: utilisation 2.04, and the backlog in TTFT."""
    busy = Load(1000, 4.0, None, 100.0, 50.0, 1.0, 250.0, 150, 150)
    one = DeploymentSpec(max_num_seqs=1)
    found = estimate_group(ToyCost(base_ns=10_000_000), [one], BLOCKS, busy)

    assert found[0, 0] == pytest.approx(2.04)
    assert found[2, 0] > 1000 * 250.0 * (1 - 1 / 2.04) / 2


def test_the_kv_cache_limits_the_batch() -> None:
    """With room for two requests of 150 tokens a replica serves 2 per 1.02 s of decoding and prefill."""
    busy = Load(1000, 50.0, None, 100.0, 50.0, 1.0, 20.0, 150, 150)
    found = estimate_group(ToyCost(base_ns=10_000_000), [DeploymentSpec()], np.array([300 / 16]), busy)

    assert found[0, 0] == pytest.approx(50.0 * (0.01 + 0.5 / 2))


def test_closed_loop_runs_at_its_concurrency() -> None:
    """10 in flight on 10 ms steps: a cycle of 0.01 + 50 * 0.01 / 10 s per request."""
    closed = Load(1000, float("inf"), 10, 100.0, 50.0, 0.0, 0.0, 150, 150)
    found = estimate_group(ToyCost(base_ns=10_000_000), [DeploymentSpec()], BLOCKS, closed)

    assert found[3, 0] == pytest.approx(150 / 0.06)


def test_order_puts_the_promising_first_then_one_of_each_layout() -> None:
    """Two variants of a good layout, another good one, and an overloaded one, which comes last."""
    screen = Screen(
        utilisation=np.array([0.5, 0.5, 0.3, 3.0]), tpot_ms=np.array([10.0, 10.0, 9.0, 90.0]),
        ttft_ms=np.array([50.0] * 4), tokens_per_s_per_gpu=np.array([100.0, 100.0, 50.0, 60.0]),
        gpus=np.array([1.0, 1.0, 2.0, 1.0]), usd_per_hour=np.array([2.0, 2.0, 4.0, 1.0]), e2e_ms=np.array([500.0] * 4),
    )  # fmt: skip

    assert places(screen, np.array([7, 7, 8, 9]), SloSpec(tpot_ms=30)).tolist() == [0, 2, 1, 3]


def test_summary_of_a_load() -> None:
    """Three requests over 2 s."""
    found = summarise(load([(0, 10, 2), (500_000_000, 20, 4), (2_000_000_000, 30, 6)]))

    assert (found.prompt_tokens, found.output_tokens, found.longest_tokens) == (20.0, 4.0, 36)
    assert (found.rate_rps, found.duration_s, found.arrival_cv) == (1.0, 2.0, 0.5)


@given(st.floats(0.1, 20), st.floats(1.01, 3), st.integers(1, 6), st.sampled_from([16, 64, 256]))
def test_more_load_is_never_better(rate: float, more: float, replicas: int, seqs: int) -> None:
    """Utilisation, TPOT and TTFT do not fall with the rate, and no throughput exceeds what arrives."""
    one = [DeploymentSpec(replicas=replicas, max_num_seqs=seqs)]
    cost = ToyCost(base_ns=10_000_000)
    low, high = (estimate_group(cost, one, BLOCKS, replace(LIGHT, rate_rps=r)) for r in (rate, rate * more))

    assert (high[:3, 0] >= low[:3, 0] * (1 - 1e-9)).all()
    assert low[3, 0] <= rate * 150 / replicas * (1 + 1e-9)


@given(st.floats(0.1, 20), st.integers(1, 6))
def test_more_replicas_are_never_slower(rate: float, replicas: int) -> None:
    """Each has less to do."""
    load = replace(LIGHT, rate_rps=rate)
    few, many = estimate_group(
        ToyCost(base_ns=10_000_000), [DeploymentSpec(replicas=n) for n in (replicas, replicas + 1)],
        np.array([1000.0, 1000.0]), load,
    ).T  # fmt: skip

    assert (many[:3] <= few[:3] * (1 + 1e-9)).all()


def test_reused_tokens_are_those_of_common_pieces() -> None:
    """Three prompts of a prefix of 10 and 5 of their own; the second and the third find the prefix."""
    own = load([(0, 15, 2), (1, 15, 2), (2, 15, 2)])
    shared = replace(own, content=[((0, 10), (-2 * i - 1, 5)) for i in range(3)])

    assert (summarise(own).reused_tokens, summarise(shared).reused_tokens) == (0.0, 20 / 3)
