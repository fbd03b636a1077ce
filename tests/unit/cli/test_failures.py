"""What goes wrong says so in one line: our own bugs, exhausted resources, requests that nothing serves."""

import re
from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.explore import runner

FLAGS = ["--model", "meta-llama/Llama-3.1-8B", "--rate", "0.2", "--isl", "1000", "--osl", "20", "--requests", "20"]
TURNED_AWAY = """\
name: none
model: meta-llama/Llama-3.1-8B
workload:
  arrivals: {kind: poisson, rate_rps: 4}
  prompt_tokens: {kind: uniform, value: 1000, spread: 0.5}
  output_tokens: {kind: fixed, value: 10}
  requests: 20
deployment: {gpu: h100_sxm, max_model_len: 1000}
search: {space: {tensor_parallel_size: [1, 2]}}
"""


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def break_simulation(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every simulation raises `error`."""

    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(runner, "play", broken)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("x"), 1, "internal error: KeyError: 'x'; please report it (set SIMSERVE_DEBUG=1 for the traceback)"),
        (ValueError("a\nb"), 1, "internal error: ValueError: a b; please report it"),
        (AssertionError(), 1, "internal error: AssertionError; please report it"),
        (MemoryError(), 2, "error: out of memory; ask for fewer requests or a smaller space (MemoryError)"),
        (RecursionError("deep"), 2, "error: the input is nested too deeply (RecursionError: deep)"),
        (OverflowError("big"), 2, "error: a number is too large to compute with (OverflowError: big)"),
    ],
)
def test_the_unexpected_is_one_line(
    error: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug is ours and exit code 1, a machine or a number that is too small or large is exit code 2."""
    monkeypatch.delenv("SIMSERVE_DEBUG", raising=False)
    break_simulation(monkeypatch, error)

    assert main(["simulate", *FLAGS, "--gpu", "l4"]) == code
    assert one_line(capsys).startswith(f"simserve: {line}")


def test_the_traceback_is_there_on_demand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """SIMSERVE_DEBUG=1 shows where it happened."""
    monkeypatch.setenv("SIMSERVE_DEBUG", "1")
    break_simulation(monkeypatch, KeyError("x"))

    assert main(["simulate", *FLAGS, "--gpu", "l4"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("target", [["--json", "/nonexistent/x.json"], ["-o", "/dev/null/o"]])
def test_a_result_that_cannot_be_written_stops_the_run_before_it_begins(
    target: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after an hour of simulation."""
    break_simulation(monkeypatch, AssertionError("simulated"))

    assert main(["simulate", *FLAGS, "--gpu", "l4", *target]) == 2
    assert target[1] in one_line(capsys)


def test_requests_turned_away_without_an_slo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No bound is missed, and still nothing can be recommended."""
    path = tmp_path / "none.yaml"
    path.write_text(TURNED_AWAY)

    assert main(["search", str(path), "-o", str(tmp_path / "o")]) == 2
    end = r"it turned away (\d+) requests that exceed its KV cache or its max_model_len of 1000$"
    found = re.search(end, one_line(capsys))
    assert found is not None
    assert 0 < int(found[1]) < 20


def test_recommended_command_caps_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a GPU whose KV cache holds less than the model's context, vLLM would refuse to start without it."""
    code = main(["search", *FLAGS, "--gpu", "l4,a10g,rtx_4090", "--gpus", "2", "--trials", "2", "-o", str(tmp_path)])

    assert (code, " --max-model-len " in capsys.readouterr().out) == (0, True)
    assert " --max-model-len " in (tmp_path / "launch.sh").read_text()


def test_one_token_outputs_have_no_tpot(capsys: pytest.CaptureFixture[str]) -> None:
    """A dash, not a 0 that meets its bound."""
    flags = [*FLAGS[:6], "--osl", "1", "--requests", "20", "--tpot", "30"]

    assert main(["simulate", *flags, "--gpu", "h100_sxm"]) == 0
    shown = capsys.readouterr().out
    assert "- (bound 30)" in shown
    assert "KV cache in use: " in shown


def test_tables_name_what_they_were_measured_with(capsys: pytest.CaptureFixture[str]) -> None:
    """Framework and version of every source, each once."""
    main(["perfdb", "list"])
    shown = capsys.readouterr().out

    assert "vllm" in shown
    assert "nccl" in shown
