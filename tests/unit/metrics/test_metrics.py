"""Metrics of timelines worked out by hand, and exact weighted percentiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.errors import SpecError
from simserve.metrics import Stats, compute
from simserve.metrics.stats import stats, weighted_percentiles, weighted_stats
from simserve.policies.routers import RoundRobin
from simserve.sim.trace import Trace
from simserve.spec.slo import SloSpec
from simserve.spec.workload import ClassSpec
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

MS = 1_000_000


def two_requests(leap: bool = True) -> Trace:
    """Steps of 10 ms, one token each for the decode; request 1 arrives while request 0 decodes.

    Request 0: arrives 0, first token 10, finishes 50 (5 tokens). Request 1: arrives 15, is scheduled at 20,
    first token 30, finishes 40 (2 tokens). Request 2: a prompt too long for the cache.
    """
    requests = load([(0, 30, 5), (15 * MS, 20, 2), (15 * MS, 9999, 1)])
    trace, _ = play(
        requests, [Vllm()], RoundRobin(), ToyCost(base_ns=10 * MS), num_gpu_blocks=11, leap=leap
    )
    return trace


@pytest.mark.parametrize("leap", [True, False])
def test_latencies_by_hand(leap: bool) -> None:
    """TTFT 10 and 15 ms, TPOT 10 and 10, E2E 50 and 25, queueing 0 and 5."""
    m = compute(two_requests(leap), num_gpus=2)

    assert (12.5, 10.0, 37.5, 2.5, 10.0) == (
        m.ttft_ms.mean, m.tpot_ms.mean, m.e2e_ms.mean, m.queueing_ms.mean, m.itl_ms.p99
    )  # fmt: skip
    assert (3, 2, 1, 0) == (m.requests, m.finished, m.rejected, m.unfinished)


def test_normalized_latency_by_hand() -> None:
    """E2E 50 ms for 5 tokens, 25 ms for 2."""
    m = compute(two_requests(), num_gpus=2)

    assert m.normalized_latency_ms.mean == pytest.approx((50 / 5 + 25 / 2) / 2)


def test_middle_throughput_by_hand() -> None:
    """Ten requests of one token on one seat, 10 ms each: from the fourth to the eighth four in 40 ms."""
    trace, _ = play(load([(0, 5, 1)] * 10), [Vllm(max_num_seqs=1)], RoundRobin(), ToyCost(base_ns=10 * MS))
    few, _ = play(load([(0, 5, 1)] * 2), [Vllm()], RoundRobin(), ToyCost(base_ns=10 * MS))

    assert compute(trace, num_gpus=1).middle_throughput_rps == pytest.approx(100.0)
    assert compute(few, num_gpus=1).middle_throughput_rps is None


def test_throughput_by_hand() -> None:
    """2 requests, 7 output and 50 prompt tokens in 50 ms on 2 GPUs."""
    m = compute(two_requests(), num_gpus=2)

    assert (0.05, 40.0, 140.0, 1140.0, 570.0) == pytest.approx((
        m.duration_s, m.request_throughput_rps, m.output_tokens_per_s, m.total_tokens_per_s,
        m.total_tokens_per_s_per_gpu,
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("slo", "met"),
    [(SloSpec(ttft_ms=15), 2), (SloSpec(ttft_ms=14), 1), (SloSpec(e2e_ms=25), 1), (SloSpec(tpot_ms=9), 0),
     (SloSpec(ttft_ms=10, e2e_ms=25), 0)],
)  # fmt: skip
def test_goodput_counts_requests_that_meet_every_bound(slo: SloSpec, met: int) -> None:
    """The rejected request has missed the SLO."""
    m = compute(two_requests(), num_gpus=1, slo=slo)

    assert (met / 3, met / 0.05) == pytest.approx((m.slo_attainment, m.goodput_rps))


@pytest.mark.parametrize(
    ("slo", "met"),
    [(SloSpec(ttft_ms=15, e2e_ms=25, percentile=60), {"ttft": True, "e2e": False}),
     (SloSpec(ttft_ms=15, percentile=70), {"ttft": False}), (SloSpec(tpot_ms=10, percentile=66), {"tpot": True})],
)  # fmt: skip
def test_each_bound_is_met_or_not_at_the_percentile(slo: SloSpec, met: dict[str, bool]) -> None:
    """TTFT 10, 15, never: P60 is 15, P70 never. E2E 50, 25, never: P60 is 50."""
    assert met == compute(two_requests(), num_gpus=1, slo=slo).slo_met


def test_occupancy_by_hand() -> None:
    """10 blocks: 2 for request 0 (30..34 tokens need 2, then 3), 2 for request 1 from 20 to 40 ms."""
    m = compute(two_requests(leap=False), num_gpus=1)

    assert (pytest.approx((2 + 2 + 4 + 5 + 3) / 5 / 10), 0.5) == (m.kv_occupancy_mean, m.kv_occupancy_peak)


def test_itl_covers_every_gap_also_after_preemption() -> None:
    """The weights of the ITL are the tokens after the first of all requests."""
    requests = load([(0, 31, 20), (0, 31, 20)])
    trace, _ = play(requests, [Vllm()], RoundRobin(), ToyCost(base_ns=10 * MS), num_gpu_blocks=5)
    r = trace.requests
    gaps = int((trace.steps["decode_tokens"] * trace.steps["steps"]).sum()) + len(trace.itl_gaps_ns)
    m = compute(trace, num_gpus=1)
    span_ms = float((r["finish_ns"] - r["first_token_ns"]).sum()) / MS

    assert r["preemptions"].sum() > 0
    assert gaps == 2 * 19
    assert m.itl_ms.mean == pytest.approx(span_ms / gaps)


def test_an_empty_quantity_is_none() -> None:
    """No request with two tokens: no TPOT, no ITL; the dictionary is JSON-safe."""
    trace, _ = play(load([(0, 5, 1)]), [Vllm()], RoundRobin(), ToyCost())
    m = compute(trace, num_gpus=1)

    assert Stats(None, None, None, None, None) == m.tpot_ms == m.itl_ms
    assert m.to_dict()["tpot_ms"] == dict.fromkeys(("mean", "p50", "p90", "p95", "p99"))


def test_warm_up_leaves_requests_out_of_latencies_not_of_rates() -> None:
    """Half of three requests is one: request 0 is warm-up."""
    m = compute(two_requests(), num_gpus=1, warmup_fraction=0.5)

    slo = SloSpec(ttft_ms=15)
    cut = compute(two_requests(), num_gpus=1, slo=slo, warmup_fraction=0.5)

    assert (15.0, 2) == (m.ttft_ms.mean, m.finished)
    assert (cut.goodput_rps, cut.slo_attainment) == (2 / 0.05, 1 / 2)
    with pytest.raises(SpecError, match="warmup_fraction"):
        compute(two_requests(), num_gpus=1, warmup_fraction=1.0)


pairs = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=30)


@given(pairs=pairs, percentile=st.sampled_from([1, 50, 90, 99]))
def test_weighted_percentile_is_that_of_the_repeated_values(
    pairs: list[tuple[int, int]], percentile: int
) -> None:
    """Against numpy's inverted CDF on the expanded list."""
    values, weights = (np.array(column) for column in zip(*pairs, strict=True))
    expected = np.percentile(np.repeat(values, weights), percentile, method="inverted_cdf")

    assert [expected] == weighted_percentiles(values.astype(float), weights, [percentile])


