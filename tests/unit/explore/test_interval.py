"""What the prediction interval of a run rests on, and where its ends lie."""

import json
from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest

from simserve.explore.interval import interval
from simserve.explore.objective import Interval, outcome_from_dict
from simserve.explore.runner import prepare, run_search
from simserve.metrics import attainment
from simserve.perf.host import EngineProfile, load_profile
from simserve.perf.uncertainty import residuals
from simserve.run import RunResult, half_width, simulate
from simserve.sim.trace import Trace
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.spec.slo import SloSpec
from simserve.spec.study import StudySpec
from simserve.testing.builders import load

LLAMA = load_model("meta-llama/Llama-3.1-8B")
ROWS = load([(index * 10**8, 500, 50) for index in range(30)])
SLO = SloSpec(ttft_ms=18, tpot_ms=7, percentile=90)
PROFILE = load_profile("vllm")


def with_spreads(ttft: float, tpot: float, points: str = "7 points of x") -> EngineProfile:
    """A profile with other spreads, over those points."""
    sources = {**dict(PROFILE.sources), "ttft_spread": f"p90 over {points}", "tpot_spread": f"p90 over {points}"}
    return replace(PROFILE, ttft_spread=ttft, tpot_spread=tpot, sources=tuple(sources.items()))


def found(deployment: DeploymentSpec, slo: SloSpec | None = SLO) -> tuple[RunResult, Interval]:
    """A run and its interval."""

    def play(factor: float) -> RunResult:
        return simulate(LLAMA, deployment, ROWS, slo=slo, cost_factor=factor)

    run = play(1.0)
    return run, interval(run, play, slo)


def test_the_wider_of_two_profiles_and_none_where_kernels_err_more() -> None:
    """Factors 2 and 1.5 for TTFT, 1.1 and 1.2 for TPOT; kernels of 30 % err more than the latter."""
    one, other = with_spreads(log(2), log(1.1), "a"), with_spreads(log(1.5), log(1.2), "b")
    both = residuals([one, other], 0.05)

    assert {"ttft": 2.0, "tpot": 1.2} == {name: pytest.approx(found.factor) for name, found in both.items()}
    assert ["calibration residuals of a", "calibration residuals of b"] == [both[m].source for m in ("ttft", "tpot")]
    assert ["ttft"] == list(residuals([other, one], 0.3))
    assert {} == residuals([load_profile("vllm", calibrated=False)], 0.0)


def test_a_calibrated_run_lies_within_a_factor_either_way() -> None:
    """TTFT by its own, all else by that of TPOT; the source names the points."""
    run, its = found(DeploymentSpec())
    metrics = run.metrics
    ttft, tpot = exp(PROFILE.ttft_spread), exp(PROFILE.tpot_spread)

    assert (metrics.ttft_ms.p90 / ttft, metrics.ttft_ms.p90 * ttft) == pytest.approx(its.ranges["ttft_ms.p90"])
    for name in ("tpot_ms", "itl_ms", "e2e_ms"):
        mean = getattr(metrics, name).mean
        assert (mean / tpot, mean * tpot) == pytest.approx(its.ranges[f"{name}.mean"])
    assert {"ttft": pytest.approx(ttft, abs=1e-4), "tpot": pytest.approx(tpot, abs=1e-4)} == its.factors
    assert all(source.endswith("points of vllm from 0.14") for source in its.sources.values())


def test_no_more_comes_out_than_goes_in() -> None:
    """At 10 requests/s, which any step time here serves, throughput hardly moves; within 2.9 s nothing is faster."""
    run, its = found(DeploymentSpec())
    low, high = its.ranges["request_throughput_rps"]

    assert low < run.metrics.request_throughput_rps < high < 30 / 2.9
    assert low > 0.9 * high


def test_attainment_counts_each_request_at_either_end() -> None:
    """Bounds near the median latencies: all requests keep them at the fast end, none at the slow."""
    run, its = found(DeploymentSpec())
    low, high = its.ranges["slo_attainment"]
    rates = its.ranges["request_throughput_rps"]

    assert low < (run.metrics.slo_attainment or 0.0) <= high == 1.0
    assert (low * rates[0], high * rates[1]) == its.ranges["goodput_rps"]


