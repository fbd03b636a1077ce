"""The studies that come with simserve run, here at a reduced size."""

import json
import shutil
from pathlib import Path

import pytest

from simserve.cli.main import main

STUDIES = Path(__file__).resolve().parents[3] / "studies"


def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `make demo` runs: needs no data, recommends something."""
    code = main(["search", str(STUDIES / "quickstart.yaml"), "-o", str(tmp_path), "--requests", "300",
                 "--trials", "10", "--json", "-"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)

    assert code == 0
    assert found["recommended"] == 0


def test_a_study_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Anywhere, `quickstart` is the study that comes with simserve."""
    monkeypatch.chdir(tmp_path)

    assert main(["simulate", "quickstart", "--requests", "50"]) == 0
    assert "quickstart: 1 x h100_sxm" in capsys.readouterr().out


def test_epd_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Layouts of stages: the tables name them, there are no launch files, and it can be explained."""
    arguments = ["search", str(STUDIES / "epd_images.yaml"), "-o", str(tmp_path), "--requests", "60", "--trials", "3"]
    assert main([*arguments, "--no-html"]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "result.json").read_text())

    assert found["runs"][0]["deployment"]["stages"] in shown
    assert "no launch files: epd_serve with stages" in shown
    assert not (tmp_path / "launch.sh").exists()
    assert main(["explain", str(tmp_path)]) == 0
    assert "busy are, of the time, " in " ".join(capsys.readouterr().out.split())


def test_distserve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pools and two classes: both show in the tables, the launch file has all three servers."""
    assert main(["simulate", str(STUDIES / "distserve.yaml"), "-o", str(tmp_path), "--requests", "200"]) == 0
    shown = capsys.readouterr().out

    assert all(word in shown for word in ("prefill 2 x h100_sxm", "decode 1 x h100_sxm", "chat", "summary"))
    assert 3 == (tmp_path / "launch.sh").read_text().count("vllm serve meta-llama")
    (run,) = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert ["prefill", "decode"] == [pool["name"] for pool in run["pools"]]


def test_a_search_over_pools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pools of the study's deployment are what its search varies."""
    study = tmp_path / "pools.yaml"
    space = "{mode: disaggregated, prefill: {replicas: [1, 2]}, decode: {gpu: [h100_sxm, a100_sxm]}}"
    study.write_text((STUDIES / "distserve.yaml").read_text() + f"search: {{max_gpus: 3, space: {space}}}\n")

    main(["search", str(study), "-o", str(tmp_path / "out"), "--requests", "150"])
    found = json.loads((tmp_path / "out" / "result.json").read_text())

    assert found["configurations"] == len(found["runs"]) == 4
    assert {run["pools"][1]["gpu"] for run in found["runs"]} == {"h100_sxm", "a100_sxm"}


def test_azure_conversation(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real trace, by the path that the study names."""
    code = main(["search", str(STUDIES / "azure_conv.yaml"), "-o", str(tmp_path), "--requests", "500",
                 "--trials", "4", "--json", "-"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)

    assert (code, found["runs"][0]["metrics"]["requests"]) == (0, 500)
    assert found["provenance"]["workload"]["licence"] == "CC-BY-4.0 (Azure Public Dataset)"


def test_a_missing_trace_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Away from the data: one line with the path."""
    study = Path(shutil.copy(STUDIES / "azure_conv.yaml", tmp_path))
    monkeypatch.chdir(tmp_path)  # paths are looked up from here too

    assert main(["simulate", str(study)]) == 2
    line = capsys.readouterr().err
    assert "azure2023_conv.csv.gz: no such file (looked in " in line
    assert line.count("\n") == 1


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    """Four ways to serve one load, side by side."""
    assert main(["compare", str(STUDIES / "compare.yaml"), "--requests", "100", "--seeds", "2", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert [d["name"] for d in found["deployments"]] == ["round_robin", "least_loaded", "fp8", "apart"]
    assert {d["num_gpus"] for d in found["deployments"]} == {2}
