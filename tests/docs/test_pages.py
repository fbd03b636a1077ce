"""The sources of pages and README: commands exist, YAML is what it says, links of the README resolve, examples run."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from docsgen.accuracy import headline
from docsgen.cli import commands
from docsgen.markdown import anchor

from simserve.accuracy.records import RecordsSpec
from simserve.cli.main import main
from simserve.errors import SpecError
from simserve.spec.base import Spec, parse
from simserve.spec.hardware import GpuSpec
from simserve.spec.study import StudySpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- yaml: (\w+) -->\n)?^( *)```(\w+)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
COMPLETE = {
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1}, "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 100}, "requests": 10,
    },
}  # fmt: skip


def blocks(text: str, language: str) -> Iterator[tuple[str, str]]:
    """(mark, content) of the code blocks in a language, snippets filled in."""
    for mark, _, found, content in BLOCK.findall(text):
        if found == language:
            yield mark, SNIPPET.sub(lambda name: snippet(name[1]), content)


def snippet(name: str) -> str:
    """A file that a page shows whole."""
    places = [ROOT / "docs" / "examples" / name, ROOT / "studies" / name]
    return next(path for path in places if path.is_file()).read_text(encoding="utf-8")


def over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping over another, key by key."""
    both = {
        key: over(base[key], value) if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) else value
        for key, value in own.items()
    }  # fmt: skip
    return {**base, **both}


def problem(mark: str, content: str) -> str:
    """What is wrong with a YAML block; a fragment is put over a complete study."""
    data = yaml.safe_load(content)
    kinds: dict[str, tuple[type[Spec], Any]] = {
        "": (StudySpec, data), "fragment": (StudySpec, over(COMPLETE, data) if mark == "fragment" else data),
        "records": (RecordsSpec, data), "gpu": (GpuSpec, data),
    }  # fmt: skip
    if mark == "other":
        return ""
    spec, value = kinds[mark]
    try:
        parse(spec, value, file="block")
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_blocks_are_what_they_say(path: Path) -> None:
    """Studies, fragments of studies, records files, GPUs."""
    found = [problem(mark, content) for mark, content in blocks(path.read_text(encoding="utf-8"), "yaml")]

    assert [text for text in found if text] == []


def test_a_wrong_block_is_found() -> None:
    """A key that no study has, in a study and in a fragment."""
    assert "pruning" in problem("fragment", "search: {pruning: true}")
    assert "modle" in problem("", "modle: x")


