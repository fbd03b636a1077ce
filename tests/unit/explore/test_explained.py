"""Why a result is what it is: what decided, what binds, what more would buy, from saved results."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simserve.errors import SpecError
from simserve.explore.explained import (
    AS_IS,
    LOOSER,
    binding,
    decided_by,
    explain,
    loosened,
    missed,
    one_more,
    runner_up,
)
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.pressure import Gauge, gauges, slo_gauges
from simserve.explore.replicate import Replications
from simserve.explore.result import SearchResult
from simserve.explore.runner import play, prepare, run_search
from simserve.explore.saved import Saved, inputs_of, read_saved
from simserve.report.document import document
from simserve.report.explained import print_explanation
from simserve.report.save import save
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

BASE = Outcome(
    deployment=DeploymentSpec(), num_gpus=1, num_gpu_blocks=10, tokens_per_s_per_gpu=100.0, ttft_ms=100.0,
    tpot_ms=10.0, usd_per_hour=2.0, usd_per_million_tokens=1.0,
    slo=(SloValue("ttft", 90.0, 100.0, 400.0), SloValue("tpot", 90.0, 10.0, 20.0)), turned_away=0, metrics={},
)  # fmt: skip


def with_tpot(tpot: float, **other: Any) -> Outcome:
    """The base with another TPOT."""
    slo = (BASE.slo[0], SloValue("tpot", 90.0, tpot, 20.0))
    return replace(BASE, tpot_ms=tpot, slo=slo, **other)


def saved(*runs: Outcome, objective: str = "throughput", kind: str = "search") -> Saved:
    """A result of these runs, the best first."""
    return Saved(Path("r.json"), {"kind": kind, "objective": objective, "provenance": {}}, list(runs), 0)


@pytest.mark.parametrize(
    ("objective", "other", "expected"),
    [
        ("throughput", replace(BASE, tokens_per_s_per_gpu=80.0), ("tokens/s/GPU", 100.0, 80.0)),
        ("throughput", replace(BASE, usd_per_million_tokens=1.5), ("USD per million tokens", 1.0, 1.5)),
        ("throughput", with_tpot(12.0), ("TPOT, ms", 10.0, 12.0)),
        ("throughput", BASE, ("nothing that is measured; the order is by name", None, None)),
        ("gpus", replace(BASE, num_gpus=2), ("GPUs", 1.0, 2.0)),
        ("gpus", replace(BASE, usd_per_hour=3.0), ("USD per hour", 2.0, 3.0)),
        ("cost", replace(BASE, usd_per_hour=3.0), ("USD per hour", 2.0, 3.0)),
        ("cost", replace(BASE, usd_per_million_tokens=2.0), ("USD per million tokens", 1.0, 2.0)),
    ],
)
def test_what_decided(objective: str, other: Outcome, expected: tuple[object, ...]) -> None:
    """The first criterion of the objective's ranking in which the two differ."""
    assert decided_by(BASE, replace(other), objective) == expected


def test_the_runner_up_meets_the_slo() -> None:
    """Third place, for the second misses the SLO; a simulation has none."""
    runs = (BASE, with_tpot(30.0, tokens_per_s_per_gpu=900.0), replace(BASE, tokens_per_s_per_gpu=80.0))
    found = runner_up(saved(*runs))

    assert found is not None
    assert (found["place"], found["decided_by"]) == (2, "tokens/s/GPU")
    assert runner_up(saved(BASE, BASE, kind="simulate")) is None


def test_those_that_are_out_are_counted_by_what_they_missed_most() -> None:
    """Two by TPOT, one that turned requests away; the one that meets the SLO does not count."""
    runs = [BASE, with_tpot(30.0), with_tpot(25.0), replace(BASE, turned_away=4)]

    assert missed(runs) == {"TPOT P90 above 20 ms": 2, "turned requests away": 1}


def test_those_given_up_and_out_on_average_are_counted() -> None:
    """Its own seed keeps the SLO, two of three do not."""
    unlucky = replace(BASE, replications=Replications((0, 1, 2), (1.0, 1.0, 1.0), (-0.1, 0.2, 0.2)))

    assert missed([BASE, unlucky], 3) == {"given up, sure to miss the SLO": 3, "the SLO, on average over seeds": 1}


