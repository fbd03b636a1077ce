"""`search --objective`, `capacity`, `compare`, `sensitivity` and `explain RESULT` as commands."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from simserve.cli.main import main

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: lognormal, mean: 300, std: 200, max: 2000}
  output_tokens: {kind: lognormal, mean: 30, std: 20, max: 100}
  requests: 200
slo: {ttft_ms: 500, tpot_ms: 40}
deployment: {gpu: l40s, max_num_seqs: 8, max_num_batched_tokens: 1024}
deployments:
  one: {}
  two: {replicas: 2}
search:
  space: {gpu: [h100_sxm, l40s], replicas: [1, 2]}
"""
FLAGS = ["--model", "meta-llama/Llama-3.1-8B", "--rate", "4", "--isl", "300", "--osl", "30", "--requests", "300"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return path


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON document that a command prints; it must succeed."""
    assert main([*arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error, which must have exit code 2."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_capacity_is_found_saved_and_the_same_again(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Document, CSV of every run and provenance; the same seed gives the same answer."""
    command = ["capacity", str(study), "--seeds", "2", "--tolerance", "10"]
    found = run([*command, "-o", str(tmp_path / "o")], capsys)
    again = run(command, capsys)
    tried = rows(tmp_path / "o" / "capacity.csv")

    assert found == again == json.loads((tmp_path / "o" / "capacity.json").read_text())
    assert (found["schema"], found["unit"], found["seeds"]) == ("simserve.capacity/1", "requests/s", [0, 1])
    assert found["capacity"]["low"] <= found["capacity"]["value"] < found["capacity"]["high"]
    assert len(tried) == sum(len(b["tried"]) for b in found["brackets"])
    assert all(b["low"] < b["high"] <= 1.1 * b["low"] * 1.0001 for b in found["brackets"])
    assert set(found["provenance"]["workloads_sha256"]) == {"0", "1"}
    assert (tmp_path / "o" / "provenance.json").is_file()


def test_capacity_from_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """As `simserve simulate` takes them; the table names what breaks."""
    code = main(["capacity", *FLAGS, "--gpu", "l40s", "--max-num-seqs", "8", "--tpot", "40", "--ttft", "500",
                 "--seeds", "1"])  # fmt: skip
    shown = capsys.readouterr().out

    assert code == 0
    assert "Capacity: " in shown
    assert "TTFT P90" in shown


def test_capacity_without_a_bracket_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line, after the result was saved."""
    line = complaint(["capacity", *FLAGS, "--gpu", "l40s", "--tpot", "1", "--seeds", "1", "-o", str(tmp_path)], capsys)

    assert "no bracket was found: no load keeps the SLO: even at 0.0039" in line
    assert json.loads((tmp_path / "capacity.json").read_text())["capacity"] is None


def test_compare_the_deployments_of_a_study(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Differences are from the first, or from the baseline; one row per deployment and seed."""
    found = run(["compare", str(study), "--seeds", "2", "-o", str(tmp_path / "o")], capsys)
    one, two = found["deployments"]

    assert (found["baseline"], one["name"], two["num_gpus"]) == ("one", "one", 2)
    assert one["differences"]["ttft_ms"] == {"value": 0.0, "low": 0.0, "high": 0.0, "relative": 0.0, "tie": True}
    assert two["differences"]["usd_per_hour"]["relative"] == 1.0
    assert found["same_requests"]
    assert [row["deployment"] for row in rows(tmp_path / "o" / "compare.csv")] == ["one", "one", "two", "two"]


def test_compare_several_studies(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by its name, or by the names in it; the table goes to the terminal."""
    other = tmp_path / "other.yaml"
    text = STUDY.replace("name: tiny", "name: other").replace("rate_rps: 4", "rate_rps: 5")
    other.write_text(text.replace("deployments:\n  one: {}\n  two: {replicas: 2}\n", ""))
    code = main(["compare", str(study), str(other), "--seeds", "2", "--metric", "ttft_ms.p99", "--baseline", "other"])
    shown = capsys.readouterr().out

    assert code == 0
    assert "differences from other" in shown
    assert "requests differ" in shown
    assert "Best in ttft_ms.p99" in shown


def test_sensitivity_is_saved_with_its_chart(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The CSV has the order of the tornado, the page every factor."""
    command = ["sensitivity", str(study), "--seeds", "2", "--requests", "60", "--metric", "tpot_ms", "--change", "20"]
    found = run([*command, "-o", str(tmp_path / "o")], capsys)
    listed = [row["factor"] for row in rows(tmp_path / "o" / "sensitivity.csv")]

    assert list(dict.fromkeys(listed)) == [
        name for name in found["order"]["tpot_ms"] if any(f["name"] == name and f["ends"] for f in found["factors"])
    ]
    assert {end["change"] for f in found["factors"] for end in f["ends"]} == {-0.2, 0.2, None}
    assert "GEMM time" in (tmp_path / "o" / "tornado.html").read_text()


def test_sensitivity_prints_bars(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three tornados by default."""
    assert main(["sensitivity", str(study), "--seeds", "1", "--requests", "60"]) == 0
    shown = capsys.readouterr().out

    assert [line.partition(":")[0] for line in shown.splitlines() if line and line[0] != " "][1:4] == [
        "tokens/s/GPU", "TTFT at the percentile, ms", "TPOT at the percentile, ms",
    ]  # fmt: skip
    assert "█" in shown


def test_a_search_for_few_gpus_and_its_explanation(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option overrides the file; `explain` takes the folder that the search wrote."""
    out = tmp_path / "o"
    found = run(["search", str(study), "--objective", "gpus", "-o", str(out)], capsys)
    assert main(["explain", str(out), "-o", str(tmp_path / "e"), "--json", str(tmp_path / "e.json")]) == 0
    shown = capsys.readouterr().out
    explained = json.loads((tmp_path / "e.json").read_text())

    assert (found["objective"], found["provenance"]["study"]["search"]["objective"]) == ("gpus", "gpus")
    assert found["runs"][found["recommended"]]["num_gpus"] == 1
    assert "recommended for gpus" in shown
    assert any(word in shown for word in ("Binding: ", "Nothing binds; nearest is "))
    assert explained["schema"] == "simserve.explanation/1"
    assert explained["provenance"] == found["provenance"]
    assert [row["what"] for row in rows(tmp_path / "e" / "explanation.csv")][:2] == ["as it is", "one more replica"]


def test_a_search_for_the_front_has_four_axes(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a table of it."""
    assert main(["search", str(study), "--objective", "front", "-o", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "result.json").read_text())

    assert found["front_axes"] == ["tokens_per_s_per_gpu", "tokens_per_s_per_user", "usd_per_million_tokens",
                                   "joules_per_token"]  # fmt: skip
    assert "tokens/s /user" in capsys.readouterr().out


def test_a_simulation_can_be_explained(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It won against nothing, but something binds; without simulating it is quick."""
    main(["simulate", str(study), "-o", str(tmp_path)])
    capsys.readouterr()
    found = run(["explain", str(tmp_path / "result.json"), "--no-simulate"], capsys)

    assert found["runner_up"] is None
    assert found["binds"]
    assert found["numbers"]["ranges"]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["capacity"], "give a study file, or --model, --gpu"),
        (["capacity", *FLAGS, "--gpu", "l5"], "unknown GPU 'l5'"),
        (["capacity", *FLAGS, "--gpu", "l4", "--tolerance", "0"], "--tolerance: must be above 0 and below 100 percent"),
        (["capacity", *FLAGS, "--gpu", "l4", "--seeds", "0"], "--seeds': Input should be greater than or equal to 1"),
        (["capacity", *FLAGS, "--gpu", "l4", "--confidence", "99.99"], "less than or equal to 99.9"),
        (["capacity", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["capacity", *FLAGS, "--gpu", "l4", "--tp", "3"], "tensor_parallel_size 3 does not divide"),
        (["compare", "STUDY", "--metric", "tokens"], "--metric: unknown metric 'tokens'"),
        (["compare", "STUDY", "--baseline", "tow"], "--baseline: unknown deployment 'tow'; did you mean 'two'?"),
        (["compare", "STUDY", "STUDY"], "name: two deployments have this name"),
        (["compare", "quickstart"], "deployments: there is one deployment; name several studies"),
        (["compare"], "Missing argument"),
        (["sensitivity", "STUDY", "--change", "120"], "--change: must be above 0 and below 100 percent"),
        (["sensitivity", "STUDY", "--metric", "tpot"], "unknown metric 'tpot'; did you mean 'tpot_ms'?"),
        (["sensitivity", "STUDY", "-o", "/dev/null/o"], "cannot create the output folder"),
        (["search", "STUDY", "--objective", "gpu"], "--objective: unknown objective 'gpu'; did you mean 'gpus'?"),
        (["explain", "vlm"], "unknown system 'vlm'; did you mean 'vllm"),
        (["explain", "no/such/folder"], "no/such/folder: no such file"),
        (["explain", "STUDY"], "tiny.yaml: is no JSON"),
        (["explain", "vllm", "--json", "-"], "--json: is for a result"),
        (["explain", "."], "result.json: no such file"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], fragment: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2, one line, no traceback."""
    monkeypatch.chdir(tmp_path)
    line = complaint([str(study) if word == "STUDY" else word for word in arguments], capsys)

    assert fragment in line


def test_a_wrong_name_among_the_deployments_is_located(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File and line of the deployment that has it."""
    study.write_text(STUDY.replace("two: {replicas: 2}", "two: {router: least_load}"))
    line = complaint(["compare", str(study)], capsys)

    assert "tiny.yaml:12: deployments.two.router: unknown router 'least_load'; did you mean 'least_loaded'?" in line


def test_an_unknown_objective_in_a_file_is_located(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, line, key, nearest."""
    study.write_text(STUDY.replace("search:\n", "search:\n  objective: costs\n"))
    line = complaint(["search", str(study)], capsys)

    assert "tiny.yaml:14: search.objective: must be one of" in line
    assert "did you mean 'cost'?" in line
