"""The commands on small real studies: files, flags, JSON, resume, errors in one line."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simserve import __version__
from simserve.cli.main import main

STUDY = """\
name: tiny
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: lognormal, mean: 300, std: 200, max: 2000}
  output_tokens: {kind: lognormal, mean: 60, std: 40, max: 300}
  requests: 60
slo: {ttft_ms: 500, tpot_ms: 40}
deployment: {gpu: l40s}
search:
  space:
    gpu: [h100_sxm, l40s]
    tensor_parallel_size: [1, 2]
    replicas: [1, 2, 3]
    max_num_batched_tokens: [2048, 8192]
    max_num_seqs: [64, 128]
    router: [round_robin, least_loaded]
  max_gpus: 4
  trials: 12
"""
FLAGS = ["--model", "meta-llama/Llama-3.1-8B", "--rate", "4", "--isl", "300", "--osl", "40", "--requests", "40"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_search_finds_saves_and_prints(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A search ends with a recommendation that meets the SLO and lies on the disk too."""
    out, copy = tmp_path / "out", tmp_path / "copy.json"
    code = main(["search", str(study), "-o", str(out), "--json", str(copy)])
    found = json.loads((out / "result.json").read_text())

    assert code == 0
    assert "Recommended" in capsys.readouterr().out
    assert found["runs"][found["recommended"]]["meets_slo"]
    assert len(found["runs"]) == 12
    assert found == json.loads(copy.read_text())
    assert found["provenance"]["seed"] == 0
    assert (out / "search.journal").is_file()


