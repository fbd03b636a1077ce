"""What is shown and saved: launch lines, JSON, CSV, plots, atomic files."""

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from simserve.errors import SpecError
from simserve.explore.feasible import Rejected
from simserve.explore.objective import NEVER_MS, Outcome, SloValue
from simserve.explore.replicate import Replications
from simserve.explore.result import SearchResult, nothing_meets
from simserve.report import plot, tables
from simserve.report.document import SCHEMA, document, json_safe
from simserve.report.save import save, write_atomic
from simserve.report.terminal import print_search, print_simulation
from simserve.report.words import number, ties_line, verdict
from simserve.spec.deployment import DeploymentSpec

MODEL = "meta-llama/Llama-3.1-8B"


def outcome(tokens: float, tpot: float, *, bound: float = 20.0, replicas: int = 1) -> Outcome:
    """One run with one SLO."""
    return Outcome(
        deployment=DeploymentSpec(replicas=replicas), num_gpus=replicas, num_gpu_blocks=10,
        tokens_per_s_per_gpu=tokens, ttft_ms=5.0, tpot_ms=tpot, usd_per_hour=3.0, usd_per_million_tokens=0.5,
        slo=(SloValue("tpot", 90.0, tpot, bound),), turned_away=0,
        metrics={"tpot_ms": {"mean": tpot, "p50": tpot}, "preemptions": 0, "goodput_rps": None},
        sources={"measured": 0.25, "modelled": 0.75}, memory_bytes={"weights": 1 << 30},
    )  # fmt: skip


def result(*runs: Outcome) -> SearchResult:
    """A search that found these runs, the best first."""
    rejected = [Rejected(DeploymentSpec(gpu="l4"), "does not fit")]
    return SearchResult("search", "demo", list(runs), rejected, len(runs), {"model": {"name": MODEL}})


RESULT = result(outcome(100.0, 10.0), outcome(50.0, 5.0, replicas=2), outcome(40.0, 30.0))


def test_document_names_the_recommended_the_front_and_the_rejected() -> None:
    """Indices into runs; the run that misses its SLO is on no front."""
    found = document(RESULT)

    assert (found["schema"], found["recommended"], found["front"]) == (SCHEMA, 0, [0, 1])
    assert found["rejected"] == [{"reason": "does not fit", "configurations": 1}]
    assert [run["meets_slo"] for run in found["runs"]] == [True, True, False]


def test_document_is_strict_json() -> None:
    """No NaN, no infinity, no objects of ours."""
    assert json.loads(json.dumps(document(RESULT), allow_nan=False))["model"] == MODEL


def test_documented_keys_are_the_keys() -> None:
    """The schema text and the document agree."""
    import simserve.report.document as module

    text = module.__doc__ or ""
    found = document(RESULT)

    assert [k for k in [*found, *found["runs"][0]] if k not in text] == []


def test_json_safe_turns_infinity_into_null() -> None:
    """Numbers that do not exist are null."""
    assert json_safe({"a": (float("inf"), float("nan"), 1.0)}) == {"a": [None, None, 1.0]}


def test_csv_has_a_row_per_run() -> None:
    """A TPOT that is never reached is an empty cell."""
    never = replace(outcome(1.0, NEVER_MS), ttft_ms=NEVER_MS)
    found = list(csv.DictReader(io.StringIO(tables.csv_text(result(outcome(100.0, 10.0), never)))))

    assert [(r["rank"], r["gpu"], r["tpot_ms"], r["meets_slo"]) for r in found] == [
        ("1", "h100_sxm", "10.0", "True"),
        ("2", "h100_sxm", "", "False"),
    ]


def test_scatter_marks_front_and_misses() -> None:
    """Best throughput at the top, lowest TPOT at the left."""
    lines = plot.scatter(RESULT, width=11, height=3)

    assert lines[1] == "100 ┤  ●        "
    assert lines[3] == " 40 ┤●         ·"


def test_no_scatter_of_a_single_point() -> None:
    """One run is no front."""
    assert plot.scatter(result(outcome(1.0, 1.0))) == []


