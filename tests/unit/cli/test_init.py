"""`simserve init`: the file that it writes is a study, is explained, and can be searched as it is."""

import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from simserve.asked.flags import Flags, study_data
from simserve.asked.space import SPACE_OPTIONS, space_sections
from simserve.asked.text import NOTES, study_text
from simserve.cli.init import QUESTIONS
from simserve.cli.main import main
from simserve.spec.schema import COMMENT, PUBLISHED
from simserve.spec.study import load_study

ROOT = Path(__file__).resolve().parents[3]
TRACE = "arrival,input_tokens,output_tokens\n0.0,100,20\n0.5,200,10\n1.5,300,10\n"
SMALL = ["--gpus", "1", "--isl", "300", "--osl", "20"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())


def written(*arguments: str) -> dict[str, Any]:
    """The study that is written."""
    assert main(["init", "s.yaml", "--yes", "--force", *arguments]) == 0
    return dict(yaml.safe_load(Path("s.yaml").read_text()))


@pytest.mark.parametrize(
    "arguments",
    [[], ["--trace", "trace.csv"], ["--model", "Qwen/Qwen3-30B-A3B", "--gpu", "h100,h200"],
     ["--model", "GSAI-ML/LLaDA-8B-Instruct", "--ttft", "none", "--tpot", "none"]],
    ids=["defaults", "trace", "experts", "diffusion"],
)  # fmt: skip
def test_the_file_is_searched_as_it_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Init, then search; the next command is printed, and is that one."""
    Path("trace.csv").write_text(TRACE)
    load = [] if "--trace" in arguments else SMALL
    assert main(["init", "mine.yaml", "--yes", *arguments, *load]) == 0
    assert "next: simserve search mine.yaml\n" in capsys.readouterr().out
    data = yaml.safe_load(Path("mine.yaml").read_text())
    assert jsonschema.Draft202012Validator(json.loads(PUBLISHED["study"].read_text())).is_valid(data)

    assert main(["search", "mine.yaml", "--requests", "15", "--trials", "2", "--no-html", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["recommended"] == 0


def test_the_space_is_that_of_search_and_every_key_is_explained() -> None:
    """The same sections as for the same options of `simserve search`; what the file says is what was asked."""
    flags = Flags(**{**dict.fromkeys(Flags.__dataclass_fields__), "model": "Qwen/Qwen3-30B-A3B", "rate": 4, "isl": 500,
                     "osl": 50, "ttft": "0.4 s", "percentile": 95})  # fmt: skip
    space = dict.fromkeys(SPACE_OPTIONS) | {"--gpu": ["h200_sxm"], "--gpus": 16}
    expected = study_data(flags, space_sections(space, None, "Qwen/Qwen3-30B-A3B"))
    found = written("--model", "qwen3-30b-a3b", "--gpu", "H200", "--gpus", "16", "--isl", "500", "--osl", "50",
                    "--ttft", "0.4 s", "--tpot", "none", "--percentile", "95", "--objective", "cost")  # fmt: skip
    expected["search"] |= {"objective": "cost", "trials": 40}
    lines = Path("s.yaml").read_text().splitlines()
    keys = [n for n, line in enumerate(lines) if line.strip() and not line.strip().startswith("#")]

    assert found == expected
    assert lines[0].startswith(COMMENT)
    assert all(lines[n - 1].strip().startswith("#") for n in keys), "a key without a comment above it"


def test_notes_are_of_keys_that_exist() -> None:
    """A comment on a key that the specs do not know would never be written."""
    schema = json.loads(PUBLISHED["study"].read_text())
    sections = {"workload": "WorkloadSpec", "slo": "SloSpec", "deployment": "DeploymentSpec", "search": "SearchSpec",
                "search.space": "SpaceSpec"}  # fmt: skip
    for place in NOTES:
        section, _, key = place.rpartition(".")
        assert key in (schema["$defs"][sections[section]] if section else schema)["properties"], place


def test_the_trace_is_found_from_the_study(tmp_path: Path) -> None:
    """A path from the study's folder, wherever the command was typed."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").write_text(TRACE)
    (tmp_path / "studies").mkdir()
    assert main(["init", "studies/s.yaml", "--trace", "data/t.csv", "--yes"]) == 0
    study = load_study("studies/s.yaml")

    assert study.workload.trace is not None
    assert study.workload.trace.path == "../data/t.csv"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "--model: there is no terminal to ask at; give it, or --yes for the default 'meta-llama/Llama-3.1-8B'"),
        (["--model", "llama-3.1-8b"], "--gpu: there is no terminal to ask at"),
        (["--yes", "--model", "Qwen3-23B"], "--model: unknown model 'Qwen3-23B'; did you mean"),
        (["--yes", "--model", "llama"], "--model: unknown model 'llama'; it may be meta-llama/Llama-2-7b-hf or"),
        (["--yes", "--gpu", "h1000"], "--gpu: unknown GPU 'h1000'; did you mean 'h100"),
        (["--yes", "--gpu", ","], "--gpu: give at least one GPU type"),
        (["--yes", "--gpus", "0"], "--gpus: must be a whole number from 1 to 4,096 (got '0')"),
        (["--yes", "--trace", "no.csv"], "no.csv: no such file"),
        (["--yes", "--trace", "t.csv", "--rate", "4"], "--rate: a trace has its own"),
        (["--yes", "--trace", "bad.csv"], "--trace: the column is missing; the file has when"),
        (["--yes", "--rate", "fast"], "--rate: must be a number above 0"),
        (["--yes", "--osl", "1.5"], "--osl: must be a whole number from 1 to 1,073,741,824 (got '1.5')"),
        (["--yes", "--ttft", "5 kg"], "--ttft: '5 kg' is not a duration"),
        (["--yes", "--percentile", "100"], "--percentile: must be a number above 0 and below 100"),
        (["--yes", "--objective", "speed"], "--objective: unknown objective 'speed'"),
        (["there.yaml", "--yes"], "there.yaml: is there already; --force replaces it"),
        (["no/folder/s.yaml", "--yes"], "no/folder/s.yaml: cannot write"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments: list[str], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the option, the value, the nearest name."""
    Path("there.yaml").write_text("mine")
    Path("bad.csv").write_text("when,prompt_tokens,output_tokens\n1,1,1\n")

    assert main(["init", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert fragment in lines[0]
    assert Path("there.yaml").read_text() == "mine"
    assert not Path("study.yaml").exists()


def at_a_terminal(answers: list[str], folder: Path) -> tuple[int, str]:
    """`simserve init` at a terminal where the answers are typed; exit code and all that was shown."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "simserve", "init"], stdin=theirs, stdout=theirs, stderr=theirs,
                               cwd=folder, env=env)  # fmt: skip
    os.close(theirs)
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    shown = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    else:
        process.kill()
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


