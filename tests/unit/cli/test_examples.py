"""Help: every command has examples in one form, and they are commands that simserve takes."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from simserve.cli.app import App, split
from simserve.cli.main import NAME, app, main

LEAST = 2  # examples of a command


def commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands and groups with what is typed for them."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, own in command.commands.items():
            yield from commands(own, (*path, name))


ROOT: Any = typer.main.get_command(app)
COMMANDS = dict(commands(ROOT, (NAME,)))


def examples_wrong(path: tuple[str, ...], command: Any, root: Any = ROOT) -> list[str]:
    """What is wrong with the examples of one command."""
    found = [f"{len(command.examples)} examples"] if len(command.examples) < LEAST else []
    found += [f"{line}: says not what it does" for line, what in command.examples if not what]
    return found + [f"{line}: {problem}" for line, _ in command.examples if (problem := parsed(line, path, root))]


def parsed(line: str, path: tuple[str, ...], root: Any) -> str:
    """Why simserve would not take a line, '' if it would; nothing is run."""
    words = shlex.split(line.partition(" | ")[0])
    if tuple(words[: len(path)]) != path:
        return f"is not about {' '.join(path)}"
    at, context, rest = root, None, words[1:]
    while isinstance(at, TyperGroup) and rest and rest[0] in at.commands:
        context = typer.Context(at, parent=context)
        at, rest = at.commands[rest[0]], rest[1:]
    try:
        at.make_context(at.name, rest, parent=context)
    except typer.Exit:
        return ""
    except Exception as error:
        return str(error) or repr(error)
    return ""


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_examples_that_it_takes(path: tuple[str, ...]) -> None:
    """At least two, each with a word on what it does, and options that exist."""
    assert examples_wrong(path, COMMANDS[path]) == []


def test_the_walk_finds_all() -> None:
    """Groups, their commands, and the hidden ones."""
    assert len(COMMANDS) >= 30
    assert {("simserve", "search"), ("simserve", "perfdb", "collect"), ("simserve", "help")} <= set(COMMANDS)


def test_a_wrong_example_is_found() -> None:
    """Too few, without a word, of another command, with an option or a value that does not exist."""
    mine = App()

    @mine.command("play")
    def play(rate: int = 1) -> None:
        """Play.

        Examples:
          #
          simserve play --rate 4
          # no such option
          simserve play --rte 4
          # no number
          simserve play --rate four
          # another command
          simserve search
        """

    @mine.command("stop")
    def stop() -> None:
        """Stop.

        Examples:
          # one is not enough
          simserve stop
        """

    root: Any = typer.main.get_command(mine)
    wrong = examples_wrong((NAME, "play"), root.commands["play"], root)

    assert [line.partition(": ")[0] for line in wrong] == [
        "simserve play --rate 4", "simserve play --rte 4", "simserve play --rate four", "simserve search",
    ]  # fmt: skip
    assert examples_wrong((NAME, "stop"), root.commands["stop"], root) == ["1 examples"]


def test_examples_stand_below_the_options_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each on a line of its own, with what it does above it; not once more in the text."""
    assert main(["search", "--help"]) == 0
    shown = capsys.readouterr().out

    end = shown[shown.index(" Examples:") :].splitlines()
    assert end[1:3] == ["  # the study that comes with simserve", "  simserve search quickstart"]
    assert shown.count("simserve search quickstart") == 1
    assert shown.index("--json") < shown.index(" Examples:")


@pytest.mark.parametrize("words", [["help"], ["help", "search"], ["help", "perfdb", "query"]])
def test_help_as_a_word(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`simserve help X` is `simserve X --help`."""
    assert main(words) == 0
    asked = capsys.readouterr().out
    assert main([*words[1:], "--help"]) == 0

    assert asked.split() == capsys.readouterr().out.split()


def test_help_of_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    assert main(["help", "serch"]) == 2
    assert "Did you mean 'search'?" in capsys.readouterr().err
    assert main(["help", "search", "more"]) == 2
    assert "has no commands of its own" in capsys.readouterr().err


def test_splitting_a_help_text() -> None:
    """What a command does, and its examples."""
    text = "Play it.\n\n    More.\n\n    Examples:\n      # a word\n      simserve play\n"

    assert split(text) == ("Play it.\n\nMore.", [("simserve play", "a word")])
    assert split(None) == ("", [])