def test_plain_stats_are_numpys() -> None:
    """Linear interpolation between order statistics."""
    assert Stats(2.5, 2.5, 3.7, pytest.approx(3.85), pytest.approx(3.97)) == stats(np.array([1.0, 2, 3, 4]))
    assert weighted_stats(np.array([1.0]), np.array([0])).mean is None


def test_classes_by_hand() -> None:
    """TTFT 10 and 15 ms: `fast` (request 0) keeps its own 5 ms not, `slow` (1, 2) keeps the common 15 ms once."""
    classes = (ClassSpec(name="fast", share=0.5, slo=SloSpec(ttft_ms=5)), ClassSpec(name="slow", share=0.5))
    m = compute(
        two_requests(), num_gpus=1, slo=SloSpec(ttft_ms=15), classes=classes, class_id=np.array([0, 1, 1])
    )

    assert m.classes is not None
    fast, slow = m.classes["fast"], m.classes["slow"]
    assert (1, 1, 10.0, 0.0, 0.0) == (
        fast.requests, fast.finished, fast.ttft_ms.mean, fast.goodput_rps, fast.slo_attainment
    )  # fmt: skip
    assert (2, 1, 15.0, 20.0, 0.5) == (
        slow.requests, slow.finished, slow.ttft_ms.mean, slow.goodput_rps, slow.slo_attainment
    )  # fmt: skip
    assert m.to_dict()["classes"]["slow"]["e2e_ms"]["mean"] == 25.0
    assert "classes" not in compute(two_requests(), num_gpus=1).to_dict()


@pytest.mark.parametrize(
    ("requests", "blocks"), [([(0, 16, 800)] * 8, 500), ([(i * 5 * MS, 100, 300) for i in range(4)], 200)]
)
def test_occupancy_does_not_depend_on_leap(requests: list[tuple[int, int, int]], blocks: int) -> None:
    """The peak is equal; the mean to within the block a request takes early or late on the line of a leap."""
    with_leap, without = (
        compute(play(load(requests), [Vllm()], RoundRobin(), ToyCost(base_ns=10 * MS), num_gpu_blocks=blocks,
                     leap=leap)[0], num_gpus=1) for leap in (True, False)
    )  # fmt: skip

    assert without.kv_occupancy_peak == with_leap.kv_occupancy_peak
    assert without.kv_occupancy_mean == pytest.approx(with_leap.kv_occupancy_mean, abs=len(requests) / blocks)
