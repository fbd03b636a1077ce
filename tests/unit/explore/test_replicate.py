"""Replications: intervals by hand, ties by them, the same seeds for all, and the same answer with any workers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simserve.explore import runner
from simserve.explore.intervals import paired
from simserve.explore.objective import Outcome, SloValue, outcome_from_dict, ranked, recommend
from simserve.explore.repeats import repeats
from simserve.explore.replicate import CONFIDENCE, Replications, further
from simserve.explore.result import SearchResult
from simserve.explore.runner import prepare, run_search
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "small",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 12},
        "prompt_tokens": {"kind": "fixed", "value": 1000},
        "output_tokens": {"kind": "fixed", "value": 60},
        "requests": 120,
    },
    "slo": {"ttft_ms": 400, "tpot_ms": 12, "percentile": 90},
    "search": {
        "space": {"mode": ["aggregated", "disaggregated"], "gpu": ["h100_sxm", "a100_sxm"],
                  "tensor_parallel_size": [1, 2], "replicas": [1, 2], "max_num_batched_tokens": [1024, 8192]},
        "max_gpus": 3, "trials": 20, "prune": True, "replications": 3,
    },
}  # fmt: skip
BASE = Outcome(
    deployment=DeploymentSpec(), num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=1.0,
    tpot_ms=10.0, usd_per_hour=2.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, 10.0, 20.0),),
    turned_away=0, metrics={},
)  # fmt: skip


def repeated(per_gpu: tuple[float, ...], excess: tuple[float, ...] = (-0.1, -0.1, -0.1), **other: Any) -> Outcome:
    """A run with replications."""
    return replace(BASE, replications=Replications((0, 1, 2), per_gpu, excess), **other)


def test_the_interval_is_students() -> None:
    """Of 1, 2, 3 at 90 %: mean 2, standard error 1 / sqrt(3), t of two degrees of freedom 2.91999."""
    found = paired([3.0, 5.0, 7.0], [2.0, 3.0, 4.0], CONFIDENCE)

    assert (found.low, found.high) == pytest.approx((2 - 2.91999 / 3**0.5, 2 + 2.91999 / 3**0.5), rel=1e-5)


def test_common_luck_cancels() -> None:
    """Both vary by 20 with the arrivals, one is behind by 1 on each: no tie, though their own intervals overlap."""
    best, behind = repeated((100.0, 110.0, 120.0)), repeated((99.0, 109.1, 118.9), usd_per_million_tokens=0.1)
    assert recommend([behind, best]) == (best, [])


def test_what_reaches_the_best_is_a_tie() -> None:
    """Five behind on average, but not on each: the cheaper wins."""
    best, near = repeated((100.0, 110.0, 120.0)), repeated((110.0, 90.0, 115.0), usd_per_million_tokens=0.1)
    assert recommend([best, near]) == (near, [best])


def test_the_slo_is_kept_on_average() -> None:
    """One bad seed is no miss; missing by more than it is kept is one."""
    assert repeated((1.0, 1.0, 1.0), (-0.2, 0.1, -0.2)).meets_slo
    assert not repeated((1.0, 1.0, 1.0), (-0.1, 0.3, -0.1)).meets_slo


def test_a_better_run_without_replications_is_not_hidden() -> None:
    """By value: 120 on its own seed before a mean of 110, 90 behind it, 109.5 tied with it; the cheaper wins."""
    many = repeated((100.0, 110.0, 120.0))
    better, worse, near = (replace(BASE, tokens_per_s_per_gpu=value) for value in (120.0, 90.0, 109.5))
    cheap = replace(near, usd_per_million_tokens=0.5)

    assert ranked([worse, many, better]) == [better, many, worse]
    assert recommend([worse, many, better]) == (better, [])
    assert recommend([worse, many, near]) == (many, [near])
    assert recommend([worse, many, cheap]) == (cheap, [many])


def test_whoever_comes_first_has_been_replicated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first few lose what they had on the study's own seed: those behind them are played under the others as well,
    until the first one is among the played."""
    played: list[DeploymentSpec] = []
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None)
    own = [replace(BASE, deployment=DeploymentSpec(replicas=n), tokens_per_s_per_gpu=100.0 - 2 * n)
           for n in range(1, 21)]  # fmt: skip

    def unlucky(few: list[Outcome], *_: Any) -> list[Outcome]:
        played.extend(run.deployment for run in few)
        return [replace(run, replications=Replications((0, 1), (run.tokens_per_s_per_gpu - 15.0,) * 2, (-0.1, -0.1)))
                for run in few]  # fmt: skip

    monkeypatch.setattr(runner, "_repeated", unlucky)
    result = SearchResult("search", "s", own, [], 20, {})
    found = runner._replicated(result, inputs, [], 1, None).runs

    # 98, 96, ... 80: the first five fall to 83 ... 75, behind 86; the next five to 73 ... 65, behind the first
    assert [d.replicas for d in played] == list(range(1, 11))
    assert (found[0].deployment.replicas, found[0].replications is not None) == (1, True)
    assert [o.deployment.replicas for o in found[:5]] == [1, 2, 3, 11, 4]


def test_replications_survive_json() -> None:
    """What is stored gives back the same."""
    run = repeated((1.0, 2.0, 3.0))
    assert outcome_from_dict(run.to_dict()) == run


def test_workers_change_nothing() -> None:
    """Trials, pruned ones, replications and the answer are the same with one worker and with four."""
    found = [run_search(prepare(parse(StudySpec, STUDY), base_dir=None), jobs=jobs) for jobs in (1, 4)]
    one, four = ([(r.deployment, r.tokens_per_s_per_gpu, r.replications) for r in result.runs] for result in found)

    assert one == four
    assert found[0].recommended == found[1].recommended
    assert {p.deployment for p in found[0].pruned} == {p.deployment for p in found[1].pruned}
    assert found[0].pruned
    samples = [r.replications for r in found[0].runs if r.replications is not None]
    assert len({s.seeds for s in samples}) == 1
    assert all(len(set(s.tokens_per_s_per_gpu)) == 3 for s in samples)
    assert np.ptp([s.mean for s in samples]) > 0


def test_replications_are_the_repeats_that_compare_plays(tmp_path: Path) -> None:
    """The seeds after the study's own; a trace begins elsewhere."""
    drawn = parse(StudySpec, {**STUDY, "seed": 7})
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"2023-11-16 18:15:{i:02d}.5,{100 + i},20\n" for i in range(20)))  # fmt: skip
    trace = parse(StudySpec, {**STUDY, "workload": {"trace": {"path": "t.csv"}}})
    first, second = further(drawn, None, 50)

    assert (first.seed, second.seed, len(first.workload)) == (8, 9, 50)
    assert first.workload.arrival_ns.tolist() == repeats(drawn, 2, base_dir=None)[1].workload.arrival_ns[:50].tolist()
    assert {"begins_with_request"} <= set(further(trace, tmp_path, 20)[0].workload.provenance)
