"""What a page draws of a run, on a timeline worked out by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from simserve.explore.evaluate import reduce
from simserve.metrics import token_gaps_ms
from simserve.policies.routers import RoundRobin
from simserve.report.series import _pool, _weighted, series
from simserve.run import simulate
from simserve.sim.trace import Trace
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.spec.slo import SloSpec
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

MS = 1_000_000
LLAMA = load_model("meta-llama/Llama-3.1-8B")


def two_requests() -> Trace:
    """Steps of 10 ms. Request 0 runs from 0 to 50 ms, request 1 waits from 15 to 20 and runs to 40, 2 is rejected."""
    requests = load([(0, 30, 5), (15 * MS, 20, 2), (15 * MS, 9999, 1)])
    return play(requests, [Vllm()], RoundRobin(), ToyCost(base_ns=10 * MS), num_gpu_blocks=11)[0]


def changes(times: list[float], values: list[Any]) -> list[tuple[float, Any]]:
    """(ms, value) where a value begins."""
    before = [None, *values[:-1]]
    return [(round(1e3 * t, 1), v) for t, v, b in zip(times, values, before, strict=True) if v != b]


def test_queue_and_batch_over_time() -> None:
    """Intervals of 50 / 240 ms; a rejected request waits for nothing."""
    pool = _pool(SimpleNamespace(name="", instances=range(1)), two_requests())  # type: ignore[arg-type]

    assert len(pool.time_s) == 240
    assert changes(pool.time_s, pool.waiting) == [(0.0, 0), (15.0, 1), (20.0, 0)]
    assert changes(pool.time_s, pool.running) == [(0.0, 1), (20.0, 2), (40.0, 1)]


def test_kv_cache_over_time() -> None:
    """30 prompt tokens are 2 of 10 usable blocks, 20 are 2 more; request 0 takes a third for its 33rd token."""
    pool = _pool(SimpleNamespace(name="", instances=range(1)), two_requests())  # type: ignore[arg-type]

    assert max(pool.kv_peak) == pytest.approx(5 / 10)
    assert pool.kv_peak[0] == pytest.approx(2 / 10)
    assert all(mean <= peak for mean, peak in zip(pool.kv_mean, pool.kv_peak, strict=True))


def test_distribution_by_hand() -> None:
    """Nine gaps of 1 ms, and one of 5 that stands alone; what never ends keeps the curve below 1."""
    assert _weighted(np.array([5.0, 1.0]), np.array([1, 9])) == ([1.0, 5.0], [0.9, 1.0])
    assert _weighted(np.array([2.0, np.inf, 1.0, 3.0]), np.ones(4, dtype=np.int64)) == (
        [1.0, 2.0, 3.0], [0.25, 0.5, 0.75]
    )  # fmt: skip
    assert _weighted(np.array([]), np.array([], dtype=np.int64)) == ([], [])


def test_gaps_are_all_tokens_but_the_first() -> None:
    """Request 0 has four gaps, request 1 one."""
    values, weights = token_gaps_ms(two_requests())

    assert (values * weights).sum() == 50.0
    assert weights.sum() == 5


def test_a_distribution_is_at_the_percentile_what_the_slo_sees() -> None:
    """The curve of TTFT reaches 90 % at the Outcome's own P90."""
    requests = load([(i * 20 * MS, 900 + 37 * (i % 11), 20 + i % 7) for i in range(200)])
    deployment = DeploymentSpec(gpu="h100_sxm")
    run = simulate(LLAMA, deployment, requests)
    outcome = reduce(run, LLAMA, deployment, SloSpec(ttft_ms=100.0, percentile=90))
    ms, share = series(run, outcome).cdf["ttft"]

    assert outcome.ttft_ms == pytest.approx(next(x for x, part in zip(ms, share, strict=True) if part >= 0.9), rel=1e-3)
    assert share[-1] == 1.0


def test_every_pool_has_its_series() -> None:
    """A prefill pool holds a request until its first token, the decode pool from the arrival of its KV on."""
    requests = load([(i * 50 * MS, 1000, 30) for i in range(20)])
    deployment = parse(DeploymentSpec, {"system": "distserve", "pools": {"prefill": {"replicas": 2}, "decode": {}}})
    run = simulate(LLAMA, deployment, requests)
    found = series(run, reduce(run, LLAMA, deployment, None))

    assert [(pool.name, pool.instances) for pool in found.pools] == [("prefill", 2), ("decode", 1)]
    assert [max(pool.running) > 0 for pool in found.pools] == [True, True]
    assert max(found.pools[0].running) + max(found.pools[1].running) <= 20
