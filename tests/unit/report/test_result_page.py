"""`report.html` of a search and a simulation: the numbers of the JSON, all runs, the same whoever computed it."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from simserve.cli.main import main
from simserve.explore.runner import prepare, run_search
from simserve.report import html as page_module
from simserve.report.html import report_html
from simserve.report.series import top_series
from simserve.report.words import number
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: lognormal, mean: 300, std: 200, max: 2000}
  output_tokens: {kind: lognormal, mean: 60, std: 40, max: 300}
  requests: 60
slo: {ttft_ms: 500, tpot_ms: 10}
deployment: {gpu: l40s}
search:
  space:
    gpu: [h100_sxm, l40s, a100_sxm]
    dtype: [bf16, fp8]
    replicas: [1, 2, 3]
  trials: 12
"""


def figures(page: str) -> dict[str, Any]:
    """The figures of a page, by name."""
    found = re.findall(r"data-for='([\w-]+)'>(.*?)</script>", page, flags=re.S)
    return {name: json.loads(text) for name, text in found}


def own(page: str) -> str:
    """A page without the scripts and figures in it."""
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return path


def test_the_page_shows_what_the_result_says(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every run is a mark, the recommended one a star; the SLO a line; rejected ones are counted; nothing is loaded."""
    assert main(["search", str(study), "-o", str(tmp_path / "o")]) == 0
    assert f"report: {tmp_path / 'o' / 'report.html'}" in capsys.readouterr().out
    page, found = (tmp_path / "o" / "report.html").read_text(), json.loads((tmp_path / "o" / "result.json").read_text())
    drawn, best = figures(page), found["runs"][found["recommended"]]
    marks = {trace["name"]: trace for trace in drawn["pareto"]["data"]}

    assert sum(len(trace["x"]) for name, trace in marks.items() if name != "recommended") == len(found["runs"])
    assert marks["recommended"]["y"] == [best["tokens_per_s_per_gpu"]]
    assert marks["recommended"]["x"] == [pytest.approx(best["tpot_ms"], rel=1e-4)]
    assert len(marks["Pareto front"]["x"]) == len(found["front"])
    assert drawn["pareto"]["layout"]["shapes"][0]["x0"] == 10.0
    assert drawn["pareto"]["views"][1]["layout"]["shapes"][0]["x0"] == 100.0
    assert all(html.escape(row["reason"]) in page for row in found["rejected"])
    assert len(found["rejected"]) > 0
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", own(page))
    assert found["provenance"]["workload_sha256"] in page


def test_curves_and_bars_are_those_of_the_runs(study: Path, tmp_path: Path) -> None:
    """The curve of TTFT is at the SLO's percentile where the SLO sees it; the bars of a configuration add up to 100."""
    main(["search", str(study), "-o", str(tmp_path / "o"), "--json", str(tmp_path / "r.json")])
    drawn, run = figures((tmp_path / "o" / "report.html").read_text()), json.loads((tmp_path / "r.json").read_text())
    ttft, first = drawn["cdf-ttft"]["data"][0], run["runs"][run["recommended"]]
    at_90 = next(x for x, y in zip(ttft["x"], ttft["y"], strict=True) if y >= 90)
    ones = [i for i, name in enumerate(drawn["breakdown"]["data"][0]["y"]) if name.startswith("1,")]

    assert at_90 == pytest.approx(first["ttft_ms"], rel=1e-3)
    assert {"cdf-ttft", "cdf-tpot", "cdf-itl", "cdf-e2e", "time", "breakdown", "pareto"} == set(drawn)
    assert sum(trace["x"][i] for trace in drawn["breakdown"]["data"] for i in ones) == pytest.approx(100, abs=0.5)
    assert len(drawn["time"]["views"]) == len(drawn["cdf-ttft"]["data"]) == 4


def test_the_page_is_the_same_resumed_and_in_parallel(study: Path, tmp_path: Path) -> None:
    """Six trials, then resumed for all twelve, by two processes: byte for byte the page of one run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main(["search", str(study), "-o", str(whole)])
    main(["search", str(study), "-o", str(parts), "--trials", "6", "--no-html"])
    assert not (parts / "report.html").exists()
    main(["search", str(study), "-o", str(parts), "--resume", "--jobs", "2"])

    assert (whole / "report.html").read_bytes() == (parts / "report.html").read_bytes()


def test_a_simulation_has_a_page_where_it_is_asked_for(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a folder or --html; `--json -` prints JSON alone."""
    assert main(["simulate", str(study), "--html", str(tmp_path / "p.html"), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    page = (tmp_path / "p.html").read_text()
    low, high = found["runs"][0]["interval"]["ranges"]["output_tokens_per_s"]

    assert {"pareto", "time"} & set(figures(page)) == {"time"}
    assert f"<td class='number'>{number(low, 4)}</td><td class='number'>{number(high, 4)}</td>" in page
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "p.html"}


def test_nothing_that_meets_the_slo_is_said_so(study: Path, tmp_path: Path) -> None:
    """No star, the nearest and what it misses in its place; exit code as without a page."""
    study.write_text(STUDY.replace("tpot_ms: 10", "tpot_ms: 0.1"))
    assert main(["search", str(study), "-o", str(tmp_path / "o")]) == 2
    page = (tmp_path / "o" / "report.html").read_text()

    assert "recommended" not in {trace["name"] for trace in figures(page)["pareto"]["data"]}
    assert "o configuration meets the slo" in own(page).lower()


def test_names_cannot_break_the_page() -> None:
    """A study's name is text wherever it appears, in figures as well."""
    bad = "a</script><b>x"
    inputs = prepare(parse(StudySpec, yaml.safe_load(STUDY)), base_dir=None, requests=20)
    result = run_search(inputs)
    routed = {"router": bad, "replicas": 2}
    spoilt = [replace(run, deployment=run.deployment.model_copy(update=routed)) for run in result.runs]
    record = {**result.provenance, "workload": {"path": bad}}
    named = replace(result, name=bad, runs=spoilt, provenance=record)
    shown = [replace(s, outcome=spoilt[result.runs.index(s.outcome)]) for s in top_series(inputs, result)[1:]]
    page = report_html(named, shown)

    assert page.count("a&lt;/script&gt;&lt;b&gt;x") > 20
    assert "</script><b>" not in page


@pytest.mark.parametrize(
    ("options", "problem"),
    [(["--html", "."], "is a directory"), (["--html", "no/p.html"], "cannot write"),
     (["--html", "p.html", "--no-html"], "--no-html: --html asks for a report")],
)  # fmt: skip
def test_targets_are_checked_before_any_work(
    study: Path, options: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and no result."""
    monkeypatch.chdir(study.parent)
    assert main(["search", str(study), "-o", "o", *options]) == 2
    assert problem in capsys.readouterr().err
    assert not (study.parent / "o" / "result.json").exists()


def test_without_plotly_only_a_page_that_was_asked_for_is_an_error(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are complete without; --html names the extra."""
    monkeypatch.setattr(page_module, "find_spec", lambda name: None)
    assert main(["simulate", str(study), "-o", str(tmp_path / "o")]) == 0
    assert not (tmp_path / "o" / "report.html").exists()
    assert main(["simulate", str(study), "--html", str(tmp_path / "p.html")]) == 2
    assert "pip install 'simserve[report]'" in capsys.readouterr().err
