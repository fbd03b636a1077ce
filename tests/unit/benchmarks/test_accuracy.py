"""The accuracy benchmark beside a live AIConfigurator: what it is asked, and what becomes of its answers."""

import importlib
import json
import sys
import types
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
ROW = {
    "id": "a", "silicon_data_source": "x", "backend": "vllm", "backend_version": "0.19.0", "mode": "agg",
    "model_path": "meta-llama/Llama-3.1-8B-Instruct", "system": "h100_sxm", "isl": 128, "osl": 8, "batch_size": 1,
    "gemm_quant_mode": None, "moe_quant_mode": None, "tp_size": 1, "pp_size": 1, "attention_dp_size": None,
    "moe_tp_size": 0, "moe_ep_size": None, "silicon_ttft_ms": 10.0, "silicon_tpot_ms": 5.0,
}  # fmt: skip

# Prices every row at TTFT = 2 isl, TPOT = batch_size; a row of osl 9 fails. It leaves what it was asked in $ASKED.
STUB = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[2] == "-c":
    sys.exit()
folder = Path(sys.argv[3])
job = json.loads((folder / "job.json").read_text())
Path({asked!r}).write_text(json.dumps(job))
rows = [
    [r["row"], None, None, 0.25, "NoData"] if r["osl"] == 9 else [r["row"], 2.0 * r["isl"], r["batch_size"], 0.5, ""]
    for r in reversed(job["rows"])
]
about = {{"version": "0.12.0", "start_s": 1.0, "load_s": 2.0, "peak_mb": 3.0}}
(folder / "result.json").write_text(json.dumps({{**about, "rows": rows}}))
"""


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def files(tmp_path):
    """Paths: a package with three rows, the stored predictions (1 % lower TTFT on row 1), a stub as Python."""
    package = tmp_path / "package"
    (package / "systems" / "data").mkdir(parents=True)
    rows = [ROW, {**ROW, "id": "b", "isl": 256, "batch_size": 4}, {**ROW, "id": "c", "osl": 9}]
    pd.DataFrame(rows).to_csv(package / "systems" / "silicon_sample.csv", index=False)
    stored = pd.DataFrame({"row": [0, 1, 2], "bad_par": False, "unique_keep": 1})
    stored["pred_ttft_ms"], stored["pred_tpot_ms"] = [256.0, 512 / 1.01, 7.0], [1.0, 4.0, 7.0]
    stored.to_csv(tmp_path / "stored.csv", index=False)
    python = tmp_path / "stub-python"
    python.write_text(STUB.format(python=sys.executable, asked=str(tmp_path / "asked.json")))
    python.chmod(0o755)
    return types.SimpleNamespace(package=package, stored=tmp_path / "stored.csv", python=python, root=tmp_path)


def run(files, *more):
    from accuracy import main

    out = files.root / "out.json"
    main([str(files.stored), "--package-dir", str(files.package), "--json", str(out), *more])
    return pd.DataFrame(json.loads(out.read_text()))


def test_live_predictions_take_the_place_of_the_stored_ones(files, capsys):
    found = run(files, "--peer-python", str(files.python))
    asked = json.loads((files.root / "asked.json").read_text())
    assert asked["database_mode"] == "SILICON"
    assert [row["row"] for row in asked["rows"]] == [0, 1, 2]
    said = capsys.readouterr().out
    assert "without an answer: 1 NoData" in said
    assert "TTFT 0.005 in the median, 0.01 at most, 2 rows in both, 1 in one alone" in said
    assert "TPOT 0 in the median, 0 at most, 2 rows in both" in said
    assert "AIConfigurator SILICON: 2 of 3" in said
    whole = found[found["regime"] == "all that both predict"].set_index(["side", "metric"])
    # TTFT 256 and 512 against 10 ms, TPOT 1 and 4 against 5.
    assert whole.loc[("AIConfigurator", "ttft"), "median"] == pytest.approx(100 * (25.6 + 51.2 - 2) / 2)
    assert whole.loc[("AIConfigurator", "tpot"), "mape"] == pytest.approx(50)
    assert whole.loc[("AIConfigurator", "wall_ms"), "median"] == 500
    assert 0 < whole.loc[("simserve", "wall_ms"), "max"]


def test_a_sample_is_all_that_either_side_plays(files):
    found = run(files, "--peer-python", str(files.python), "--sample", "2")
    assert len(json.loads((files.root / "asked.json").read_text())["rows"]) == 2
    assert found["points"].max() <= 2


def test_without_a_peer_the_stored_predictions_count_and_nothing_of_theirs_is_timed(files):
    found = run(files)
    whole = found[found["regime"] == "all that both predict"].set_index(["side", "metric"])
    assert whole.loc[("AIConfigurator", "tpot"), "points"] == 3
    assert ("AIConfigurator", "wall_ms") not in whole.index


def test_a_peer_that_cannot_run_is_one_line_and_exit_code_2(files, capsys):
    from accuracy import main

    for text in (
        "echo \"No module named 'aiconfigurator'\" >&2\nexit 1\n",
        '[ "$2" = -c ] || { echo broken >&2; exit 1; }\n',
    ):
        files.python.write_text(f"#!/bin/sh\n{text}")
        with pytest.raises(SystemExit) as end:
            main([str(files.stored), "--package-dir", str(files.package), "--peer-python", str(files.python)])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith("AIConfigurator ")


def test_an_empty_or_zero_size_is_one_and_an_empty_format_is_left_open(files):
    from peers import aiconfigurator

    rows = pd.read_csv(files.package / "systems" / "silicon_sample.csv")
    aiconfigurator.price(files.python, rows, "HYBRID")
    asked = json.loads((files.root / "asked.json").read_text())
    assert asked["database_mode"] == "HYBRID"
    assert asked["rows"][1] == {
        "row": 1, "model_path": "meta-llama/Meta-Llama-3.1-8B", "system_name": "h100_sxm", "backend_name": "vllm",
        "isl": 256, "osl": 8, "batch_size": 4, "tp_size": 1, "pp_size": 1, "attention_dp_size": 1, "moe_tp_size": 1,
        "moe_ep_size": 1, "gemm_quant_mode": None, "moe_quant_mode": None,
    }  # fmt: skip


def test_the_runner_loads_tables_once_a_model_and_counts_errors(tmp_path, monkeypatch):
    calls = []

    def cli_estimate(**arguments):
        calls.append((arguments["isl"], arguments["backend_version"], arguments["mode"]))
        if arguments["isl"] == 3:
            raise KeyError("no table")
        return types.SimpleNamespace(ttft=1.5, tpot=2.5)

    fake = {
        "aiconfigurator": {}, "aiconfigurator.cli": {}, "aiconfigurator.sdk": {},
        "aiconfigurator.cli.api": {"cli_estimate": cli_estimate},
        "aiconfigurator.sdk.perf_database": {
            "get_latest_database_version": lambda system, backend: f"{backend} of {system}"
        },
    }  # fmt: skip
    for name, members in fake.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "peers.aiconfigurator_run", raising=False)
    runner = importlib.import_module("peers.aiconfigurator_run")
    monkeypatch.setattr(runner, "version", lambda package: f"{package} 1")
    rows = [{"row": 10 + isl, "isl": isl, "system_name": "h", "backend_name": "b", "model_path": model}
            for isl, model in ((1, "m"), (2, "n"), (3, "m"))]  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps({"database_mode": "SILICON", "rows": rows}))
    runner.main(tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert [call[0] for call in calls] == [1, 1, 3, 2, 2]
    assert {call[1:] for call in calls} == {("b of h", "agg")}
    assert [(n, ttft, tpot, problem) for n, ttft, tpot, _, problem in result["rows"]] == [
        (11, 1.5, 2.5, ""), (13, None, None, "KeyError"), (12, 1.5, 2.5, ""),
    ]  # fmt: skip
    assert result["version"] == "aiconfigurator 1"
