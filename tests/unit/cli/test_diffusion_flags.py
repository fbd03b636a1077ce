"""A diffusion model described by options alone: the workload, the schedulers and the space are those of its kind."""

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.cli.main import main

FLAGS = ["--model", "GSAI-ML/LLaDA-8B-Instruct", "--gpu", "l40s", "--isl", "200", "--osl", "64", "--requests", "12"]


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


def test_simulate_takes_the_paper_s_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    """One position a step of each request: 64 positions, 64 passes."""
    found = run(["simulate", *FLAGS, "--rate", "1"], capsys)

    assert found["runs"][0]["deployment"]["scheduler"] == "dllm_serve"
    assert found["provenance"]["study"]["workload"]["kind"] == "diffusion"
    assert found["runs"][0]["metrics"]["diffusion"]["tokens_per_step"] == 1.0


def test_search_looks_through_the_schedulers_that_serve_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three with their limits, on up to two GPUs."""
    found = run(
        ["search", *FLAGS, "--rate", "1", "--gpus", "2", "--trials", "6", "--e2e", "8000", "--no-html",
         "-o", str(tmp_path / "out"), "--jobs", "1"], capsys,
    )  # fmt: skip
    space = found["provenance"]["study"]["search"]["space"]

    assert space["scheduler"] == ["dllm_serve", "fast_dllm", "sangam"]
    assert {run["deployment"]["scheduler"] for run in found["runs"]} <= set(space["scheduler"])
    assert {run["deployment"]["replicas"] for run in found["runs"]} <= {1, 2}
    assert found["recommended"] is not None


@pytest.mark.parametrize(("name", "value"), [("--tp", "2"), ("--mode", "disaggregated"), ("--engine", "vllm")])
def test_what_is_of_other_models_is_refused(name: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line with the option."""
    found = complaint(["search", *FLAGS, "--rate", "1", name, value], capsys)
    assert f"{name}: diffusion models are served by one pool, on one GPU a replica (got '{value}')" in found


def test_a_scheduler_of_other_models_says_who_serves_it(capsys: pytest.CaptureFixture[str]) -> None:
    """By name."""
    assert "those who serve it are dllm_cache, dllm_serve" in complaint(
        ["simulate", *FLAGS, "--rate", "1", "--scheduler", "vllm"], capsys
    )
