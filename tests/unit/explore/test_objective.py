"""Percentiles with requests that never finish, ranking, recommendation, Pareto front."""

import json
from dataclasses import replace

import numpy as np

from simserve.explore.objective import (
    NEVER_MS,
    Outcome,
    SloValue,
    at_percentile,
    latencies_ms,
    outcome_from_dict,
    ranked,
    recommend,
)  # fmt: skip
from simserve.explore.pareto import front
from simserve.sim.trace import Trace
from simserve.spec.deployment import DeploymentSpec

BASE = Outcome(
    deployment=DeploymentSpec(), num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=1.0,
    tpot_ms=10.0, usd_per_hour=2.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, 10.0, 20.0),),
    turned_away=0, metrics={"a": 1.5},
)  # fmt: skip
MISS = replace(BASE, tokens_per_s_per_gpu=900.0, slo=(SloValue("tpot", 90.0, 30.0, 20.0),))


def test_percentile_is_the_nearest_rank() -> None:
    """P90 of ten values is the ninth: nine of ten do not exceed it."""
    assert at_percentile(np.arange(1.0, 11.0), 90.0) == 9.0


def test_percentile_counts_the_unfinished_as_infinite() -> None:
    """With one of ten unfinished P90 is finite, with two it is never."""
    nine, eight = np.array([1.0] * 9 + [np.inf]), np.array([1.0] * 8 + [np.inf] * 2)

    assert [at_percentile(nine, 90.0), at_percentile(eight, 90.0)] == [1.0, NEVER_MS]


def test_percentile_of_nothing_is_no_number() -> None:
    """No request has a TPOT: not 0, and the bound holds."""
    assert at_percentile(np.empty(0), 90.0) is None
    assert SloValue("tpot", 90.0, None, 20.0).excess <= 0.0


def test_latencies_of_a_trace() -> None:
    """Three requests: finished, single token (no TPOT), rejected (infinitely slow)."""
    rows = {
        "outcome": [0, 0, 1], "arrival_ns": [0, 0, 0], "first_token_ns": [2_000_000, 3_000_000, -1],
        "finish_ns": [6_000_000, 3_000_000, -1], "output_tokens": [3, 1, 0],
        "first_scheduled_ns": [0, 0, -1],
    }  # fmt: skip
    columns = {name: np.array(values, dtype=np.int64) for name, values in rows.items()}
    trace = Trace(columns, {}, np.empty(0, dtype=np.int64), [1], 6_000_000)

    found = {name: values.tolist() for name, values in latencies_ms(trace).items()}

    assert found == {"ttft": [2.0, 3.0, np.inf], "tpot": [2.0, np.inf], "e2e": [6.0, 3.0, np.inf]}


def test_slo_comes_before_throughput() -> None:
    """A faster configuration that misses its SLO ranks behind."""
    assert ranked([MISS, BASE]) == [BASE, MISS]


def test_turning_requests_away_is_a_miss() -> None:
    """A deployment that rejects what the model could serve does not meet the SLO."""
    assert not replace(BASE, turned_away=1).meets_slo


def test_recommends_throughput_then_cost_then_tpot() -> None:
    """Within 1 % of the highest throughput the cheaper wins, and at equal cost the lower TPOT."""
    cheap = replace(BASE, tokens_per_s_per_gpu=99.5, usd_per_million_tokens=0.5)
    quick = replace(cheap, tpot_ms=8.0)
    slow = replace(BASE, tokens_per_s_per_gpu=98.0, usd_per_million_tokens=0.1)

    assert recommend([BASE, cheap, quick, slow, MISS]) == (quick, [cheap, BASE])


def test_recommends_nothing_when_nothing_meets_the_slo() -> None:
    """No SLO-meeting run, no recommendation."""
    assert recommend([MISS]) == (None, [])


def test_front_keeps_what_nothing_dominates() -> None:
    """Throughput against TPOT: the dominated run and the one that misses the SLO are left out."""
    quick = replace(BASE, tokens_per_s_per_gpu=50.0, tpot_ms=5.0)
    dominated = replace(BASE, tokens_per_s_per_gpu=40.0, tpot_ms=6.0)

    assert front([dominated, quick, MISS, BASE]) == [BASE, quick]


def test_outcome_survives_json() -> None:
    """What the journal stores gives back the same outcome."""
    assert outcome_from_dict(json.loads(json.dumps(BASE.to_dict()))) == BASE
