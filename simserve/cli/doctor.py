"""`simserve doctor`: is everything there that simserve needs, and what to do about what is not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from simserve.asked.unexpected import DEBUG
from simserve.errors import SimserveError, SpecError
from simserve.paths import DATA_KINDS, data_dirs
from simserve.report.console import make_console
from simserve.version import __version__

PROBLEM = 1
LEAST_PYTHON = (3, 11)
LITTLE_MEMORY_GIB = 4
NARROW = 80  # columns, below which tables wrap
DATA = "SIMSERVE_DATA"
_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}
NEEDED = ("simpy", "numpy", "pandas", "scipy", "optuna", "yaml", "pyarrow", "pydantic", "typer", "rich", "joblib")
# Extra of pyproject.toml -> (what it is for, what it installs).
EXTRAS = {
    "report": ("report.html and pictures", ("plotly", "matplotlib")),
    "ui": ("simserve in a browser", ("fastapi", "uvicorn", "plotly")),
    "ray": ("searches on a cluster", ("ray",)),
    "postgres": ("trials on a PostgreSQL server", ("psycopg",)),
    "gp": ("the sampler gp", ("torch",)),
    "notebook": ("notebooks", ("jupyterlab", "ipywidgets")),
    "aiconfigurator": ("measured serving points, and building tables", ("aiconfigurator_core",)),
}
# Where `--install-completion` leaves its script, by shell.
COMPLETIONS = {
    "bash": ".bash_completions/simserve.sh",
    "zsh": ".zfunc/_simserve",
    "fish": ".config/fish/completions/simserve.fish",
}
STUDY = {
    "name": "doctor", "model": "meta-llama/Llama-3.1-8B", "slo": {"ttft_ms": 1000, "tpot_ms": 100},
    "deployment": {"gpu": "h100_sxm"},
    "workload": {"arrivals": {"kind": "poisson", "rate_rps": 4}, "requests": 20,
                 "prompt_tokens": {"kind": "fixed", "value": 300}, "output_tokens": {"kind": "fixed", "value": 20}},
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One line of the table; do: what to do about it, '' for nothing."""

    check: str
    status: Literal["ok", "note", "problem"]
    found: str
    do: str = ""


def doctor(
    json_out: Annotated[
        str | None,
        typer.Option("--json", metavar="OUT", help="Write the table to OUT; '-' prints it as JSON instead."),
    ] = None,
) -> None:
    """Check Python, packages, data, folders and the shell, and simulate a little; say what to do about what is wrong.

    Exit codes: 0, all works (a note is no problem); 1, something does not.

    Examples:
      # a table
      simserve doctor
      # for a bug report or a program
      simserve doctor --json -
    """
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out)
    findings = [finding for name, check in CHECKS.items() for finding in _tried(name, check)]
    text = to_json({"version": __version__, "findings": [asdict(finding) for finding in findings]})
    if json_out == "-":
        typer.echo(text, nl=False)
    else:
        _print(findings)
        if json_out is not None:
            write_atomic(Path(json_out), text)
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(PROBLEM)


