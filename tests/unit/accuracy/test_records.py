"""Measured requests and load stages: files, what they become in the simulator, judgement, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simserve.accuracy.judged import Judged, by_regime
from simserve.accuracy.records import read_records, records_file, work_of
from simserve.accuracy.requests import Request, judge_requests, replayed
from simserve.accuracy.stages import DRAIN_S, Stage, deployment_of, judge_run, load_of
from simserve.cli.main import main
from simserve.errors import SpecError, UnknownName
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.workload.requests import RequestSet, prompt_content

MODEL = "meta-llama/Llama-3.1-8B"
GPU = DeploymentSpec(gpu="h100_sxm", max_num_seqs=8)
ROWS = [Request(5.0 + 0.25 * i, 100 + i, 20, ttft_ms=10.0, tpot_ms=5.0, e2e_ms=100.0) for i in range(12)]
STAGE = Stage(
    "a", MODEL, 64, 8, "0", rate_rps=2.0, duration_s=10.0, gpu="h100_sxm", ttft_mean_ms=30.0, e2e_mean_ms=90.0
)  # fmt: skip
REQUESTS_YAML = f"""
kind: requests
csv: run.csv
columns: {{prompt_tokens: in, output_tokens: out}}
model: {MODEL}
clock: engine
deployment: {{gpu: h100_sxm, max_num_seqs: 8}}
"""
STAGES_YAML = """
kind: stages
csv: stages.csv
columns: {run: exp, rate_rps: rate, gpu: hardware, prompt_tokens: in, output_tokens: out, e2e_mean_ms: e2e}
values: {gpu: {H100: h100_sxm}}
constants: {duration_s: 10, ttft_mean_ms: 30}
where: {kept: ["yes", ""]}
clock: client
"""
STAGES_CSV = f"""exp,model,hardware,in,out,stage,rate,kept,split,e2e
a,{MODEL},H100,64,8,all,,yes,train,90
a,{MODEL},H100,64,8,0,2,yes,train,85
a,{MODEL},H100,64,8,1,4,,train,95
b,who/Knows,H100,64,8,0,2,yes,test,95
c,{MODEL},H100,64,8,0,2,no,train,95
"""


def folder(tmp_path: Path, **files: str) -> Path:
    """A folder with these files; two underscores stand for the dot."""
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return tmp_path


def test_a_run_is_replayed_as_it_was() -> None:
    """From the first arrival on, to the nanosecond, with the lengths of each request."""
    load = replayed(ROWS[:3])
    assert load.arrival_ns.tolist() == [0, 250_000_000, 500_000_000]
    assert load.prompt_tokens.tolist() == [100, 101, 102]
    assert load.output_tokens.tolist() == [20, 20, 20]
    assert load.content is None


def trace(prompts: list[int], content: bool = True) -> RequestSet:
    """A trace of requests that begin with the same block of 16 tokens."""
    n = len(prompts)
    pieces = [((7, 16), (prompt_content(i), p - 16)) for i, p in enumerate(prompts)] if content else None
    tokens, zeros = np.array(prompts), np.zeros(n, dtype=np.int64)
    return RequestSet(zeros, tokens, tokens, zeros, None, {"file": "t.jsonl"}, pieces)


def test_a_trace_says_what_prompts_share() -> None:
    """It must be of the same requests; arrival times and outputs stay those of the records."""
    load = replayed(ROWS[:2], trace([100, 101]))
    assert load.content == [((7, 16), (-1, 84)), ((7, 16), (-3, 85))]
    assert load.output_tokens.tolist() == [20, 20]
    for other, problem in (
        (trace([100]), "has 1 requests, the records have 2"),
        (trace([100, 102]), "request 2 has 102 prompt tokens, the records have 101"),
        (trace([100, 101], content=False), "has no block ids"),
    ):
        with pytest.raises(SpecError, match=problem):
            replayed(ROWS[:2], other)


def test_requests_are_judged_one_by_one_and_together() -> None:
    """Measured at 1.25 times what is predicted: every error is -20 %, every rank right; so are the run's numbers."""
    first = judge_requests(ROWS, MODEL, GPU, client_side=False)
    slower = [
        replace(row, **{f"{metric}_ms": 1.25 * value for metric, value in record.predicted.items()})
        for row, record in zip(ROWS, first, strict=False)
    ]
    judged = judge_requests(slower[::-1], MODEL, GPU, client_side=False, name="mine")
    assert len(judged) == 13
    assert all(error == pytest.approx(-0.2) for record in judged for error in record.errors().values())
    scores = {score.metric: score for regime, _, score in by_regime(judged) if regime == "all"}
    assert {name: score.points for name, score in scores.items()} == {"ttft": 12, "tpot": 12, "e2e": 12}
    assert scores["e2e"].spearman == pytest.approx(1)
    assert judged[-1].id == "mine"
    assert set(judged[-1].predicted) == {"ttft mean", "ttft p90", "tpot mean", "e2e mean"}
    assert judged[-1].predicted["ttft p90"] == pytest.approx(
        np.percentile([record.predicted["ttft"] for record in judged[:-1]], 90)
    )