def test_replications_decide_by_their_means() -> None:
    """Ahead by 5 on each seed, though behind on the study's own numbers."""
    best = replace(BASE, tokens_per_s_per_gpu=90.0, replications=repeated(100.0))
    other = replace(BASE, tokens_per_s_per_gpu=99.0, replications=repeated(95.0))
    lone = replace(BASE, tokens_per_s_per_gpu=98.0)
    words = "tokens/s/GPU, the mean over the seeds"

    assert decided_by(best, other, "throughput") == (words, 100.0, 95.0)
    assert decided_by(best, lone, "throughput") == (f"{words} against its own seed's", 100.0, 98.0)


def repeated(per_gpu: float) -> Replications:
    """The same on three seeds."""
    return Replications((0, 1, 2), (per_gpu,) * 3, (-0.1,) * 3)


def test_what_binds() -> None:
    """Bounds within 10 %, else the nearest one; resources that are full for a tenth of the time."""
    near = [Gauge("TPOT", "slo", 19.0, 20.0), Gauge("TTFT", "slo", 100.0, 400.0)]
    far = [Gauge("TPOT", "slo", 10.0, 20.0), Gauge("TTFT", "slo", 100.0, 400.0)]
    full = [Gauge("KV blocks", "resource", 100.0, 100.0, 0.5), Gauge("max_num_seqs", "resource", 10.0, 100.0, 0.0)]

    assert binding([*near, *full], True) == ["TPOT", "KV blocks"]
    assert binding([*far, *full], False) == ["TPOT"]
    assert [limit.name for limit in slo_gauges(BASE)] == ["TPOT P90", "TTFT P90"]


def test_a_looser_bound_lets_another_one_win() -> None:
    """22 ms misses 20 and meets 24; the other bound stays."""
    found = loosened(with_tpot(22.0), "tpot", LOOSER)

    assert not with_tpot(22.0).meets_slo
    assert found.meets_slo
    assert [s.bound_ms for s in found.slo] == [400.0, 24.0]


def test_a_looser_bound_judges_a_run_by_its_latencies() -> None:
    """Replications that missed the old bound do not stand against the new one."""
    missed_before = replace(with_tpot(22.0), replications=Replications((0, 1), (1.0, 1.0), (0.1, 0.1)))

    assert loosened(missed_before, "tpot", LOOSER).meets_slo


def test_one_more_replica_of_each_pool() -> None:
    """A lone replica gets a router; pools grow one at a time."""
    pools = parse(StudySpec, {
        "model": "m", "workload": {"trace": {"path": "x"}},
        "deployment": {"system": "distserve", "pools": {"prefill": {"replicas": 2}, "decode": {}}},
    }).deployment  # fmt: skip
    ((_, two),) = one_more(DeploymentSpec())

    assert (two.replicas, two.router) == (2, "least_loaded")
    assert [(name, [e.replicas for _, e in d.engines()]) for name, d in one_more(pools)] == [
        ("prefill", [3, 1]), ("decode", [2, 2]),
    ]  # fmt: skip