def test_json_to_stdout_is_nothing_but_json(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` can be piped."""
    main(["simulate", str(study), "--json", "-"])
    found = json.loads(capsys.readouterr().out)

    assert (found["kind"], found["recommended"], len(found["runs"])) == ("simulate", None, 1)
    assert found["runs"][0]["deployment"]["gpu"] == "l40s"


def test_same_result_with_one_and_two_workers(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of processes changes nothing in the document but what it says of them."""
    found = []
    for jobs in ("1", "2"):
        assert main(["search", str(study), "-o", str(tmp_path / jobs), "--jobs", jobs, "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    execution = [f["provenance"].pop("execution") for f in found]

    assert found[0] == found[1]
    assert execution == [
        {"executor": "in-process", "workers": 1, "storage": "journal"},
        {"executor": "joblib", "workers": 2, "storage": "journal"},
    ]


def test_a_batch_is_saved_with_the_study_and_no_other_resumes_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one worker and two the same runs; the default is eight."""
    found = []
    for options in (["--batch", "3", "--jobs", "1"], ["--batch", "3", "--jobs", "2"], ["--jobs", "1"]):
        assert main(["search", str(study), "-o", str(tmp_path / "o"), "--json", "-", "--no-html", *options]) == 0
        found.append(json.loads(capsys.readouterr().out))

    assert found[0]["runs"] == found[1]["runs"]
    assert [f["provenance"]["study"]["search"]["batch"] for f in found] == [3, 3, 8]
    assert main(["search", str(study), "-o", str(tmp_path / "o"), "--batch", "4", "--resume"]) == 2
    assert "another study" in capsys.readouterr().err


def test_seed_and_trials_override_the_file(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--seed`, `--trials` and `--requests` go with a study file."""
    command = ["search", str(study), "-o", str(tmp_path / "o"), "--json", "-"]
    main([*command, "--seed", "5", "--trials", "3", "--requests", "20"])
    found = json.loads(capsys.readouterr().out)

    assert (found["provenance"]["seed"], len(found["runs"])) == (5, 3)
    assert found["runs"][0]["metrics"]["requests"] == 20


def test_search_from_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without YAML: GPU types separated by commas, default spaces for the rest."""
    code = main(["search", *FLAGS, "--gpu", "h100,l40s", "--gpus", "2", "--ttft", "0.5 s", "--tpot", "50",
                 "--trials", "4", "-o", str(tmp_path), "--json", "-"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)

    assert code == 0
    assert found["name"] == "llama-3.1-8b"
    assert {r["num_gpus"] for r in found["runs"]} <= {1, 2}
    assert found["runs"][0]["slo"][0]["bound_ms"] == 500.0


def test_search_from_flags_on_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trace by path, at twice its rate."""
    trace = tmp_path / "t.csv"
    rows = "".join(f"2023-11-16 18:15:{i:02d}.5,{100 + i},20\n" for i in range(20))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    code = main(["search", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "l40s", "--gpus", "1", "--trace",
                 str(trace), "--rate-scale", "2", "--ttft", "500", "-o", str(tmp_path), "--json", "-"])  # fmt: skip
    found = json.loads(capsys.readouterr().out)

    assert code == 0
    assert found["runs"][0]["metrics"]["requests"] == 20
    assert found["runs"][0]["metrics"]["duration_s"] < 11


def test_simulate_from_flags_closed_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """Four requests in flight all the time."""
    code = main(["simulate", "--model", "meta-llama/Llama-3.1-8B", "--gpu", "h100_sxm", "--concurrency", "4",
                 "--isl", "100", "--osl", "20", "--requests", "16"])  # fmt: skip

    assert code == 0
    assert "TTFT" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["simulate", "search", "capacity"])
def test_a_prefix_is_part_of_the_prompt_and_cached(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Prompts of 300 tokens as without it, of which 256 are computed once: TTFT is shorter."""
    flags = [command, *FLAGS, "--gpu", "h100_sxm", "--ttft", "500", "--json", "-"]
    more = {"search": ["--gpus", "1", "--trials", "1", "--no-html"],
            "capacity": ["--seeds", "1", "--max-num-seqs", "8", "--tpot", "40", "--requests", "400"]}  # fmt: skip
    flags += more.get(command, [])
    found = []
    for prefix in ([], ["--prefix", "256"]):
        assert main([*flags, *prefix]) == 0
        found.append(json.loads(capsys.readouterr().out))
    plain, common = (document["provenance"]["study"] for document in found)
    tokens = {"kind": "fixed", "value": 256}

    assert common["deployment"]["enable_prefix_caching"]
    assert (plain["workload"]["prefixes"], common["workload"]["prefixes"]["count"]) == (None, 1)
    assert tokens.items() <= common["workload"]["prefixes"]["tokens"].items()
    assert (plain["workload"]["prompt_tokens"]["value"], common["workload"]["prompt_tokens"]["value"]) == (300, 44)
    if command == "simulate":
        ttft = [d["runs"][0]["metrics"]["ttft_ms"]["p50"] for d in found]
        assert ttft[1] < ttft[0]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["search"], "what to search? `simserve init`"),
        (["search", "--model", "x"], "--gpu: give at least one GPU type"),
        (["search", "--gpu", "l4"], "--model: give a study file"),
        (["search", "--gpu", "l4", "--model", "x"], "--trace: give --trace, or --isl and --osl"),
        (["search", "--gpu", "l4", "--tp", "two"], "--tp: expected whole numbers"),
        (["search", *FLAGS, "--gpu", "l5"], "unknown GPU 'l5'"),
        (["search", *FLAGS, "--gpu", "l4", "--ttft", "9 kg"], "slo.ttft_ms: '9 kg' is not a duration"),
        (["search", *FLAGS, "--gpu", "l4", "--percentile", "99"], "--percentile: give a bound"),
        (["simulate", *FLAGS, "--gpu", "l4", "--json", "no/x.json"], "no/x.json: cannot write: no such file"),
        (["simulate", *FLAGS, "--gpu", "l4", "--json", "."], ".: cannot write: is a directory"),
        (["simulate", *FLAGS, "--gpu", "l4", "-o", "/dev/null/o"], "/dev/null/o: cannot create the output folder"),
        (["search", *FLAGS, "--gpu", "l4", "--concurrency", "4"], "--rate: give either --rate or --concurrency"),
        (["search", *FLAGS, "--gpu", "l4", "--trace", "x.csv"], "--rate: a trace has its own"),
        (["search", *FLAGS, "--gpu", "l4", "--engine", "vllm", "--scheduler", "sglang"], "--scheduler: --engine has a"),
        (["search", *FLAGS, "--gpu", "l4", "--prefix", "300"], "--prefix: must leave tokens of a prompt's own"),
        (["search", *FLAGS, "--gpu", "l4", "--isl", "0"], "workload.prompt_tokens.value: input should be greater"),
        (["search", *FLAGS, "--gpu", "l4", "--tp", ","], "--tp: give at least one value (got ',')"),
        (["search", *FLAGS, "--gpu", "l4", "--mode", ""], "--mode: give at least one value (got '')"),
        (["compare", "studies/compare.yaml", "--metric", ","], "--metric: give at least one value (got ',')"),
        (["sensitivity", "studies/quickstart.yaml", "--metric", ","], "--metric: give at least one value (got ',')"),
        (["search", "--gpu", "l4", "--model", "x", "--trace", "x.csv", "--prefix", "3"], "--prefix: a trace"),
        (["search", "--jobs", "-1"], "--jobs"),
        (["search", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["search", "quickstrat"], "unknown study 'quickstrat'; did you mean 'quickstart'?"),
        (["simulate"], "give a study file, or --model, --gpu"),
        (["simulat"], "No such command 'simulat'"),
        (["--frobnicate"], "No such option"),
        (["explain", "vlm"], "unknown system 'vlm'; did you mean 'vllm'?"),
        (["hw", "show", "h1000"], "unknown GPU, host or link"),
        (["models", "import", "nowhere.json"], "nowhere.json"),
        (["perfdb", "build", "--from", "aiconfig"], "unknown table source 'aiconfig'"),
    ],
)
def test_user_errors_are_one_line(
    arguments: list[str], fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2 and one line that says which option and why."""
    monkeypatch.chdir(tmp_path)

    assert main(arguments) == 2
    assert fragment in one_line(capsys)


def test_flags_beside_a_study_file_are_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the file says cannot be said again, differently, on the command line."""
    assert main(["search", str(study), "--gpu", "l4"]) == 2
    assert "--gpu: the study file" in one_line(capsys)


def test_resume_without_a_search_is_an_error(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to take up."""
    assert main(["search", str(study), "-o", str(tmp_path / "o"), "--resume"]) == 2
    assert "no search to resume" in one_line(capsys)


def journal_lines(folder: Path) -> int:
    """Trials that are done so far."""
    path = folder / "search.journal"
    return path.read_text().count('"outcome"') if path.is_file() else 0


def start_and_signal(study: Path, folder: Path, number: int) -> tuple[int, str]:
    """Start a search of many trials as a process, signal it when some are done; exit code and stderr."""
    study.write_text(STUDY.replace("requests: 60", "requests: 800").replace("trials: 12", "trials: 24"))
    command = [sys.executable, "-m", "simserve", "search", str(study), "-o", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    deadline = time.monotonic() + 300
    while journal_lines(folder) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def test_a_killed_search_resumes_to_the_same_result(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL loses at most what was in flight; the result is that of an uninterrupted search."""
    code, _ = start_and_signal(study, tmp_path / "killed", signal.SIGKILL)
    done = journal_lines(tmp_path / "killed")
    main(["search", str(study), "-o", str(tmp_path / "killed"), "--resume", "--json", "-"])
    resumed = capsys.readouterr().out
    main(["search", str(study), "-o", str(tmp_path / "whole"), "--json", "-"])

    assert (code, 3 <= done < 24) == (-signal.SIGKILL, True)
    assert resumed == capsys.readouterr().out


def test_ctrl_c_says_how_to_resume(study: Path, tmp_path: Path) -> None:
    """Exit code 130 and one line with the command."""
    code, errors = start_and_signal(study, tmp_path / "out", signal.SIGINT)

    line = f"simserve: interrupted; resume with: simserve search {study} -o {tmp_path / 'out'} --resume\n"
    assert (code, errors) == (130, line)


def test_ctrl_c_inside_a_library_is_still_ctrl_c(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt that a library's clean-up turned into an error of its own; other errors are not taken for one."""

    def broken(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("no lock to release")  # noqa: B904

    monkeypatch.setattr("simserve.explore.runner._simulate_all", broken)
    assert 130 == main(["search", str(study), "-o", str(tmp_path / "out")])
    assert "simserve: interrupted; resume with:" in capsys.readouterr().err

    monkeypatch.setattr("simserve.explore.runner._simulate_all", lambda *_: 1 / 0)
    assert 1 == main(["search", str(study), "-o", str(tmp_path / "out2")])
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--version"], f"simserve {__version__}"),
        ([], "Commands"),
        (["explain"], "schedulers: "),
        (["explain", "vllm"], "Simplified:"),
        (["explain", "round_robin"], "in turn"),
        (["models", "list"], "meta-llama/Llama-3.1-8B"),
        (["models", "show", "qwen3-8b"], "8.19 B parameters, 36 layers, 15.3 GiB in bf16, 144.0 KiB of KV"),
        (["models", "show", "Qwen2.5-VL-7B-Instruct"], "1280 x 720    │ 4784                │ 1196   │ 8.57 MB"),
        (["hw", "list"], "h100_sxm"),
        (["hw", "show", "h100"], "memory_bandwidth_bytes_per_s: 3350000000000   [NVIDIA H100"),
        (["hw", "show", "nvlink4"], "kind: nvlink"),
        (["perfdb", "list"], "l40s"),
    ],
)
def test_commands_that_show(arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and the expected words."""
    assert main(arguments) == 0
    assert fragment in capsys.readouterr().out


def test_import_writes_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config.json -> YAML -> simulate with it."""
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
        "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8,
        "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5,
    }))  # fmt: skip
    target = tmp_path / "mine.yaml"

    assert main(["models", "import", str(folder / "config.json"), "-o", str(target)]) == 0
    code = main(["simulate", "--model", str(target), "--gpu", "l40s", "--rate", "1", "--isl", "50", "--osl", "5",
                 "--requests", "5"])  # fmt: skip
    assert (code, capsys.readouterr().err) == (0, "")