def lines(text: str) -> Iterator[str]:
    """Commands of console blocks, continued lines joined; and code spans that begin with simserve."""
    for _, content in blocks(text, "console"):
        for line in content.replace("\\\n", " ").splitlines():
            if line.strip().startswith("$ "):
                yield line.strip()[2:]
    prose = BLOCK.sub("", text)
    yield from re.findall(r"`(simserve [a-z][^`]*)`", prose)


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of each command of a shell line, without the variables before it."""
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    for separator, words in groupby(tokens, key=lambda token: set(token) <= set("&|;")):
        if not separator:
            yield list(dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=\S*", word), words))


def unknown(line: str) -> list[str]:
    """Words of a shell line that the command line does not have."""
    return [word for words in commands_of(line) if words[:1] == ["simserve"] for word in wrong_words(words[1:])]


def wrong_words(words: list[str]) -> list[str]:
    """Of one command: its name, options, and files of the repository that are not there."""
    if words in ([], ["--help"], ["COMMAND", "--help"]):
        return []
    known = commands()
    name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), "")
    if not name:
        group_alone = len(words) == 1 and words[0] in {command.partition(" ")[0] for command in known}
        return [] if group_alone else [f"simserve {words[0]}"]
    options = {option for p in known[name].params for option in (*p.opts, *p.secondary_opts)} | {"-h", "--help"}
    given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    files = [word for word in words if re.match(r"(studies|docs)/", word) and not (ROOT / word).exists()]
    return [*(f"{name} {option}" for option in given if option not in options), *files]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist_with_these_options(path: Path) -> None:
    """Every `simserve ...`, in a console block or in the text."""
    found = {line: unknown(line) for line in lines(path.read_text(encoding="utf-8"))}

    assert {line: words for line, words in found.items() if words} == {}


def test_a_wrong_command_is_found() -> None:
    """An option, a command and a file that do not exist."""
    assert unknown("X=1 simserve search studies/quickstart.yaml --fast && simserve serach x") == [
        "search --fast", "simserve serach",
    ]  # fmt: skip
    assert unknown("simserve check studies/nothing.yaml") == ["studies/nothing.yaml"]


def test_links_of_the_readme_resolve() -> None:
    """Files of the repository, and headings of pages."""
    text, found = (ROOT / "README.md").read_text(encoding="utf-8"), []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = ROOT / parts.path if parts.path else ROOT / "README.md"
        headings = (
            re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if target.is_file() else []
        )
        if not target.is_file() or (parts.fragment and parts.fragment not in [anchor(h) for h in headings]):
            found.append(link)

    assert found == []


def test_the_readme_is_a_tour() -> None:
    """Short, and its figures are those of the accuracy page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert len(text.splitlines()) < 250
    assert [line for line in headline().splitlines() if line not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_have_a_rule_as_wide_as_their_head(page: Path) -> None:
    """Otherwise no table is drawn."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r" *\|[ :|-]*---[ :|-]*\|", line)]
    wide = [re.sub(r"`[^`]*`|\\\|", "", lines[i - 1]).count("|") for i in rules]
    assert [lines[i].count("|") for i in rules] == wide


def test_the_python_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The first block, run; the text below it is its output."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (_, source), (_, shown) = next(blocks(text, "python")), next(blocks(text, "text"))

    exec(compile(source, "python.md", "exec"), {})

    assert shown == capsys.readouterr().out


def test_the_example_scheduler_keeps_the_laws() -> None:
    """As the page says."""
    code = "from scheduler import ShortestFirst; from simserve.testing.conformance import check_scheduler; "
    command = [sys.executable, "-c", f"{code}print(check_scheduler(ShortestFirst))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT / "docs" / "examples", env=environment, check=False
    )

    assert (done.stdout, done.stderr) == ("50\n", "")


@pytest.mark.parametrize(("name", "option"), [("scheduler", "--scheduler"), ("router", "--router")])
def test_examples_run(name: str, option: str) -> None:
    """The commands in their headers, with fewer requests."""
    path = ROOT / "docs" / "examples" / f"{name}.py"
    header = path.read_text(encoding="utf-8").replace("\\\n", " ")
    command = re.findall(r"python (docs/examples/.*)", header)[0]
    words = [*shlex.split(command)[1:], "--requests", "40", "--no-html"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, str(path), *words], capture_output=True, text=True, env=environment, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "TTFT" in done.stdout
    assert option in words


def test_the_data_of_getting_started_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The drawn trace, the config.json and the GPU of the pages, in one simulation."""
    trace, data = tmp_path / "trace.csv", tmp_path / "data" / "hw_specs" / "gpus"
    drawn = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / "trace.py")], capture_output=True, text=True, check=True
    )
    trace.write_text(drawn.stdout, encoding="utf-8")
    data.mkdir(parents=True)
    (data / "my_l4.yaml").write_text(snippet("my_l4.yaml"), encoding="utf-8")
    config = ROOT / "docs" / "examples" / "config.json"
    words = [
        "simulate",
        "--model",
        str(config),
        "--trace",
        str(trace),
        "--requests",
        "20",
        "--gpu",
        "my_l4",
        "--no-html",
    ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMSERVE_DATA", str(tmp_path / "data"))
        assert main(words) == 0
    assert "my_l4" in capsys.readouterr().out