STUDY: dict[str, Any] = {
    "name": "small", "model": "meta-llama/Llama-3.1-8B",
    "workload": {"arrivals": {"kind": "poisson", "rate_rps": 14}, "requests": 250,
                 "prompt_tokens": {"kind": "fixed", "value": 600}, "output_tokens": {"kind": "fixed", "value": 40}},
    "slo": {"ttft_ms": 300, "tpot_ms": 30},
    "search": {"space": {"gpu": ["h100_sxm", "l40s"], "replicas": [1, 2]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def result() -> SearchResult:
    """A small search of four configurations."""
    return run_search(prepare(parse(StudySpec, STUDY), base_dir=None))


def test_a_saved_result_comes_back(result: SearchResult, tmp_path: Path) -> None:
    """By folder and by file: the same runs, the same requests."""
    save(result, tmp_path)
    found = read_saved(tmp_path)

    assert found.runs == result.runs
    assert found.outcome == result.recommended
    assert read_saved(tmp_path / "result.json") == found
    assert len(inputs_of(found).workload) == 250


def test_a_result_of_fewer_requests_comes_back(tmp_path: Path) -> None:
    """`--requests` kept only the head."""
    study = parse(StudySpec, STUDY)
    save(run_search(prepare(study, base_dir=None, requests=100)), tmp_path)

    assert len(inputs_of(read_saved(tmp_path)).workload) == 100


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is no JSON"),
        ("[]", "schema: is no result of simserve"),
        ('{"schema": "simserve.capacity/1"}', "schema: is no result of simserve"),
        ('{"schema": "simserve.result/1"}', "runs: is no complete result"),
        ('{"schema": "simserve.result/1", "runs": [], "recommended": null, "provenance": {"study": {}}}',
         "runs: is no complete result"),
    ],
)  # fmt: skip
def test_what_is_no_result_is_said_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    """Never a traceback."""
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(SpecError, match=problem):
        read_saved(file)


def test_a_whole_explanation(result: SearchResult, tmp_path: Path) -> None:
    """The neighbour with one more replica is in the result, capacities are simulated, numbers add up."""
    save(result, tmp_path)
    found = explain(read_saved(tmp_path))
    by_name = {buy.what.partition(" ms")[0]: buy for buy in found.buys}
    more = by_name["one more replica"]

    assert result.recommended is not None
    assert found.binds
    assert more.source == "result"
    assert more.outcome is not None
    assert more.outcome.deployment.replicas == result.recommended.deployment.replicas + 1
    assert sum(f["share"] for f in found.numbers["families"].values()) == pytest.approx(1.0)
    assert found.numbers["half_width"] > 0
    assert found.notes == []
    json.dumps(found.to_dict(), allow_nan=False)


def test_without_simulation_the_result_speaks_alone(result: SearchResult, tmp_path: Path) -> None:
    """No capacities, no resources, but who won, what binds and which neighbour there is."""
    save(result, tmp_path)
    found = explain(read_saved(tmp_path), simulate=False)

    assert {limit.kind for limit in found.limits} == {"slo"}
    assert found.why[0].startswith("P90 TPOT has the least room: ")
    assert found.to_dict()["why"] == found.why
    assert all(buy.capacity is None and buy.source == "result" for buy in found.buys)
    best = result.recommended
    assert best is not None
    assert best.interval is not None
    assert found.numbers["half_width"] == best.interval.half_width


def test_a_trace_that_is_gone_is_a_note(result: SearchResult, tmp_path: Path) -> None:
    """The explanation goes on without it; so does one whose requests have changed."""
    plain = document(result)
    plain["provenance"]["study"]["workload"] = {"trace": {"path": "gone.csv"}}
    (tmp_path / "gone.json").write_text(json.dumps(plain))
    plain = document(result)
    plain["provenance"]["study"]["seed"] = 9
    (tmp_path / "other.json").write_text(json.dumps(plain))
    gone, other = (explain(read_saved(tmp_path / name)) for name in ("gone.json", "other.json"))

    assert len(gone.notes) == 1
    assert "gone.csv" in gone.notes[0]
    assert other.notes == ["cannot be simulated again: the requests are not those of the result"]
    assert other.buys


@pytest.mark.parametrize(
    ("changes", "simulate", "why"),
    [
        ({}, False, "nothing was simulated again"),
        ({"slo": None}, True, "the study has no SLO that a higher load would break"),
        ({"slo": {"ttft_ms": 1}}, True, "no load keeps the SLO: even at "),
        ({"slo": {"ttft_ms": 1e9, "tpot_ms": 1e9}}, True, "too few requests for a steady state; ask for more"),
    ],
)
def test_a_load_that_is_not_known_has_a_reason(
    changes: dict[str, Any], simulate: bool, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing played, nothing to break, nothing that keeps it, nothing that breaks it: in the document and printed."""
    study = parse(StudySpec, {**{k: v for k, v in STUDY.items() if k != "search"}, **changes})
    save(run_search(prepare(study, base_dir=None, requests=60)), tmp_path)
    found = explain(read_saved(tmp_path), simulate=simulate)
    print_explanation(Console(width=400), found)

    assert found.buys[0].capacity is None
    assert why in found.buys[0].unknown
    assert found.to_dict()["buys"][0]["unknown"] == found.buys[0].unknown
    assert f"Bears - ({AS_IS}" in (shown := capsys.readouterr().out)
    assert why in shown


def test_limits_of_a_run() -> None:
    """With four places for far more requests, places are what everybody waits for."""
    study = parse(StudySpec, {**STUDY, "deployment": {"max_num_seqs": 4}})
    run = play(prepare(study, base_dir=None))
    found = {limit.name: limit for limit in gauges(run)}
    seqs = found["max_num_seqs"]

    assert (seqs.reached, seqs.bound, seqs.nearness) == (4.0, 4.0, 1.0)
    assert seqs.time_at is not None
    assert seqs.time_at > 0.8
    assert found["time in steps"].reached > 0.9