def test_parquet_holds_the_rows_of_the_csv_and_says_what_they_are() -> None:
    """The same columns and values; a description of each; numbers as numbers also where a column is empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    never = replace(outcome(1.0, NEVER_MS), ttft_ms=NEVER_MS)
    found = pq.read_table(pa.BufferReader(tables.parquet_bytes(result(outcome(100.0, 10.0), never))))
    header = tables.csv_text(RESULT).splitlines()[0].split(",")

    assert found.column_names == header == [n for n in tables.DESCRIBED if n not in tables.DENOISING]
    assert all(field.metadata[b"description"] for field in found.schema)
    assert json.loads(found.schema.metadata[b"simserve"]) == {"kind": "search", "name": "demo", "model": MODEL}
    assert [found[name].to_pylist() for name in ("rank", "tpot_ms", "meets_slo", "recommended", "tpot_ms_mean")] == [
        [1, 2], [10.0, None], [True, False], [True, False], [10.0, None]
    ]  # fmt: skip
    assert str(found.schema.field("goodput_rps").type) == "double"


def test_parquet_and_csv_are_one_table(tmp_path: Path) -> None:
    """Read back by pandas, both files are one table."""
    import pandas as pd

    save(RESULT, tmp_path)
    plain, typed = pd.read_csv(tmp_path / "runs.csv"), pd.read_parquet(tmp_path / "runs.parquet")

    pd.testing.assert_frame_equal(plain, typed, check_dtype=False)


def test_save_writes_all_files(tmp_path: Path) -> None:
    """JSON, CSV, Parquet, provenance and launch script; no temporary files are left."""
    folder = tmp_path / "new"
    saved = save(RESULT, folder)

    assert {"result.json", "runs.csv", "runs.parquet", "provenance.json", "launch.sh"} <= {p.name for p in saved}
    assert sorted(saved) == sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk filling up half-way leaves what was there, and one clear error."""
    path = write_atomic(tmp_path / "a.txt", "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpecError, match="no space left"):
        write_atomic(path, "new")

    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """`--json /dev/stdout` or `>(...)`: a rename would put a file in its place."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(path, "text")

    assert (os.read(reader, 10), path.is_fifo()) == (b"text", True)
    os.close(reader)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(SpecError, match="cannot create"):
        save(RESULT, tmp_path / "file" / "sub")


def shown(width: int, found: SearchResult) -> str:
    """What the terminal prints."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_search(console, found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_terminal_shows_recommendation_sources_and_command() -> None:
    """All that a reader decides on, without wrapping the command."""
    text = shown(80, RESULT)

    assert "Recommended: 1 x h100_sxm TP1 bf16, 8192 tokens, 256 seqs" in text
    assert "kernel numbers: 25 % measured, 75 % modelled" in text
    assert f"  vllm serve {MODEL} --tensor-parallel-size 1 --max-num-batched-tokens 8192" in text
    assert "not possible, 1 configurations: does not fit" in text


def test_terminal_without_an_answer_recommends_nothing() -> None:
    """Nothing meets the SLO: the table only."""
    text = shown(120, result(outcome(40.0, 30.0)))

    assert "Recommended" not in text
    assert "TPOT" in text


def test_terminal_of_a_simulation() -> None:
    """One run and its bound."""
    console = Console(width=100, file=io.StringIO())
    print_simulation(console, replace(result(outcome(100.0, 10.0)), kind="simulate"))

    assert isinstance(console.file, io.StringIO)
    assert "P90 10 <= 20" in console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (NEVER_MS, "never"), (1234.5, "1,234"), (0.01234, "0.0123"), (99.96, "100")]
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    """Three significant figures, whole numbers from a hundred on."""
    assert number(value) == text


def test_line_for_an_slo_that_nothing_meets() -> None:
    """The best found, its value, the bound."""
    line = nothing_meets(result(outcome(40.0, 30.0), outcome(40.0, NEVER_MS)))

    assert line == (
        "no configuration meets the SLO (2 possible configurations simulated); the nearest is "
        "1 x h100_sxm TP1 bf16, 8192 tokens, 256 seqs: its P90 TPOT is 30 ms, the bound 20 ms"
    )