def test_latencies_belong_together_and_to_a_clock() -> None:
    """E2E = TTFT + TPOT x (tokens - 1); a client waits for HTTP and tokenizer as well."""
    engine = judge_requests(ROWS, MODEL, GPU, client_side=False)[0].predicted
    client = judge_requests(ROWS, MODEL, GPU, client_side=True)[0].predicted
    assert engine["e2e"] == pytest.approx(engine["ttft"] + 19 * engine["tpot"])
    assert client["ttft"] - engine["ttft"] > 5


def test_what_cannot_be_predicted_says_why() -> None:
    """An unknown model, a deployment that does not fit, a request longer than the context; a bug is no such reason."""
    assert all("'who/Knows'" in r.problem for r in judge_requests(ROWS, "who/Knows", GPU, client_side=False))
    with pytest.raises(AttributeError):
        judge_requests(ROWS, MODEL, None, client_side=False)  # type: ignore[arg-type]
    big = judge_requests(ROWS, "meta-llama/Llama-3.1-70B", GPU, client_side=False)
    assert all("does not fit" in record.problem for record in big)
    short = judge_requests(ROWS, MODEL, GPU.model_copy(update={"max_model_len": 125}), client_side=False)
    assert [bool(record.problem) for record in short] == [False] * 6 + [True] * 7
    assert short[-1].errors() == {}


def test_stages_follow_one_another() -> None:
    """2/s and 4/s over ten seconds: 20 and 40 requests; equal gaps to the nanosecond, drawn ones inside their stage."""
    second = replace(STAGE, stage="1", rate_rps=4.0, output_tokens=9)
    even = load_of([replace(STAGE, arrivals="constant"), replace(second, arrivals="constant")])
    start = round((10 + DRAIN_S) * 1e9)
    assert even.arrival_ns.tolist() == [*range(0, 10**10, 5 * 10**8), *range(start, start + 10**10, 25 * 10**7)]
    assert even.output_tokens.tolist() == [8] * 20 + [9] * 40
    drawn = load_of([STAGE, second])
    assert len(drawn) == 60
    assert 0 <= drawn.arrival_ns[0] <= drawn.arrival_ns[19] <= 10**10
    assert start <= drawn.arrival_ns[20] <= drawn.arrival_ns[-1] <= start + 10**10
    assert np.array_equal(drawn.arrival_ns, load_of([STAGE, second]).arrival_ns)
    assert not np.array_equal(drawn.arrival_ns, load_of([STAGE, second], seed=1).arrival_ns)
    gaps = np.diff(load_of([replace(STAGE, rate_rps=100.0, duration_s=100.0)]).arrival_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)


