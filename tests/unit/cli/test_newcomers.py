"""What a newcomer types first does the right thing, or says in one line what to type."""

import json
from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.errors import UnknownName
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

LOAD = ["--rate", "4", "--isl", "300", "--osl", "20", "--requests", "15"]
MODEL = "--model meta-llama/Llama-3.1-8B"
WHOLE = "--gpu h100_sxm --rate 4 --isl 1000 --osl 200 --ttft 500 --tpot 50"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("search", f"`simserve init` asks a few questions and writes a study; `simserve search quickstart` plays the "
                   f"example; without a file: simserve search --model meta-llama/Llama-3.1-8B {WHOLE}"),
        ("search llama-3.1-8b", f"is a model, not a study; try: simserve search {MODEL} {WHOLE}"),
        ("search Qwen/Qwen3-32B", "is a model, not a study; try: simserve search --model Qwen/Qwen3-32B --gpu"),
        ("search llama", "'llama' is a model, not a study; try: simserve search --model meta-llama/Llama-2-7b-hf"),
        ("search --model llama-3.1-8b", f"--gpu: give at least one GPU type; try: simserve search --model llama-3.1-8b "
                                        f"{WHOLE}"),
        ("search --model Qwen3-32B --gpu h100", "--isl and --osl with --rate or --concurrency, e.g. --rate 4 --isl"),
        ("search --gpu h100", "--model: give a study file, or --model"),
        ("search --model llama --gpu h100 --rate 4 --isl 9 --osl 1", "unknown model 'llama'; it may be meta"),
        ("search --model m --gpu h100 --ttft 0.5 s", "write a duration as one word, e.g. --ttft 0.5s"),
        ("simulate", f"try: simserve simulate {MODEL} --gpu h100_sxm --rate 4 --isl 1000 --osl 200"),
        ("capacity", f"try: simserve capacity --model meta-llama/Llama-3.1-8B {WHOLE}"),
        ("run", "`simserve simulate STUDY` plays one deployment"),
        ("list", "`simserve models list`, `simserve hw list` (GPUs)"),
        ("gpus", "`simserve hw list` lists the GPUs"),
        ("serch", "Did you mean 'search'?"),
        ("search quickstrat.yaml", "quickstrat.yaml: no such file; did you mean 'quickstart'?"),
        ("search studies/quickstart.yaml", "studies/quickstart.yaml: no such file; did you mean 'quickstart'?"),
        ("search chta.yaml", "chta.yaml: no such file; did you mean 'chat.yaml'?"),
        ("search apex_t4", "`simserve reproduce apex_t4` plays it"),
        ("search blis_vllm", "`simserve validate --records blis_vllm` plays it"),
        ("simulate --model llama-3.1-8b --gpu L40 --rate 4 --isl 9 --osl 9", "unknown GPU 'L40'; did you mean 'l40s'?"),
    ],
)  # fmt: skip
def test_one_line_that_says_what_to_type(
    typed: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.yaml").touch()

    assert main(typed.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert answer in lines[0]


@pytest.mark.parametrize("typed", ["", "help", "models", "hw", "perfdb"])
def test_words_alone_list_what_there_is(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Groups list their things, simserve its commands."""
    assert main(typed.split()) == 0
    assert {"": "search", "help": "search", "models": "Qwen/Qwen3-32B", "hw": "h100_sxm"}.get(
        typed, "gemm"
    ) in capsys.readouterr().out  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "gpu"),
    [("h100", "h100_sxm"), ("H100", "h100_sxm"), ("A100", "a100_sxm"), ("a100 40gb", "a100_sxm_40gb"),
     ("4090", "rtx_4090"), ("rtx4090", "rtx_4090"), ("RTX-4090", "rtx_4090"), ("h100sxm", "h100_sxm"),
     ("B200", "b200_sxm"), ("h100/vidur", "h100_sxm/vidur"), ("l4", "l4"), ("l40-s", "l40s")],
)  # fmt: skip
def test_short_names_of_gpus(typed: str, gpu: str) -> None:
    """Where there is one natural reading."""
    assert load_gpu(typed).name == gpu


@pytest.mark.parametrize(
    ("typed", "model"),
    [("Qwen3-32B", "Qwen/Qwen3-32B"), ("llama-8b", "meta-llama/Llama-3.1-8B"),
     ("Llama3.1-8B", "meta-llama/Llama-3.1-8B"),
     ("qwen2.5-7b", "Qwen/Qwen2.5-7B"), ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
     ("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct"), ("kimi-k2", "moonshotai/Kimi-K2-Instruct"),
     ("gpt-oss-20b", "openai/gpt-oss-20b")],
)  # fmt: skip
def test_short_names_of_models(typed: str, model: str) -> None:
    """The same of models."""
    assert load_model(typed).name == model


@pytest.mark.parametrize(
    ("typed", "choices"),
    [("gpt-oss", ["openai/gpt-oss-120b", "openai/gpt-oss-20b"]), ("deepseek", ["deepseek-ai/DeepSeek-V3",
     "deepseek-ai/DeepSeek-V3.2"]), ("mistral", ["mistralai/Mistral-Nemo-Base-2407"]), ("zzz", []),
     ("llama-3.1-405b", [])],
)  # fmt: skip
def test_what_may_be_several_is_listed(typed: str, choices: list[str]) -> None:
    """A family's name alone stands for no model, be it the only one that is known."""
    with pytest.raises(UnknownName) as caught:
        load_model(typed)
    assert caught.value.choices == choices
    assert ("it may be" in str(caught.value)) == bool(choices)


def test_gpus_are_saved_by_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed short is in full in the results, and twice the same is once."""
    typed = ["--model", "llama-3.1-8b", "--gpu", "h100,H100-SXM", "--gpus", "1", *LOAD, "--trials", "1", "--no-html"]
    assert main(["search", *typed, "-o", str(tmp_path), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["provenance"]["study"]["search"]["space"]["gpu"] == ["h100_sxm"]
    assert found["runs"][0]["deployment"]["gpu"] == "h100_sxm"


@pytest.mark.parametrize(("slo", "said"), [([], True), (["--ttft", "500ms", "--tpot", "0.05s"], False)])
def test_a_search_without_an_slo_says_so(
    slo: list[str], said: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And how to give one."""
    typed = ["--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "1", *LOAD, "--trials", "1", "--no-html"]

    assert main(["search", *typed, *slo, "-o", str(tmp_path)]) == 0
    assert ("no SLO was given" in capsys.readouterr().out) == said


def test_a_trace_with_other_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As people call them."""
    trace = tmp_path / "t.csv"
    trace.write_text("arrival,input_tokens,output_tokens\n0.0,100,20\n0.5,200,10\n")
    typed = ["simulate", "--model", "llama-3.1-8b", "--gpu", "h100", "--trace", str(trace), "--json", "-"]

    assert main(typed) == 0
    workload = json.loads(capsys.readouterr().out)["provenance"]["workload"]
    assert workload["columns"] == ["arrival", "input_tokens", "output_tokens"]
    assert "licence" not in workload


@pytest.mark.parametrize(
    ("missing", "option", "there"),
    [("confg.json", "--model", "config.json"), ("trac.csv", "--trace", "trace.csv")],
)
def test_a_file_that_is_there_under_nearly_that_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str, option: str, there: str
) -> None:
    """It is named."""
    (tmp_path / there).write_text("{}")
    options = {"--model": "Qwen/Qwen3-8B", option: str(tmp_path / missing)}
    load = [] if option == "--trace" else ["--rate", "1", "--isl", "10", "--osl", "10"]
    typed = [word for pair in options.items() for word in pair]

    assert main(["search", "--gpu", "h100", *typed, *load]) == 2
    assert f"did you mean '{tmp_path / there}'?" in capsys.readouterr().err