def test_line_without_an_slo() -> None:
    """No bound to name: the requests that were turned away, and by what."""
    run = replace(outcome(40.0, 10.0), slo=(), turned_away=3)
    limited = replace(run, deployment=DeploymentSpec(max_model_len=1000))

    assert nothing_meets(result(run)) == (
        "no configuration serves every request (1 possible configurations simulated); the nearest is "
        "1 x h100_sxm TP1 bf16, 8192 tokens, 256 seqs: it turned away 3 requests that do not fit its KV cache"
    )
    assert nothing_meets(result(limited)).endswith("requests that exceed its KV cache or its max_model_len of 1000")


def test_what_no_request_has_is_a_dash() -> None:
    """TPOT of one-token outputs: no number anywhere, not a 0 that meets its bound."""
    run = replace(outcome(100.0, 10.0), tpot_ms=None, slo=(SloValue("tpot", 90.0, None, 30.0),), metrics={})
    found = result(run, replace(run, tokens_per_s_per_gpu=90.0))
    row = next(csv.DictReader(io.StringIO(tables.csv_text(found))))

    assert run.meets_slo
    assert (document(found)["runs"][0]["tpot_ms"], row["tpot_ms"], plot.scatter(found)) == (None, "", [])
    assert "- (bound 30)" in shown(120, found)
    assert "<= 30" not in shown(120, found)


def test_terminal_shows_the_kv_cache() -> None:
    """Mean and peak occupancy in per cent."""
    run = replace(outcome(100.0, 10.0), metrics={"kv_occupancy_mean": 0.123, "kv_occupancy_peak": 0.5})

    assert "KV cache in use: 12.3 % on average, 50 % at the peak" in shown(100, result(run))


def test_line_when_requests_were_turned_away() -> None:
    """Every bound holds, and yet requests were refused."""
    assert "turned away 3 requests" in nothing_meets(result(replace(outcome(40.0, 10.0), turned_away=3)))


def test_ties_are_worded_by_the_objective() -> None:
    """Two with as many GPUs; with replications the interval decided, and only of throughputs."""
    by_gpus = replace(result(outcome(40.0, 10.0), outcome(10.0, 10.0)), objective="gpus")
    repeats = Replications((0, 1), (40.0, 40.0), (-0.1, -0.1))
    repeated = result(*(replace(outcome(40.0, tpot), replications=repeats) for tpot in (10.0, 11.0)))

    assert ties_line(by_gpus) == "as few GPUs: 1 more, at higher cost or TPOT"
    assert ties_line(repeated).startswith("tied by the 90 % interval over 2 seeds of its throughput")
    assert "tied by" not in ties_line(replace(repeated, objective="cost"))
    assert ties_line(result(outcome(40.0, 10.0), outcome(10.0, 10.0))) == ""


def test_what_was_given_up_is_counted() -> None:
    """One played to its end, one given up: both are said."""
    given_up = Rejected(DeploymentSpec(), "given up: 9 of 60 requests")
    text = shown(120, replace(result(outcome(40.0, 10.0)), pruned=[given_up], configurations=3))

    assert "1 of 3 possible configurations simulated, 1 more given up as sure to miss the SLO" in text


def test_a_run_that_misses_on_average_says_so() -> None:
    """Its own seed keeps the SLO; one that its own seed alone misses has met it."""
    unlucky = replace(outcome(40.0, 10.0), replications=Replications((0, 1), (40.0, 40.0), (-0.1, 0.3)))
    lucky = replace(outcome(40.0, 30.0), replications=Replications((0, 1), (40.0, 40.0), (0.5, -0.9)))

    assert verdict(unlucky) == "misses on average over seeds"
    assert verdict(lucky) == "met"
    assert nothing_meets(result(unlucky)).endswith("under its own seed, not on average over 2 seeds")