def test_questions_at_a_terminal(tmp_path: Path) -> None:
    """Enter takes what is in brackets; a mistake is named and asked for again."""
    answers = ["qwen3-31b", "qwen3-32b", "h1000", "h100,h200", "16", "", "-1", "2.5", "", "", "", "", "95", ""]
    code, shown = at_a_terminal(answers, tmp_path)
    study = load_study(tmp_path / "study.yaml")

    assert code == 0, shown
    assert "[meta-llama/Llama-3.1-8B]" in shown
    assert "unknown model 'qwen3-31b'; did you mean" in shown
    assert "must be a number above 0 and below 1e+09 (got '-1')" in shown
    assert (study.model, study.workload.requests, study.slo and study.slo.percentile) == ("Qwen/Qwen3-32B", 1000, 95)
    assert study.workload.arrivals is not None
    assert study.workload.arrivals.rate_rps == 2.5
    assert study.search is not None
    assert (study.search.space.gpu, study.search.max_gpus) == (("h100_sxm", "h200_sxm"), 16)
    assert "simserve search study.yaml" in shown


def test_giving_up_writes_nothing(tmp_path: Path) -> None:
    """The end of the input at a question."""
    code, _ = at_a_terminal(["qwen3-32b", "\x04"], tmp_path)

    assert code == 130
    assert not (tmp_path / "study.yaml").exists()


def test_defaults_are_valid_answers() -> None:
    """What Enter takes passes its own check."""
    for question in QUESTIONS.values():
        question.check(question.default)


def test_no_promise_is_a_comment_to_take_in() -> None:
    """Without an SLO the file says how to give one."""
    text = study_text({"name": "a", "model": "m", "workload": {"requests": 5}}, Path("a.yaml"))

    assert "# slo: {ttft_ms: 500" in text
    assert yaml.safe_load(text) == {"name": "a", "model": "m", "workload": {"requests": 5}}
