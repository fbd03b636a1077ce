"""Every expectation holds once and fails once, on runs whose numbers are made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simserve.check.baseline import Baseline
from simserve.check.judge import Verdict, compare, judge, skipped
from simserve.check.metrics import numbers, worse
from simserve.errors import SpecError
from simserve.explore.objective import NEVER_MS, Outcome, SloValue
from simserve.explore.result import SearchResult
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.expect import ExpectSpec

RUN = Outcome(
    deployment=DeploymentSpec(gpu="h100_sxm", replicas=2), num_gpus=2, num_gpu_blocks=10, tokens_per_s_per_gpu=1000.0,
    ttft_ms=40.0, tpot_ms=10.0, usd_per_hour=6.0, usd_per_million_tokens=0.8, slo=(SloValue("ttft", 90.0, 40.0, 50.0),),
    turned_away=0, sources={"measured": 0.75, "modelled": 0.25}, memory_bytes={"weights": 7},
    metrics={"ttft_ms": {"mean": 20.0, "p90": 39.0}, "goodput_rps": None, "preemptions": 0, "requests": 200,
             "slo_met": {"ttft": True}, "classes": {"chat": {"e2e_ms": {"p50": 900.0}}}},
)  # fmt: skip
MISSES = replace(RUN, slo=(SloValue("ttft", 90.0, 60.0, 50.0),))
TIED = replace(RUN, deployment=DeploymentSpec(gpu="l40s", replicas=2), tokens_per_s_per_gpu=999.0,
               usd_per_million_tokens=0.9)  # fmt: skip
WORSE = replace(TIED, deployment=DeploymentSpec(gpu="a100_sxm", replicas=2), tokens_per_s_per_gpu=500.0)


def searched(*runs: Outcome) -> SearchResult:
    """A search that simulated these, the best first."""
    return SearchResult("search", "s", list(runs), configurations=len(runs))


def verdicts(expect: dict[str, Any], result: SearchResult | None = None) -> list[Verdict]:
    """Of a simulation of RUN unless told otherwise."""
    return judge(ExpectSpec.model_validate(expect), result or SearchResult("simulate", "s", [RUN]))


def only(expect: dict[str, Any], result: SearchResult | None = None) -> Verdict:
    """The one verdict."""
    (found,) = verdicts(expect, result)
    return found


def test_slo_met() -> None:
    """Met; missed by a fifth, which the line says with value and bound."""
    missed = only({"slo_met": True}, SearchResult("simulate", "s", [MISSES]))

    assert ("passed", "met", "") == (lambda v: (v.status, v.measured, v.message))(only({"slo_met": True}))
    assert ("failed", "missed", "met") == (missed.status, missed.measured, missed.expected)
    assert missed.off == pytest.approx(0.2)
    assert missed.message == "the SLO is not met: its P90 TTFT is 60 ms, the bound 50 ms, 20 % above"


def test_slo_not_met_can_be_expected() -> None:
    """The other way round."""
    assert "failed" == only({"slo_met": False}).status
    assert "passed" == only({"slo_met": False}, SearchResult("simulate", "s", [MISSES])).status


def test_turning_requests_away_misses_the_slo() -> None:
    """However fast the others were; there is no excess to name."""
    found = only({"slo_met": True}, SearchResult("simulate", "s", [replace(RUN, turned_away=3)]))

    assert ("failed", None) == (found.status, found.off)
    assert "it turned away 3 requests" in found.message


@pytest.mark.parametrize(
    ("name", "holds", "fails", "off", "line"),
    [
        ("usd_per_million_tokens", {"max": 0.8}, {"max": 0.5}, 0.6, "is 0.8, above the bound 0.5 by 0.3 (60 %)"),
        ("tokens_per_s_per_gpu", {"min": 1000}, {"min": 1250}, 0.2, "is 1,000, below the bound 1,250 by 250 (20 %)"),
        ("ttft_ms.p90", {"min": 1, "max": 39}, {"min": 1, "max": 30}, 0.3, "is 39, above the bound 30 by 9 (30 %)"),
        ("ttft_ms", {"max": 40}, {"max": 39}, 1 / 39, "is 40, above the bound 39 by 1 (2.56 %)"),
        ("metrics.ttft_ms.mean", {"max": 20}, {"max": 16}, 0.25, "is 20, above the bound 16 by 4 (25 %)"),
        ("preemptions", {"max": 0}, {"min": 1}, 1.0, "is 0, below the bound 1 by 1 (100 %)"),
        ("turned_away", {"max": 0}, {"max": -1}, 1.0, "is 0, above the bound -1 by 1 (100 %)"),
        ("sources.modelled", {"max": 0.25}, {"max": 0.2}, 0.25, "is 0.25, above the bound 0.2 by 0.05 (25 %)"),
        ("sources.transferred", {"max": 0.0}, {"min": 0.5}, 1.0, "is 0, below the bound 0.5 by 0.5 (100 %)"),
        ("classes.chat.e2e_ms.p50", {"max": 900}, {"max": 600}, 0.5, "is 900, above the bound 600 by 300 (50 %)"),
        ("memory_bytes.weights", {"max": 7}, {"max": 0}, None, "is 7, above the bound 0 by 7"),
    ],
)
def test_bounds(name: str, holds: dict[str, float], fails: dict[str, float], off: float, line: str) -> None:
    """Ends included; the line has the value, the bound, and the distance in units and as a share of the bound."""
    good, bad = only({name: holds}), only({name: fails})

    assert ("passed", "", None) == (good.status, good.message, good.off)
    assert ("failed", f"{name} {line}") == (bad.status, bad.message)
    assert bad.off == (None if off is None else pytest.approx(off))


def test_a_metric_without_value_fails() -> None:
    """No goodput without an SLO: neither 0 nor passed."""
    found = only({"goodput_rps": {"max": 5}})

    assert ("failed", None) == (found.status, found.measured)
    assert "goodput_rps has no value in this run, expected at most 5" == found.message


def test_never_is_no_distance() -> None:
    """A latency of requests that never end is above every bound by nothing that can be told."""
    found = only({"ttft_ms": {"max": 5}}, SearchResult("simulate", "s", [replace(RUN, ttft_ms=NEVER_MS)]))

    assert ("failed", None, "ttft_ms is never, above the bound 5") == (found.status, found.off, found.message)


def test_a_name_that_only_the_run_can_refute() -> None:
    """What lies in memory depends on the deployment."""
    with pytest.raises(SpecError, match=r"expect.memory_bytes.wieghts: .*did you mean 'memory_bytes.weights'"):
        only({"memory_bytes.wieghts": {"max": 5}})


def test_the_winner_is_as_stated() -> None:
    """Only the stated keys count; what is otherwise is listed."""
    same = only({"winner": {"gpu": "h100_sxm"}}, searched(RUN, WORSE))
    other = only({"winner": {"gpu": "a100_sxm", "replicas": 2, "max_num_seqs": 64}}, searched(RUN, WORSE))

    assert "passed" == same.status
    assert "failed" == other.status
    assert "the winner is 2 x h100_sxm TP1 bf16, 8192 tokens, 256 seqs, round_robin: gpu is h100_sxm, not a100_sxm, " \
        "max_num_seqs is 256, not 64" == other.message  # fmt: skip


def test_ties_count_if_the_study_says_so() -> None:
    """A run within 1 % of the best may stand for it, one that is worse may not."""
    stated = {"winner": {"gpu": "l40s"}}
    strict, loose = only(stated, searched(RUN, TIED, WORSE)), only({**stated, "ties": True}, searched(RUN, TIED, WORSE))
    beyond = only({"winner": {"gpu": "a100_sxm"}, "ties": True}, searched(RUN, TIED, WORSE))

    assert ["failed", "passed", "failed"] == [strict.status, loose.status, beyond.status]
    assert "2 x l40s" in strict.message
    assert strict.message.endswith("ties with it, which `ties: true` would accept")
    assert "ties with 2 x h100_sxm" in str(loose.measured)


def test_the_winner_of_a_system_with_pools() -> None:
    """Pools are stated in part as well."""
    deployment = DeploymentSpec.model_validate(
        {"system": "distserve", "pools": {"prefill": {"replicas": 2}, "decode": {"gpu": "l40s"}}}
    )
    result = searched(replace(RUN, deployment=deployment))
    same = only({"winner": {"pools": {"decode": {"gpu": "l40s", "replicas": 1}}}}, result)
    other = only({"winner": {"pools": {"prefill": {"replicas": 3}, "encode": {}}}}, result)

    assert "passed" == same.status
    assert other.message.endswith(": pools.prefill.replicas is 2, not 3, there is no pool encode")


def test_without_a_winner_everything_fails() -> None:
    """A search in which nothing meets the SLO says which came nearest, for each expectation."""
    found = verdicts({"slo_met": True, "preemptions": {"max": 5}, "winner": {"gpu": "l40s"}}, searched(MISSES))

    assert ["failed"] * 3 == [v.status for v in found]
    assert all("no configuration meets the SLO (1 possible configurations simulated)" in v.message for v in found)
    assert all("its P90 TTFT is 60 ms, the bound 50 ms" in v.message for v in found)


def against(stored: dict[str, float], tolerance: dict[str, str], result: SearchResult | None = None) -> list[Verdict]:
    """RUN against a baseline of these numbers."""
    expect = ExpectSpec.model_validate({"baseline": "b.json", "tolerance": tolerance})
    baseline = Baseline(Path("b.json"), "s", "simulate", {}, {"simserve": "0.0.9"}, stored)
    return compare(expect, result or SearchResult("simulate", "s", [RUN]), baseline)


@pytest.mark.parametrize(
    ("name", "better", "within", "beyond", "line"),
    [
        ("ttft_ms.p90", 100.0, 39 / 1.05, 39 / 1.2, "20 % higher, 5 % is allowed"),
        ("tokens_per_s_per_gpu", 10.0, 1000 / 0.95, 1000 / 0.9, "10 % lower, 5 % is allowed"),
        ("usd_per_million_tokens", 8.0, 0.8 / 1.05, 0.4, "100 % higher, 5 % is allowed"),
        ("classes.chat.e2e_ms.p50", 1e4, 900 / 1.05, 600.0, "50 % higher, 5 % is allowed"),
        ("metrics.num_gpus", 4.0, 2 / 1.05, 1.0, "100 % higher, 5 % is allowed"),
    ],
)
def test_regressions(name: str, better: float, within: float, beyond: float, line: str) -> None:
    """Any change for the better passes, one for the worse up to the tolerance; the line has both values."""
    plain = name.removeprefix("metrics.")
    good, close, bad = (against({plain: stored}, {name: "5%"})[0] for stored in (better, within, beyond))

    assert ["passed", "passed", "failed"] == [good.status, close.status, bad.status]
    assert bad.message.endswith(line)
    assert "(simserve 0.0.9)" in bad.message


def test_a_change_that_is_neither_better_nor_worse_counts_both_ways() -> None:
    """The number of requests says nothing good or bad, so it must stay."""
    found = [against({"requests": stored}, {"requests": "5%"})[0].status for stored in (150.0, 199.0, 201.0, 250.0)]

    assert ["failed", "passed", "passed", "failed"] == found


def test_a_tolerance_of_nothing() -> None:
    """The same number to the ten digits that a baseline keeps passes, the ninth may not differ."""
    result = SearchResult("simulate", "s", [replace(RUN, ttft_ms=100 / 3)])
    found = [against({"ttft_ms": stored}, {"ttft_ms": "0%"}, result)[0].status for stored in (33.33333333, 33.3333332)]

    assert ["passed", "failed"] == found


def test_a_baseline_of_zero_allows_nothing_worse() -> None:
    """No share of nothing: one preemption where there were none is a regression, none is not."""
    preempted = SearchResult("simulate", "s", [replace(RUN, metrics={"preemptions": 1})])

    assert "passed" == against({"preemptions": 0.0}, {"preemptions": "50%"})[0].status
    (found,) = against({"preemptions": 0.0}, {"preemptions": "50%"}, preempted)
    assert ("failed", None) == (found.status, found.off)
    assert "preemptions is 1, the baseline 0 (simserve 0.0.9): 1 higher, 50 % is allowed" == found.message


def test_what_cannot_be_compared_fails() -> None:
    """A metric that the baseline or the run has not, and a search without a winner."""
    assert "ttft_ms.p90 has no value in the baseline b.json" == against({}, {"ttft_ms.p90": "5%"})[0].message
    assert "goodput_rps has no value in this run" == against({"goodput_rps": 1.0}, {"goodput_rps": "5%"})[0].message
    (found,) = against({"ttft_ms.p90": 1.0}, {"ttft_ms.p90": "5%"}, searched(MISSES))
    assert ("failed", "baseline ttft_ms.p90") == (found.status, found.name)


def test_skipped_says_why() -> None:
    """One verdict for each metric that would have been compared."""
    expect = ExpectSpec.model_validate({"baseline": "b.json", "tolerance": {"ttft_ms.p90": "5%", "num_gpus": "0%"}})

    assert [("baseline ttft_ms.p90", "skipped", "why"), ("baseline num_gpus", "skipped", "why")] == [
        (v.name, v.status, v.message) for v in skipped(expect, "why")
    ]


def test_numbers_are_flat_and_numbers() -> None:
    """Neither truth values nor names nor what has no value; sources without a share are 0."""
    found = numbers(RUN)

    assert {"ttft_ms", "ttft_ms.p90", "classes.chat.e2e_ms.p50", "memory_bytes.weights"} <= set(found)
    assert not [name for name in found if name.startswith(("slo", "deployment", "goodput"))]
    assert 0.0 == found["sources.interpolated"]


@pytest.mark.parametrize(
    ("name", "direction"),
    [("ttft_ms", "higher"), ("itl_ms.p99", "higher"), ("classes.chat.slo_attainment", "lower"),
     ("metrics.total_tokens_per_s", "lower"), ("usd_per_hour", "higher"), ("sources.measured", "either")],
)  # fmt: skip
def test_the_worse_direction(name: str, direction: str) -> None:
    """Of a metric by its first word, or its third below `classes`."""
    assert direction == worse(name)
