"""The checkpoint that was asked for is the one that is priced and served."""

import json
from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.spec.model import load_model

LOAD = ["--rate", "2", "--isl", "100", "--osl", "10", "--requests", "20"]


def simulated(model: str, tmp_path: Path, *more: str) -> tuple[int, dict[str, object]]:
    """Exit code, and the run of the JSON document."""
    out = tmp_path / "out.json"
    code = main(["simulate", "--model", model, "--gpu", "h200_sxm", *LOAD, *more, "--json", str(out)])
    return code, json.loads(out.read_text())["runs"][0] if out.exists() else {}


def test_an_alias_keeps_its_name_and_the_layers_of_its_family() -> None:
    """`-Instruct` has the layers of the base model."""
    base, instruct = load_model("meta-llama/Llama-3.1-8B"), load_model("llama-3.1-8b-instruct")

    assert "meta-llama/Llama-3.1-8B-Instruct" == instruct.name
    assert base == instruct.model_copy(update={"name": base.name})


def test_an_fp8_checkpoint_is_priced_and_launched_as_fp8(tmp_path: Path) -> None:
    """No flag needed; vLLM reads the quantisation from the checkpoint."""
    code, run = simulated("Qwen/Qwen3-32B-FP8", tmp_path)
    deployment, launch = run["deployment"], str(run["launch"])

    assert (0, "fp8_block") == (code, deployment["dtype"])  # type: ignore[index]
    assert "vllm serve Qwen/Qwen3-32B-FP8 " in launch
    assert "--quantization" not in launch


def test_an_fp8_checkpoint_in_16_bit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to set."""
    code, _ = simulated("Qwen/Qwen3-32B-FP8", tmp_path, "--dtype", "bf16")

    assert 2 == code
    assert "simserve: error: the weights of Qwen/Qwen3-32B-FP8 are fp8: set dtype to fp8\n" == capsys.readouterr().err