def test_prompts_are_sent_in_turn() -> None:
    """2 groups of 2: any four in a row are all of them, 16 tokens in common within a group; the cache then has them."""
    shared = replace(STAGE, prompt_groups=2, prompts_per_group=2, system_prompt_tokens=16, arrivals="constant")
    content = load_of([shared]).content
    assert content is not None
    assert set(content[:4]) == {((g, 16), (2 + 2 * g + p, 48)) for g in (0, 1) for p in (0, 1)}
    assert content[4:8] == content[:4]
    run = simulate(
        load_model(MODEL), DeploymentSpec(enable_prefix_caching=True, max_num_seqs=8), load_of([shared])
    )  # fmt: skip
    cached = run.trace.requests["cached_tokens"][np.argsort(run.trace.requests["id"])]
    assert sorted(cached[:4].tolist()) == [0, 0, 16, 16]
    assert set(cached[4:].tolist()) == {48}


def test_a_run_of_stages_is_judged_by_stage_and_whole() -> None:
    """The row without a rate is all requests of the run; fields of the rows replace the common deployment."""
    both = [replace(STAGE, rate_rps=0.0, stage="all"), STAGE, replace(STAGE, rate_rps=6.0, stage="1")]
    whole, slow, fast = judge_run(both, DeploymentSpec(max_num_seqs=8), client_side=False)
    ttft = [record.predicted["ttft mean"] for record in (slow, fast, whole)]
    assert ttft[2] == pytest.approx((20 * ttft[0] + 60 * ttft[1]) / 80)
    assert (whole.regimes, slow.regimes[0]) == ((("whole runs", ""),), ("all", ""))
    engine = deployment_of(replace(STAGE, gpu_memory_utilization=0.8), DeploymentSpec(max_num_seqs=8))
    assert (engine.gpu, engine.max_num_seqs, engine.gpu_memory_utilization) == ("h100_sxm", 8, 0.8)
    mixed = judge_run([STAGE, replace(STAGE, tensor_parallel_size=2)], GPU, client_side=False)
    assert {record.problem for record in mixed} == {"the rows of this run differ in model or engine"}


