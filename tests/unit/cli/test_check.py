"""`simserve check` on small real studies: verdicts, exit codes, JSON, JUnit, baselines, what is broken."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from simserve.cli import main as command
from simserve.cli.main import main
from simserve.explore import runner

ROOT = Path(__file__).resolve().parents[3]
LOAD = """\
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: lognormal, mean: 300, std: 200, max: 2000}
  output_tokens: {kind: lognormal, mean: 60, std: 40, max: 300}
  requests: 60
slo: {ttft_ms: 500, tpot_ms: 40}
deployment: {gpu: l40s}
"""
SEARCH = "search: {space: {gpu: [h100_sxm, l40s], replicas: [1, 2]}, trials: 4}\n"
COMPARE = "  baseline: baselines/tiny.json\n  tolerance: {ttft_ms.p90: 5%, tokens_per_s_per_gpu: 5%}\n"


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """An empty folder for studies."""
    (tmp_path / "studies").mkdir()
    return tmp_path / "studies"


def study(folder: Path, name: str, expect: str, load: str = LOAD) -> Path:
    """A study file with an `expect` section of indented lines."""
    path = folder / f"{name}.yaml"
    path.write_text(f"{load}expect:\n{expect}")
    return path


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], list[str]]:
    """(exit code, JSON document, lines on stderr) of a check."""
    capsys.readouterr()
    code = main(["check", *map(str, arguments), "--json", "-"])
    shown = capsys.readouterr()
    return code, json.loads(shown.out), shown.err.splitlines()


def statuses(document: dict[str, Any]) -> dict[str, str]:
    """By name of an expectation, of all studies."""
    return {one["name"]: one["status"] for found in document["studies"] for one in found["expectations"]}


@pytest.mark.parametrize(
    ("load", "holds", "fails", "name"),
    [
        (LOAD, "  slo_met: true\n", "  slo_met: false\n", "slo_met"),
        (LOAD, "  ttft_ms.p90: {max: 500}\n", "  ttft_ms.p90: {max: 1}\n", "ttft_ms.p90"),
        (LOAD, "  num_gpus: {min: 1}\n", "  num_gpus: {min: 2}\n", "num_gpus"),
        (LOAD + SEARCH, "  winner: {gpu: h100_sxm, replicas: 1}\n", "  winner: {gpu: l40s, replicas: 2}\n", "winner"),
    ],
)
def test_each_expectation_holds_and_fails(
    load: str, holds: str, fails: str, name: str, studies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 0 and 1; beside one that holds, only the one that fails is to blame, and without it all is well."""
    found = []
    for section in (holds, fails, f"{fails}  preemptions: {{max: 0}}\n", "  preemptions: {max: 0}\n"):
        code, document, errors = checked(capsys, study(studies, "tiny", section, load))
        found.append((code, statuses(document)))
        assert errors == []

    both = {"preemptions": "passed", name: "failed"}
    assert [(0, {name: "passed"}), (1, {name: "failed"}), (1, both), (0, {"preemptions": "passed"})] == found


