"""`simserve reproduce` on a tiny paper study: table, JSON, page, folder, exit codes."""

import csv
import json
from pathlib import Path

import pytest

from simserve.cli.main import main

PAPER = """\
paper: "A. Nobody, nothing, 2026"
setting: eight requests
unknown: [{what: colour, chosen: blue, why: a guess}]
base:
  model: meta-llama/Llama-3.1-8B
  workload:
    arrivals: {kind: closed_loop, concurrency: 8}
    prompt_tokens: {kind: fixed, value: 100}
    output_tokens: {kind: fixed, value: 10}
    requests: 8
  deployment: {gpu: l40s, max_num_seqs: 8}
runs:
  one: {deployment: {max_num_seqs: 1}}
  many:
sweep: {key: deployment.max_num_seqs, values: [2, 8], runs: many}
quantities:
  - name: gain of eight seats
    published: 5
    unit: times
    of: {metric: output_tokens_per_s, run: many, at: 8, over: one}
    expect: [1.5, 8]
    source: figure 1
  - name: finished
    published: [8, 9]
    of: {metric: finished, run: one}
    expect: [8, 8]
    source: table 2
"""


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A paper study file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(PAPER)
    return path


def test_the_rows_as_json(paper: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list with published, ours, low, high, ok; exit code 0."""
    assert main(["reproduce", str(paper), "--json", "-"]) == 0
    gain, finished = json.loads(capsys.readouterr().out)

    assert (gain["study"], gain["quantity"], gain["published"], gain["low"], gain["high"]) == (
        "tiny", "gain of eight seats", 5.0, 1.5, 8.0,
    )  # fmt: skip
    assert gain["ok"] is True
    assert 1.5 < gain["ours"] < 8
    assert (finished["published"], finished["ours"], finished["ok"]) == ([8.0, 9.0], 8.0, True)


def test_a_missed_range_is_exit_code_1(paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table says which, the JSON as well."""
    paper.write_text(PAPER.replace("expect: [8, 8]", "expect: [9, 10]"))

    assert main(["reproduce", str(paper), "--json", str(tmp_path / "rows.json")]) == 1
    shown = capsys.readouterr().out
    assert [row["ok"] for row in json.loads((tmp_path / "rows.json").read_text())] == [True, False]
    assert "failed" in shown
    assert "1 of 2 quantities within their range" in shown


def test_a_wrong_study_is_exit_code_2(paper: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, for a name, a key and a metric."""
    for old, new, line in (
        ("model: meta-llama/Llama-3.1-8B", "model: meta-llama/Llama-3.1-9B", "unknown model"),
        ("setting:", "seting:", "tiny.yaml:2: seting: unknown key; did you mean 'setting'?"),
        ("metric: finished", "metric: finish", "tiny.yaml:25: quantities[1].of.metric: no run has a metric 'finish'; "
         "did you mean 'finished'?"),
    ):  # fmt: skip
        paper.write_text(PAPER.replace(old, new))
        assert main(["reproduce", str(paper)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert line in lines[0]
    assert main(["reproduce", "tinny"]) == 2
    assert "unknown paper study 'tinny'" in capsys.readouterr().err


def test_results_are_saved_with_a_plot_and_provenance(paper: Path, tmp_path: Path) -> None:
    """JSON document, CSV, provenance of every run, a page with the sweep."""
    out = tmp_path / "out"
    assert main(["reproduce", str(paper), "-o", str(out), "--html", str(tmp_path / "page.html")]) == 0

    document = json.loads((out / "reproduce.json").read_text())
    with (out / "reproduce.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((out / "provenance.json").read_text())
    page = (tmp_path / "page.html").read_text()

    assert document["schema"] == "simserve.reproduce/1"
    assert [(p["run"], p["at"]) for p in document["studies"][0]["played"]] == [("one", None), ("many", 2), ("many", 8)]
    assert [row["published"] for row in rows] == ["5.0", "8 to 9"]
    assert all("workload_sha256" in run for run in record["studies"]["tiny"])
    assert (out / "reproduce.html").read_text() == page
    assert "deployment.max_num_seqs" in page
    assert "blue" in page


def test_the_list_plays_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Names, sizes, papers."""
    assert main(["reproduce", "--list"]) == 0
    assert "flexgen_t4: 4 quantities of 7 runs; Y. Sheng et al." in capsys.readouterr().out