def test_help_starts_fast() -> None:
    """`simserve --help` takes well under a second of CPU, whatever else the machine does."""
    best = 9.0
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "simserve", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    assert best < 0.8


@pytest.mark.parametrize(("command", "printer"), [("search", "print_search"), ("simulate", "print_simulation")])
def test_results_are_saved_before_they_are_printed(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, printer: str
) -> None:
    """A terminal that goes away in the middle of the table takes no result with it."""

    def gone(*args: object, **options: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(f"simserve.report.terminal.{printer}", gone)
    assert main([command, str(study), "-o", str(tmp_path / "out"), "--no-html"]) != 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["kind"] == command


def test_both_modes_are_the_default(tmp_path: Path) -> None:
    """`--mode both` asks for what `search` looks at without it."""
    spaces = []
    for name, mode in (("plain", []), ("both", ["--mode", "both"]), ("one", ["--mode", "aggregated"])):
        out = tmp_path / f"{name}.json"
        options = ["--gpu", "h100_sxm", "--gpus", "2", "--trials", "1", "--no-html", "-o", str(tmp_path / name)]
        assert main(["search", *FLAGS, *options, *mode, "--json", str(out)]) in (0, 1)
        spaces.append(json.loads(out.read_text())["configurations"])

    assert spaces[0] == spaces[1] > spaces[2]
