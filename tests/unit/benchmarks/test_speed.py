"""The speed benchmark: growth, bars, and what it says when the peer cannot run."""

import csv
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def rows(curve, points):
    return [
        {"scenario": f"{curve} {x}", "curve": curve, "x": x, "requests": n, "wall_s": s, "peak_mb": 1.0}
        for x, n, s in points
    ]


def test_a_cost_that_is_linear_in_requests_has_exponent_one():
    from bars import cost_exponent

    assert cost_exponent(rows("requests", [(10, 10, 1.0), (100, 100, 10.0), (1000, 1000, 100.0)])) == pytest.approx(1)
    assert cost_exponent(rows("requests", [(10, 10, 1.0), (100, 100, 100.0)])) == pytest.approx(2)
    assert cost_exponent(rows("requests", [(10, 10, 1.0)])) is None


def test_output_growth_is_longest_over_shortest():
    from bars import output_growth

    assert output_growth(rows("output length", [(512, 5, 3.0), (64, 5, 2.0)])) == pytest.approx(1.5)


def test_bars_are_met_missed_or_not_run():
    from bars import verdicts

    found = {
        v["bar"]: v["met"]
        for v in verdicts(
            [
                {"scenario": "azure conversation", "curve": "", "wall_s": 1.4, "requests": 1, "x": 0},
                *rows("output length", [(64, 5, 1.0), (512, 5, 2.0)]),
            ]
        )
    }
    assert found["azure conversation"] is True
    assert found["cost of 8 times the output length"] is False
    assert found["1,000,000 requests, 64 replicas"] is None


def test_a_scenario_is_measured(tmp_path):
    from charts import CURVES, bars_table, console, growth, results, write_html
    from scenarios import measure

    row = measure("requests 1,000", tmp_path, head=50)
    assert row["requests"] == 50
    assert row["steps"] > row["events"] > 50
    assert row["wall_s"] > 0
    for part in (results([row]), *(growth([row], name) for name in CURVES), bars_table([])):
        console().print(part)
    write_html([row], tmp_path / "speed.html")
    assert "requests 1,000" in (tmp_path / "speed.html").read_text(encoding="utf-8")


def test_a_python_without_the_peer_is_one_line_and_exit_code_2(tmp_path, capsys):
    from speed import main

    bare = tmp_path / "bare-python"
    bare.write_text("#!/bin/sh\necho \"No module named 'vidur'\" >&2\nexit 1\n")
    bare.chmod(0o755)
    for python in (bare, tmp_path / "no-python"):
        with pytest.raises(SystemExit) as end:
            main([str(tmp_path), "--peer", "vidur", "--peer-python", str(python)])
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "Vidur cannot be run" in said


def test_vidur_gets_the_same_step_costs(tmp_path):
    from peers import vidur
    from scenarios import llama_cost

    cost = llama_cost()
    tables = {name: dict(rows) for name, rows in vidur.tables(cost, 1024).items()}
    decode = tables["mlp_up_proj"][(64,)] + tables["attn_decode"][(64, 512)]
    assert decode * cost.ops.attentions[0].count * 1e6 == pytest.approx(cost.step_ns((), 64, 64 * 512, 64), abs=2)
    prompt = tables["mlp_up_proj"][(1024,)] + tables["attn_prefill"][(1024, 1024)]
    assert prompt * cost.ops.attentions[0].count * 1e6 == pytest.approx(cost.step_ns(((1024, 0),), 0, 0, 1), abs=2)


def test_vidur_gets_the_same_requests(tmp_path, monkeypatch):
    import peers
    from peers import vidur
    from scenarios import llama_cost, poisson

    seen = {}

    def run(command, cwd, **_):
        seen["job"] = json.loads((cwd / "job.json").read_text())
        with (cwd / "trace.csv").open(newline="") as lines:
            seen["rows"] = list(csv.DictReader(lines))
        (cwd / "result.json").write_text('{"wall_s": 1.0}')
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(peers.subprocess, "run", run)
    load = poisson(20, 8, 300, 30)
    assert vidur.play(Path("python"), load, llama_cost(), blocks=100, block_size=16) == {"wall_s": 1.0}
    assert [int(r["PromptTokenCount"]) for r in seen["rows"]] == [300] * 20
    assert [round(float(r["Time"]) * 1e9) for r in seen["rows"]] == load.arrival_ns.tolist()
    assert {r["Date"] for r in seen["rows"]} == {seen["job"]["date"]}
    assert (seen["job"]["num_blocks"], seen["job"]["max_tokens"]) == (100, 512)