def test_scores_of_records() -> None:
    """+10 and -30 % in one group, +10 % alone in another: medians 20 and 10 %; no prediction, no score."""
    up = Judged("up", {"e2e": 100.0, "ttft": 0.0}, {"e2e": 110.0, "ttft": 1.0}, (("all", ""), ("gpu", "x")))
    down = Judged("down", {"e2e": 100.0}, {"e2e": 70.0})
    rows = by_regime([up, down, Judged("none", {"e2e": 100.0}, problem="no")])
    assert [(regime, value, score.metric, score.points) for regime, value, score in rows] == [
        ("all", "", "e2e", 2), ("gpu", "x", "e2e", 1),
    ]  # fmt: skip
    assert [score.median for _, _, score in rows] == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("clock: engine\n", ""), "records of requests need clock"),
        (("kind: requests", "kind: stages"), "records of stages have no model"),
        (("{prompt_tokens:", "{promt_tokens:"), "no field 'promt_tokens'; did you mean 'prompt_tokens'"),
        (("max_num_seqs", "max_seqs"), "did you mean 'max_num_seqs'"),
        (("csv: run.csv", "csv: run.csv\ntrace: {path: t.csv}"), "the trace must have block ids"),
        (("clock: engine", "clock: wall"), "must be one of engine, client"),
    ],
)
def test_what_is_wrong_in_a_records_file_is_named(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    """One line with the file."""
    assert change[0] in REQUESTS_YAML
    folder(tmp_path, mine__yaml=REQUESTS_YAML.replace(*change))
    with pytest.raises(SpecError, match=problem) as raised:
        read_records(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("2,yes,train,85", "two,yes,train,85"), "stages.csv:3: rate_rps: must be a number"),
        (("H100,64,8,all", "H200,64,8,all"), "stages.csv:2: gpu: `values` does not say what this stands for"),
        (("hardware", "gpus"), "stages.csv: hardware: this column is missing"),
        (("kept", "keep"), "stages.csv: kept: this column is missing; did you mean 'keep'"),
        (("H100,64,8,all", "H100,64,,all"), "stages.csv:2: output_tokens: is empty"),
        ((STAGES_CSV.partition("\n")[2], ""), "stages.csv: no row is left to judge"),
    ],
)
def test_what_is_wrong_in_the_csv_is_named(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    """File, line, field."""
    where = folder(tmp_path, mine__yaml=STAGES_YAML, stages__csv=STAGES_CSV.replace(*change, 1))
    with pytest.raises(SpecError) as raised:
        work_of(read_records(where / "mine.yaml"), where)
    assert problem in str(raised.value)


def test_stages_may_not_ask_for_the_impossible() -> None:
    """Arrivals that are not known, a system prompt as long as the prompt."""
    with pytest.raises(SpecError, match="must be one of poisson, constant"):
        replace(STAGE, arrivals="bursts")
    with pytest.raises(SpecError, match="must be fewer than the prompt's 64"):
        replace(STAGE, prompt_groups=1, system_prompt_tokens=64)


def test_the_command_judges_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Coverage with reasons, scores by split and model, a table of records, JSON and CSV in the shape of points."""
    where = folder(tmp_path, mine__yaml=STAGES_YAML, stages__csv=STAGES_CSV)
    words = ["validate", "--records", str(where / "mine.yaml")]
    assert main([*words, "--json", "-", "--csv", str(tmp_path / "out.csv")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["points"], content["predicted"], content["left_out"]) == (4, 3, {"kept is no": 1})
    assert ["unknown model 'who/Knows'" in reason for reason in content["not_predicted"]] == [True]
    assert [row["points"] for row in content["scores"] if row["regime"] == "all"] == [2, 2]
    assert {(row["regime"], row["value"]) for row in content["scores"]} == {
        ("all", ""), ("whole runs", ""), ("whole runs", "train"), ("split", "train"), ("model", MODEL),
        ("gpu", "h100_sxm"),
    }  # fmt: skip
    assert len(content["records"]) == 6
    assert all(row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1) for row in content["records"])
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5
    assert main([*words, "--split", "train"]) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 points predicted" in printed
    assert "a: stage 1, 4/s" in printed
    assert main([*words, "--split", "tran"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_the_command_judges_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the data elsewhere, and with another GPU's tables; options that mean nothing here are refused."""
    rows = "".join(f"{r.arrival_s},{r.prompt_tokens},{r.output_tokens},{r.e2e_ms}\n" for r in ROWS)
    data = tmp_path / "data"
    data.mkdir()
    folder(data, run__csv="arrival_s,in,out,e2e_ms\n" + rows)
    words = ["validate", "--records", str(folder(tmp_path, mine__yaml=REQUESTS_YAML) / "mine.yaml"), "--json", "-"]
    assert main(words) == 2
    assert "run.csv: no such file" in capsys.readouterr().err
    predicted = []
    for gpu in ([], ["--gpu", "l40s"]):
        assert main([*words, "--data", str(data), *gpu]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["points"] == content["predicted"] == 12
        ((record,), (score,)) = content["records"], content["scores"]
        assert (record["record"], record["metric"], score["metric"]) == ("run", "e2e mean", "e2e")
        predicted.append(record["predicted"])
    assert predicted[1] > 1.5 * predicted[0]
    assert main([*words, "--data", str(data), "--split", "train"]) == 2
    assert main([*words, "--data", str(data), "--sample", "3"]) == 2
    assert main([*words, "--data", str(data), "--gpu", "l400s"]) == 2
    assert main(["validate", "--records", str(data / "run.csv"), "--gpu", "l40s"]) == 2
    assert capsys.readouterr().err.count("\n") == 4


@pytest.mark.parametrize(
    ("records", "options", "problem"),
    [
        ("points.csv", ["--mode", "disagg"], "--mode: is for the silicon sample, not --records (got 'disagg')"),
        ("points.csv", ["--flags", "f.csv"], "--flags: is for the silicon sample, not --records (got 'f.csv')"),
        ("points.csv", ["--clients", "8"], "--clients: is for the silicon sample, not --records (got '8')"),
        ("mine.yaml", ["--package-dir", "aic"], "--package-dir: is for the silicon sample, not --records (got 'aic')"),
        ("points.csv", ["--data", "d"], "--data: is for a records file (YAML) (got 'd')"),
        ("mine.yaml", ["--html", "page.html"], "--html: is for points, not for stages"),
        ("mine.yaml", ["--sample", "3"], "--sample: is for points, not for stages (got '3')"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], records: str,
    options: list[str], problem: str,
) -> None:  # fmt: skip
    """One line that names the option; nothing is simulated, nothing is written."""
    monkeypatch.chdir(tmp_path)
    for module in ("judge", "requests", "stages"):
        monkeypatch.setattr(f"simserve.accuracy.{module}.simulate", None)
    folder(tmp_path, mine__yaml=STAGES_YAML, stages__csv=STAGES_CSV, points__csv="")
    assert main(["validate", "--records", records, *options]) == 2
    found = capsys.readouterr().err
    assert problem in found
    assert found.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_points_may_be_described_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CSV with names of its own; E2E is judged where it was measured."""
    text = f"kind: points\ncsv: p.csv\ncolumns: {{concurrency: users}}\nconstants: {{model: {MODEL}, gpu: h100_sxm}}\n"
    where = folder(tmp_path, mine__yaml=text, p__csv="users,prompt_tokens,output_tokens,e2e_ms\n4,512,64,500\n")
    assert main(["validate", "--records", str(where / "mine.yaml"), "--json", "-"]) == 0
    content = json.loads(capsys.readouterr().out)
    ((score,), (verdict,)) = content["scores"][:1], content["verdicts"]
    assert (score["regime"], score["metric"]) == ("all", "e2e")
    assert verdict["predicted_e2e_ms"] > verdict["predicted_ttft_ms"] + 50 * verdict["predicted_tpot_ms"]
    assert main(["validate", "--records", str(where / "mine.yaml"), "--gpu", "l40s"]) == 2
    assert "--gpu: is for requests and stages" in capsys.readouterr().err


def test_records_come_with_simserve() -> None:
    """By name; a path to a CSV is none, a name near one gets it."""
    for name, kind in (("rtx_pro_6000_sharegpt", "requests"), ("blis_vllm", "stages")):
        path = records_file(Path(name))
        assert path is not None
        assert read_records(path).kind == kind
    assert records_file(Path("points.csv")) is None
    with pytest.raises(UnknownName, match="did you mean 'blis_vllm'"):
        records_file(Path("blis_vlm"))


def judged_of(name: str, data: Path, split: str = "") -> list[Judged]:
    """The judgement of records that come with simserve."""
    path = records_file(Path(name))
    assert path is not None
    return [record for run in work_of(read_records(path), data, split=split).runs for record in run()]


def test_the_rtx_pro_6000_run(shared: Path) -> None:
    """All 300 requests are predicted, in the right order; the measured numbers are the file's."""
    *requests, run = judged_of("rtx_pro_6000_sharegpt", shared / "data")
    assert [record.problem for record in requests] == [""] * 300
    assert {metric: round(value, 1) for metric, value in run.measured.items()} == {
        "ttft mean": 7097.2, "tpot mean": 32.5, "e2e mean": 28200.7, "ttft p90": 16852.7,
    }  # fmt: skip
    assert all(score.spearman is not None and score.spearman > 0.97 for _, _, score in by_regime(requests))


def test_the_training_runs_of_blis(shared: Path) -> None:
    """All but Llama-4 are predicted; the median error of E2E stays below 12 %."""
    records = judged_of("blis_vllm", shared / "data", "train")
    problems = {record.problem for record in records if record.problem}
    assert [("Llama-4-Scout" in problem) for problem in problems] == [True]
    scores = {score.metric: score for regime, _, score in by_regime(records) if regime == "all"}
    assert scores["e2e mean"].points == 15
    assert scores["e2e mean"].median < 0.12
