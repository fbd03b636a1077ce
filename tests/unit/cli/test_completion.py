"""Shell completion: what it offers is what there is, quickly, and bash, zsh and fish get it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from simserve.check.papers import paper_files
from simserve.cli import complete
from simserve.explore.objective import OBJECTIVES
from simserve.perf.store import FAMILIES, devices
from simserve.policies import EVICTIONS, ROUTERS
from simserve.report.launch import FRAMEWORKS
from simserve.spec.deployment import Dtype, KvCacheDtype
from simserve.spec.hardware import gpu_names, host_names, link_names
from simserve.spec.model import model_names
from simserve.spec.study import EngineName, Mode, Objective
from simserve.spec.workload import TraceSpec
from simserve.systems import SCHEDULERS, SYSTEMS

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """\
eval "$(simserve --show-completion)"
answer() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _simserve_completion simserve; echo "${{COMPREPLY[@]}}"; }}
answer {words}
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `simserve` is on the path."""
    folder = tmp_path_factory.mktemp("bin")
    command = folder / "simserve"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m simserve "$@"\n')
    command.chmod(0o755)
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(home)}


def in_shell(name: str, script: str, env: dict[str, str], cwd: Path) -> str:
    """What a script prints; skipped where there is no such shell."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    path = cwd / f"script.{name}"
    path.write_text(script)
    quiet = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    return subprocess.run(
        [name, *quiet, str(path)], env=env, cwd=cwd, capture_output=True, text=True, check=True
    ).stdout  # fmt: skip


def test_names_are_those_that_there_are() -> None:
    """Read from files, as the catalogues and registries find them."""
    assert complete.models("") == sorted(model_names())
    assert complete.gpus("") == gpu_names()
    assert complete.hardware("") == sorted([*gpu_names(), *host_names(), *link_names()])
    assert complete.schedulers("") == SCHEDULERS.names()
    assert complete.routers("") == ROUTERS.names()
    assert complete.explained("") == sorted(
        {*SCHEDULERS.names(), *SYSTEMS.names(), *ROUTERS.names(), *EVICTIONS.names()}
    )
    assert complete.devices("") == sorted(devices())
    assert set(complete.families("")) <= set(FAMILIES)


def test_words_are_those_of_the_specs() -> None:
    """Kept beside the specs for speed, so held against them here."""
    assert get_args(Objective) == complete.OBJECTIVES == tuple(OBJECTIVES)
    assert (*get_args(Mode), "both") == complete.MODES
    assert get_args(EngineName) == complete.ENGINES
    assert get_args(Dtype) == complete.DTYPES
    assert get_args(KvCacheDtype) == complete.KV_DTYPES
    assert get_args(TraceSpec.model_fields["format"].annotation) == complete.TRACE_FORMATS
    assert tuple(FRAMEWORKS) == complete.FRAMEWORKS


def test_studies_and_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped ones by name, and the YAML files here; papers apart."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").write_text("")
    (tmp_path / "quick.txt").write_text("")

    assert complete.studies("qui") == ["quick.yaml", "quickstart"]
    assert complete.papers("neo") == ["neo_a10g_cpu_sweep", "neo_t4"]
    assert set(paper_files()) < set(complete.papers(""))
    assert complete.records("blis") == ["blis_vllm"]
    assert complete.studies("studies/q") == []  # the shell completes paths


@pytest.mark.parametrize(
    ("complete_it", "typed", "offered"),
    [(complete.models, "qwen3-3", ["qwen3-30B-A3B", "qwen3-32B"]), (complete.models, "openai/", ["openai/gpt-oss-120b",
     "openai/gpt-oss-20b"]), (complete.gpus, "h100_sxm,l4", ["h100_sxm,l4", "h100_sxm,l40s"]),
     (complete.gpus, "H1", ["H100_sxm"]), (complete.schedulers, "vllm", ["vllm", "vllm_v0"]),
     (complete.one_of("a", "b"), "c", [])],
)  # fmt: skip
def test_what_is_offered(complete_it: complete.Completer, typed: str, offered: list[str]) -> None:
    """Everything begins as it was typed, for shells drop what does not; after a comma the last word."""
    assert complete_it(typed) == offered


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("simserve se", "search sensitivity"),
        ("simserve search --model openai/", "openai/gpt-oss-120b openai/gpt-oss-20b"),
        ("simserve search --gpu h1", "h100_sxm"),
        ("simserve search qu", "quickstart"),
        ("simserve search --ob", "--objective"),
        ("simserve simulate --router least_l", "least_loaded"),
        ("simserve reproduce flex", "flexgen_t4"),
        ("simserve explain epd_", "epd_serve"),
        ("simserve perfdb show h100_sxm gem", "gemm"),
    ],
)
def test_bash_completes(words: str, expected: str, shell: dict[str, str], tmp_path: Path) -> None:
    """The script that is shown, sourced in bash."""
    assert in_shell("bash", SCRIPT.format(words=words), shell, tmp_path).split() == expected.split()


def test_fish_completes(shell: dict[str, str], tmp_path: Path) -> None:
    """The same in fish."""
    script = 'simserve --show-completion | source\ncomplete -C "simserve search --gpu h1"\n'

    assert in_shell("fish", script, shell, tmp_path).split() == ["h100_sxm"]


def test_zsh_gets_a_script_and_answers(shell: dict[str, str], tmp_path: Path) -> None:
    """Its completion system needs a terminal, so here the function that the script defines, and what it evaluates."""
    script = """\
compdef() { :; }
compinit() { :; }
eval "$(simserve --show-completion)"
whence _simserve_completion
_TYPER_COMPLETE_ARGS="simserve search --gpu h1" _SIMSERVE_COMPLETE=complete_zsh simserve
"""
    assert in_shell("zsh", script, shell, tmp_path).splitlines() == [
        "_simserve_completion", """_arguments '*: :(("h100_sxm"))'""",
    ]  # fmt: skip


def test_bash_installs_it(shell: dict[str, str], tmp_path: Path) -> None:
    """Into the home folder, where `simserve doctor` finds it."""
    assert "bash completion installed" in in_shell("bash", "simserve --install-completion; true", shell, tmp_path)
    assert (Path(shell["HOME"]) / ".bash_completions" / "simserve.sh").is_file()


def test_completing_imports_nothing_heavy() -> None:
    """All of the functions, in a process of their own."""
    heavy = ["numpy", "pandas", "scipy", "optuna", "pydantic", "pyarrow", "simpy", "yaml", "simserve.systems"]
    names = ["models", "gpus", "hardware", "schedulers", "routers", "explained", "studies", "papers", "records",
             "devices", "families"]  # fmt: skip
    code = (f"import sys, simserve.cli.main; from simserve.cli import complete\n"
            f"for name in {names!r}: assert getattr(complete, name)('') != [], name\n"
            f"print([m for m in {heavy!r} if m in sys.modules])")  # fmt: skip
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "[]"