def test_attainment_by_hand() -> None:
    """TTFT 2 and 3 ms against 3, TPOT 2 and none against 3: both; 1.2 times as long one, 1.6 times none."""
    rows = {
        "outcome": [0, 0], "arrival_ns": [0, 0], "first_token_ns": [2_000_000, 3_000_000],
        "finish_ns": [6_000_000, 3_000_000], "output_tokens": [3, 1], "first_scheduled_ns": [0, 0],
    }  # fmt: skip
    columns = {name: np.array(values, dtype=np.int64) for name, values in rows.items()}
    trace = Trace(columns, {}, np.empty(0, dtype=np.int64), [1], 6_000_000)
    slo = SloSpec(ttft_ms=3, tpot_ms=3, percentile=90)

    assert [1.0, 0.5, 0.0] == [attainment(trace, slo, {"ttft": f, "tpot": f}) for f in (1.0, 1.2, 1.6)]
    assert 0.5 == attainment(trace, slo, {"tpot": 1.6})


def test_without_a_calibration_steps_are_played_faster_and_slower() -> None:
    """The ends are those of the two runs."""
    deployment = DeploymentSpec(calibrated=False)
    run, its = found(deployment)
    factors = (1 - half_width(run), 1 + half_width(run))
    ends = [simulate(LLAMA, deployment, ROWS, slo=SLO, cost_factor=factor) for factor in factors]

    assert ({"ttft": "kernel error", "tpot": "kernel error"}, {}) == (its.sources, its.factors)
    for name in ("ttft_ms", "e2e_ms"):
        assert tuple(getattr(end.metrics, name).mean for end in ends) == its.ranges[f"{name}.mean"]


def test_a_device_without_tables_keeps_the_larger_kernel_error() -> None:
    """L4 is priced from another's tables: TPOT by kernels, TTFT, whose residuals are wider still, by those."""
    _, its = found(DeploymentSpec(gpu="l4", dtype="bf16"))
    low, high = its.ranges["tpot_ms.mean"]

    assert "kernel error" == its.sources["tpot"]
    assert list(its.factors) == ["ttft"]
    assert high / low > exp(2 * PROFILE.tpot_spread)


def test_only_ttft_uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile fitted to points without TTFT: TTFT as with kernel error, TPOT by residuals."""
    run, kernels = found(DeploymentSpec(calibrated=False))
    monkeypatch.setattr("simserve.build.load_profile", lambda *_, **__: replace(
        load_profile("vllm", calibrated=False), tpot_spread=log(1.5)))  # fmt: skip
    _, its = found(DeploymentSpec())
    ranged = [name for name in its.ranges if name.startswith("ttft")]

    assert {name: kernels.ranges[name] for name in ranged} == {name: its.ranges[name] for name in ranged}
    assert its.ranges["tpot_ms.mean"][1] == pytest.approx(1.5 * run.metrics.tpot_ms.mean)


def test_a_search_has_the_interval_of_what_it_recommends() -> None:
    """No other run has one; it survives JSON."""
    study: dict[str, Any] = {
        "name": "small", "model": "meta-llama/Llama-3.1-8B",
        "workload": {
            "arrivals": {"kind": "poisson", "rate_rps": 4}, "requests": 60,
            "prompt_tokens": {"kind": "fixed", "value": 500}, "output_tokens": {"kind": "fixed", "value": 50},
        },
        "slo": {"ttft_ms": 400, "tpot_ms": 25, "percentile": 90},
        "search": {"space": {"gpu": ["h100_sxm", "a100_sxm"]}, "trials": 4},
    }  # fmt: skip
    result = run_search(prepare(parse(StudySpec, study), base_dir=None))
    best = result.recommended

    assert best is not None
    assert [best.interval] == [run.interval for run in result.runs if run.interval is not None]
    assert best == outcome_from_dict(json.loads(json.dumps(best.to_dict())))
