"""Help in one form: what a command does, its options, and examples that can be copied into a shell as they stand.

A command's docstring (a group's help text) ends with

    Examples:
      # what it does
      simserve search quickstart
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from simserve.errors import SpecError

F = TypeVar("F", bound=Callable[..., Any])
HEADING = "Examples:"
# What people type for a command that has another name, and what to type instead.
INSTEAD = {
    "run": "`simserve simulate STUDY` plays one deployment, `simserve search STUDY` finds the best one",
    "list": "`simserve models list`, `simserve hw list` (GPUs), `simserve perfdb list` (kernel tables), "
    "`simserve explain` (schedulers and routers), `simserve reproduce --list` (paper studies)",
    "gpus": "`simserve hw list` lists the GPUs",
    "model": "`simserve models list` lists the models",
    "new": "`simserve init` writes a study",
    "version": "`simserve --version` prints the version",
    "optimize": "`simserve search` finds the best deployment",
    "bench": "`simserve simulate` plays one deployment, `simserve validate` holds predictions against measurements",
}


def split(text: str | None) -> tuple[str, list[tuple[str, str]]]:
    """(what a help text says, its examples as (command, what it does))."""
    said, _, listed = inspect.cleandoc(text or "").partition(f"\n{HEADING}\n")
    lines = [line.strip() for line in listed.splitlines() if line.strip()]
    return said.strip(), [(command, what.lstrip("# ")) for what, command in pairwise(lines) if what[0] == "#"]


class _Examples:
    """What the two classes of typer have in common here."""

    help: str | None
    examples: list[tuple[str, str]]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.help, self.examples = split(self.help)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of typer, then the examples."""
        super().format_help(ctx, formatter)  # type: ignore[misc]
        if not self.examples:
            return
        lines = [line for command, what in self.examples for line in (typer.style(f"  # {what}", dim=True),
                                                                       f"  {command}")]  # fmt: skip
        text = "\n".join([f" {typer.style(HEADING, bold=True)}", *lines, ""])
        # Without rich typer writes to the formatter, with it straight to the terminal.
        if formatter.getvalue():
            formatter.write(f"\n{text}")
        else:
            typer.echo(text)


class Command(_Examples, TyperCommand):
    """A command with examples."""


class Group(_Examples, TyperGroup):
    """A group with examples, which knows what some words mean that are no commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """SpecError with what to type for a word of INSTEAD."""
        if ctx.parent is None and args and args[0] not in self.commands and args[0].lower() in INSTEAD:
            raise SpecError(f"there is no command {args[0]!r}; {INSTEAD[args[0].lower()]}")
        return super().resolve_command(ctx, args)


class App(typer.Typer):
    """A typer app whose commands have examples."""

    def __init__(self, **options: Any) -> None:
        super().__init__(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """As typer's, with the class above."""
        return super().command(name, cls=Command, **options)


def help_of(
    context: typer.Context,
    words: list[str] | None = typer.Argument(None, metavar="[COMMAND]...", help="A command; none: all of them."),
) -> None:
    """Print the help of a command.

    Examples:
      # all commands
      simserve help
      # one of them
      simserve help search
      # one of a group
      simserve help perfdb query
    """
    at: Any = context.parent
    for word in words or []:
        if not isinstance(at.command, TyperGroup):
            raise SpecError(f"`{at.command_path}` has no commands of its own", value=word)
        found: Any = at.command.resolve_command(at, [word])
        at = typer.Context(found[1], info_name=found[0], parent=at)
    typer.echo(at.get_help())