def test_baselines(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written on demand; the same study passes, a slower deployment fails, a faster one passes."""
    path, stored = study(studies, "tiny", COMPARE), studies / "baselines" / "tiny.json"

    assert 2 == checked(capsys, path)[0]
    code, document, _ = checked(capsys, path, "--update-baselines")
    assert (0, {"baseline": "passed"}) == (code, statuses(document))
    before = stored.read_bytes()
    code, document, _ = checked(capsys, path)
    assert (0, {"baseline ttft_ms.p90": "passed", "baseline tokens_per_s_per_gpu": "passed"}) == (
        code, statuses(document)
    )  # fmt: skip
    study(studies, "tiny", COMPARE, LOAD.replace("gpu: l40s", "gpu: a40, replicas: 2"))
    code, document, _ = checked(capsys, path)
    assert (1, {"baseline ttft_ms.p90": "failed", "baseline tokens_per_s_per_gpu": "failed"}) == (
        code, statuses(document)
    )  # fmt: skip
    study(studies, "tiny", COMPARE.replace("5%", "900%"), LOAD.replace("gpu: l40s", "gpu: a40, replicas: 2"))
    assert 0 == checked(capsys, path)[0]
    study(studies, "tiny", COMPARE, LOAD.replace("gpu: l40s", "gpu: h100_sxm"))
    assert 0 == checked(capsys, path)[0]
    assert before == stored.read_bytes()


def test_a_baseline_of_a_search_is_of_its_winner(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is refused where the study only simulates."""
    path = study(studies, "tiny", COMPARE, LOAD + SEARCH)

    assert 0 == checked(capsys, path, "--update-baselines")[0]
    assert "h100_sxm" == json.loads((studies / "baselines" / "tiny.json").read_text())["deployment"]["gpu"]
    assert 0 == checked(capsys, path)[0]
    code, _, (line,) = checked(capsys, study(studies, "tiny", COMPARE))
    assert 2 == code
    assert line.endswith("tiny.json: is of another study (search tiny, this is simulate tiny)")


def test_a_baseline_of_another_question_is_one_line(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is simulated."""
    path = study(studies, "tiny", COMPARE)
    checked(capsys, path, "--update-baselines")
    study(studies, "tiny", COMPARE, LOAD.replace("rate_rps: 4", "rate_rps: 5"))
    code, document, (line,) = checked(capsys, path)

    assert (2, "error", []) == (code, document["studies"][0]["status"], document["studies"][0]["expectations"])
    assert f"simserve: error: {path}: {studies}/baselines/tiny.json: is of another workload; if the study is" in line


def test_two_studies_cannot_share_a_baseline(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second would overwrite the first."""
    study(studies, "a", COMPARE)
    other = study(studies, "b", COMPARE)
    code, _, (line,) = checked(capsys, studies, "--update-baselines")

    assert (2, "a") == (code, json.loads((studies / "baselines" / "tiny.json").read_text())["study"])
    assert f"{other}:10: expect.baseline: is the baseline of {studies}/a.yaml as well" in line


def test_nothing_is_written_where_nothing_wins(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A search in which nothing meets the SLO has no result to hold others against."""
    path = study(studies, "tiny", COMPARE, LOAD.replace("tpot_ms: 40", "tpot_ms: 0.01") + SEARCH)
    code, document, _ = checked(capsys, path, "--update-baselines")

    assert (1, {"baseline": "failed"}) == (code, statuses(document))
    assert not (studies / "baselines" / "tiny.json").exists()


def test_fewer_requests_never_pass_for_all(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The document says so, the baseline is skipped and not overwritten; as many as there are change nothing."""
    path = study(studies, "tiny", COMPARE + "  preemptions: {max: 0}\n")
    checked(capsys, path, "--update-baselines")
    code, document, _ = checked(capsys, path, "--requests", 20)
    (found,) = document["studies"]

    assert (0, 20, "passed") == (code, found["requests"], statuses(document)["preemptions"])
    assert "20 of the study's 60 requests, so this is not what the study asks" == found["note"]
    assert {"passed": 1, "skipped": 2} == {k: document["counts"][k] for k in ("passed", "skipped")}
    code, document, _ = checked(capsys, path, "--requests", 600)
    assert (0, None, 0) == (code, document["studies"][0]["note"], document["counts"]["skipped"])
    assert 2 == main(["check", str(path), "--requests", "20", "--update-baselines"])
    assert "--requests: a baseline is of all requests; leave it out" in capsys.readouterr().err


def test_the_requests_of_a_search_are_its_own(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`search.requests` is what the study asks: no note, and the baseline is of so many."""
    path = study(studies, "tiny", COMPARE, LOAD + SEARCH.replace("trials: 4", "trials: 4, requests: 30"))
    checked(capsys, path, "--update-baselines")
    code, document, _ = checked(capsys, path)

    assert (0, 30, None) == (code, document["studies"][0]["requests"], document["studies"][0]["note"])


def test_the_same_with_two_processes(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All but the time."""
    path = study(studies, "tiny", "  winner: {gpu: h100_sxm}\n  ttft_ms.p90: {max: 1}\n", LOAD + SEARCH)
    texts = [json.dumps(checked(capsys, path, "--jobs", jobs)[1]) for jobs in (1, 2)]
    one, two = (re.sub(r'"seconds": [0-9.]+', "", text) for text in texts)

    assert one == two


def test_what_is_broken_does_not_stop_the_others(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every study has its line or its verdicts, in JSON, in JUnit and on stderr; exit code 2 though one failed."""
    study(studies, "a_bad_name", "  ttft_ms.p9: {max: 5}\n")
    (studies / "b_not_yaml.yaml").write_text("workload: {\n")
    study(studies, "c_fails", "  slo_met: false\n")
    study(studies, "d_passes", "  slo_met: true\n")
    study(studies, "e_does_not_fit", "  slo_met: true\n", LOAD.replace("gpu: l40s", "gpu: l40s, dtype: nvfp4"))
    no_trace = "model: meta-llama/Llama-3.1-8B\nworkload: {trace: {path: x.csv}}\nslo: {ttft_ms: 500}\n"
    study(studies, "f_no_trace", "  slo_met: true\n", no_trace)
    (studies / "g_quiet.yaml").write_text(LOAD)
    code, document, errors = checked(capsys, studies, "--junit", studies / "out.xml")

    assert 2 == code
    assert ["error", "error", "failed", "passed", "error", "error"] == [one["status"] for one in document["studies"]]
    assert [str(studies / "g_quiet.yaml")] == document["without"]
    assert [f"simserve: error: {one['error']}" for one in document["studies"] if one["error"]] == errors
    assert f"{studies}/a_bad_name.yaml:10: expect.ttft_ms.p9: no run has a metric 'ttft_ms.p9'; did you" in errors[0]
    assert f"{studies}/b_not_yaml.yaml:" in errors[1]
    assert "l40s does not compute in nvfp4" in errors[2]
    assert "x.csv: no such file" in errors[3]
    root = ElementTree.parse(studies / "out.xml").getroot()
    assert ("6", "1", "4") == tuple(root.get(key) for key in ("tests", "failures", "errors"))
    assert [line.removeprefix("simserve: error: ") for line in errors] == [e.get("message") for e in root.iter("error")]
    (failure,) = root.iter("failure")
    assert "the SLO is met, which was not expected" == failure.get("message")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("x"), "internal error: KeyError: 'x'; please report it"),
        (MemoryError(), "out of memory; ask for fewer requests or a smaller space"),
    ],
)
def test_a_bug_in_one_study(
    error: Exception, line: str, studies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other studies are checked all the same; one line without a traceback."""
    play = runner.play

    def broken(inputs: runner.Inputs) -> object:
        if inputs.study.name == "a":
            raise error
        return play(inputs)

    monkeypatch.setattr(runner, "play", broken)
    study(studies, "a", "  slo_met: true\n")
    study(studies, "b", "  slo_met: true\n")
    code, document, errors = checked(capsys, studies)

    assert (2, ["error", "passed"]) == (code, [one["status"] for one in document["studies"]])
    assert len(errors) == 1
    assert line in errors[0]


def test_ctrl_c_ends_all(
    studies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No study is an error for it, and the next is not begun."""

    def interrupted(inputs: runner.Inputs) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "play", interrupted)
    study(studies, "a", "  slo_met: true\n")

    assert command.INTERRUPTED == main(["check", str(studies)])
    assert "error" not in capsys.readouterr().err


def test_the_tables(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measured, expected, how far off, and the reason in words; a line for all of it."""
    study(studies, "tiny", "  slo_met: true\n  ttft_ms.p90: {max: 1}\n")
    code = main(["check", str(studies), "--requests", "20"])
    shown = capsys.readouterr().out

    assert 1 == code
    assert "tiny.yaml: 1 x l40s TP1 bf16, 8192 tokens, 256 seqs" in shown
    assert "note: 20 of the study's 60 requests" in shown
    assert re.search(r"ttft_ms.p90 +at most 1 +[0-9.]+ +[0-9.e+]+ % +failed", shown)
    assert re.search(r"failed ttft_ms.p90: ttft_ms.p90 is [0-9.]+, above the bound 1 by [0-9.]+ \([0-9.e+]+ %\)", shown)
    assert re.search(r"1 study: 1 passed, 1 failed \([0-9.]+ s\)", shown)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "studies: no such file or folder"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["."], "no study with an 'expect' section, so nothing was checked"),
        ([".", "--jobs", "-1"], "--jobs"),
        ([".", "--junit", "nowhere/out.xml"], "nowhere/out.xml: cannot write"),
        (["quickstar"], "unknown study 'quickstar'; did you mean 'quickstart'?"),
    ],
)
def test_bad_options(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2 and one line; nothing to check is no success."""
    monkeypatch.chdir(tmp_path)

    assert 2 == main(["check", *arguments])
    (found,) = capsys.readouterr().err.splitlines()
    assert line in found


def test_as_a_command(studies: Path) -> None:
    """The real process: exit codes 0, 1, 2 and 2 again where both an expectation and a file are wrong."""
    codes = []
    for name, expect in (("a", "  slo_met: true\n"), ("b", "  slo_met: false\n"), ("c", "  slo: true\n")):
        path = study(studies, name, expect)
        done = subprocess.run([sys.executable, "-m", "simserve", "check", path], capture_output=True, check=False)
        codes.append(done.returncode)
        assert b"Traceback" not in done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "simserve", "check"], cwd=studies.parent, capture_output=True, text=True, check=False
    )

    assert [0, 1, 2, 2] == [*codes, done.returncode]
    assert "3 studies: 1 passed, 1 failed; 1 could not be checked" in done.stdout


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """And what an `expect` section may hold."""
    assert 0 == main(["check", "--help"])
    shown = " ".join(capsys.readouterr().out.split())

    assert "Exit codes: 0, all expectations hold; 1, one does not; 2, a study or an option is wrong" in shown
    assert all(word in shown for word in ("slo_met:", "winner:", "ties:", "baseline:", "tolerance:"))


def test_the_workflow_in_the_docs(
    studies: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is YAML with steps in order, and its command writes the report that its last step reads."""
    page = (ROOT / "docs" / "howto" / "check.md").read_text()
    (block,) = re.findall(r"```yaml\n(# \.github/workflows/.*?)```", page, re.DOTALL)
    steps = yaml.safe_load(block)["jobs"]["check"]["steps"]
    (run,) = [step["run"] for step in steps if step.get("run", "").startswith("simserve check")]
    reports = [step["with"]["path"] for step in steps if "path" in step.get("with", {})]
    study(studies, "tiny", "  slo_met: true\n")
    monkeypatch.chdir(studies.parent)

    assert 0 == main(shlex.split(run)[1:])
    assert reports
    assert all(ElementTree.parse(report).getroot().get("tests") == "1" for report in reports)
    assert ["checkout", "setup-python"] == [step["uses"].split("@")[0].split("/")[1] for step in steps[:2]]


def test_the_studies_of_the_repository_name_their_baselines() -> None:
    """Those whose data is here expect something; no baseline is left over. `make test` checks them in full."""
    named = set()
    for name in ("quickstart", "distserve"):
        expect = yaml.safe_load((ROOT / "studies" / f"{name}.yaml").read_text())["expect"]
        named.add(ROOT / "studies" / expect["baseline"])

    assert named == set((ROOT / "studies" / "baselines").iterdir())