def _tried(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that fails is a problem, whatever it is."""
    try:
        yield from check()
    except SimserveError as error:
        yield Finding(name, "problem", " ".join(str(error).split()), "mend that file, or install simserve anew")
    except Exception as error:
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        yield Finding(name, "problem", " ".join(said.split()), f"install simserve anew; {DEBUG}=1 shows where")


def _python() -> Iterator[Finding]:
    fits = sys.version_info >= LEAST_PYTHON
    wanted = ".".join(map(str, LEAST_PYTHON))
    yield Finding("Python", "ok" if fits else "problem", f"{platform.python_version()} at {sys.executable}",
                  "" if fits else f"install Python {wanted} or newer")  # fmt: skip
    on_path = shutil.which("simserve")
    place = Path(__file__).resolve().parents[1]
    yield Finding("simserve", "ok" if on_path else "note", f"{__version__} at {place}",
                  "" if on_path else "`simserve` is not on the path: activate its environment, or type "
                  f"`{sys.executable} -m simserve`")  # fmt: skip
    missing = [name for name in NEEDED if find_spec(name) is None]
    yield Finding("packages", "problem" if missing else "ok", f"missing: {', '.join(missing)}" if missing else
                  "all that simserve needs", "pip install simserve, which brings them" if missing else "")  # fmt: skip


def _data() -> Iterator[Finding]:
    from simserve.perf.store import list_tables
    from simserve.spec.hardware import gpu_names, host_names, link_names, load_gpu, load_host, load_link
    from simserve.spec.model import load_model, model_names

    for kind in DATA_KINDS:
        if not data_dirs(kind):
            yield Finding(kind, "problem", "no such data folder", "install simserve anew: its data is missing")
    models = [load_model(name).name for name in model_names()]
    yield Finding("models", "ok" if models else "problem", f"{len(models)} read")
    for names, load in ((host_names(), load_host), (link_names(), load_link)):
        for name in names:
            load(name)
    gpus = [load_gpu(name).name for name in gpu_names()]
    yield Finding("hardware", "ok" if gpus else "problem", f"{len(gpus)} GPUs, {len(host_names())} hosts, "
                  f"{len(link_names())} links read")  # fmt: skip
    tables = list_tables()
    measured = {table.device.partition("/")[0] for table in tables}
    yield Finding("kernel tables", "ok" if tables else "problem", f"{len(tables)} tables; measured GPUs: "
                  f"{', '.join(gpu for gpu in gpus if gpu in measured)}")  # fmt: skip
    if others := [gpu for gpu in gpus if gpu not in measured]:
        yield Finding("other GPUs", "note", f"priced from a relative's tables: {', '.join(others)}",
                      "measure yours with `simserve perfdb collect`")  # fmt: skip


def _extras() -> Iterator[Finding]:
    for extra, (purpose, modules) in EXTRAS.items():
        missing = [name for name in modules if find_spec(name) is None]
        found = f"{purpose}: {'not installed' if missing else 'installed'}"
        yield Finding(f"extra {extra}", "note" if missing else "ok", found,
                      f"pip install 'simserve[{extra}]'" if missing else "")  # fmt: skip


def _machine() -> Iterator[Finding]:
    import tempfile  # slow to import for who asks for help

    from simserve.cli.search import RESULTS
    from simserve.explore.executors import cpus

    folder = RESULTS if RESULTS.is_dir() else Path()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".simserve."):
            pass
        yield Finding("results folder", "ok", f"{RESULTS.resolve()} can be written")
    except OSError as error:
        yield Finding("results folder", "problem", f"{folder.resolve()}: {error.strerror or error}",
                      "change to another folder, or name one with -o")  # fmt: skip
    gib = _memory_gib()
    few = gib is not None and gib < LITTLE_MEMORY_GIB
    memory = "" if gib is None else f", {gib:.0f} GiB of memory"
    yield Finding("machine", "note" if few else "ok", f"{cpus()} CPUs{memory}",
                  "search with --jobs 1, or with fewer --requests" if few else "")  # fmt: skip
    yield _terminal()


def _memory_gib() -> float | None:
    """Memory of the machine, or of the control group that this process is in."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        limit = "max"
    return float(min(total, int(limit)) if limit.isdecimal() else total) / (1 << 30)


def _terminal() -> Finding:
    encoding = sys.stdout.encoding or "ascii"
    if not encoding.lower().replace("-", "").startswith("utf"):
        return Finding("terminal", "note", f"encoding {encoding}", "set PYTHONUTF8=1 for the lines of tables")
    if not sys.stdout.isatty():
        return Finding("terminal", "ok", f"none here (a pipe or a file), {encoding}")
    columns = shutil.get_terminal_size().columns
    narrow = columns < NARROW
    return Finding("terminal", "note" if narrow else "ok", f"{columns} columns, {encoding}",
                   f"tables are easier to read in {NARROW} columns and more" if narrow else "")  # fmt: skip


def _environment() -> Iterator[Finding]:
    roots = [Path(word).expanduser() for word in os.environ.get(DATA, "").split(os.pathsep) if word]
    if not roots:
        yield Finding(DATA, "ok", "not set: the data that came with simserve")
    for root in roots:
        kinds = [kind for kind in DATA_KINDS if (root / kind).is_dir()]
        yield Finding(DATA, "ok" if kinds else "problem", f"{root}: {', '.join(kinds) or 'has no data folder'}",
                      "" if kinds else f"make one of {', '.join(DATA_KINDS)} in it, or unset {DATA}")  # fmt: skip
    if os.environ.get(DEBUG):
        yield Finding(DEBUG, "note", "set: errors that nobody expected print a traceback", f"unset {DEBUG}")


def _simulation() -> Iterator[Finding]:
    from simserve.explore.runner import play, prepare
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec

    begun = time.perf_counter()
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None)
    done = int((play(inputs).trace.requests["finish_ns"] >= 0).sum())
    if done != len(inputs.workload):
        raise SpecError(f"{done} of {len(inputs.workload)} requests finished")
    yield Finding("simulation", "ok", f"{done} requests in {time.perf_counter() - begun:.1f} s")


def _completion() -> Iterator[Finding]:
    shell = Path(os.environ.get("SHELL", "")).name
    place = COMPLETIONS.get(shell)
    if place is None:
        yield Finding("completion", "note", f"shell {shell or 'unknown'}", "simserve --show-completion prints a script")
        return
    there = (Path.home() / place).is_file()
    yield Finding("completion", "ok" if there else "note", f"{shell}: {'' if there else 'not '}installed",
                  "" if there else "simserve --install-completion")  # fmt: skip


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Python": _python, "data": _data, "extras": _extras, "machine": _machine, "environment": _environment,
    "simulation": _simulation, "completion": _completion,
}  # fmt: skip


def _print(findings: list[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD)
    for header in ("", "check", "found", "what to do"):
        shown.add_column(header, no_wrap=header in ("", "check"))
    for finding in findings:
        shown.add_row(Text(finding.status, style=_COLORS[finding.status]), finding.check, Text(finding.found),
                      Text(finding.do))  # fmt: skip
    console = make_console()
    console.print(shown)
    count = {status: sum(f.status == status for f in findings) for status in _COLORS}
    console.print(f"{count['ok']} ok, {count['note']} notes, {count['problem']} problems", highlight=False)
