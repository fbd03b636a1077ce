"""The command line's reference, from the commands' own help."""

from __future__ import annotations

from typing import Any, get_args

import typer

from docsgen.markdown import cell, code, prose, table
from simserve.cli.main import app

OPTION_HEAD = ("option", "value", "default", "meaning")


def commands() -> dict[str, Any]:
    """'search' or 'perfdb list' -> the command, in the order of the help."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        else:
            found |= {f"{name} {sub}": own for sub, own in inner.items()}
    return {name: command for name, command in found.items() if not command.hidden}


def reference() -> str:
    """What `simserve` itself takes, then all commands."""
    top = typer.main.get_command(app)
    own = [table(OPTION_HEAD, _option_rows(top)), "", *_examples(top)]
    return "\n".join([*own, *(_section(name, command) for name, command in commands().items())])


def one_command(*words: str) -> str:
    """One command where it exists; else what there is to say of that."""
    name = " ".join(words)
    found = commands()
    if name not in found:
        return f"This version of simserve has no command `{name}`."
    return "\n".join(_body(name, found[name]))


def _section(name: str, command: Any) -> str:
    return "\n".join([f"## simserve {name}", "", *_body(name, command)])


def _body(name: str, command: Any) -> list[str]:
    lines = [*_help(command.help or ""), ""]
    arguments = [p for p in command.params if type(p).__name__.endswith("Argument")]
    words = " ".join(f"{p.name.upper()}" if p.required else f"[{p.name.upper()}]" for p in arguments)
    lines += ["```text", f"simserve {name} [OPTIONS] {words}".rstrip(), "```", ""]
    if arguments:
        rows = [(code(p.name.upper()), cell(p.help or "")) for p in arguments]
        lines += [table(("argument", "meaning"), rows), ""]
    rows = _option_rows(command)
    if rows:
        lines += [table(OPTION_HEAD, rows), ""]
    return [*lines, *_examples(command)]


def _option_rows(command: Any) -> list[tuple[str, str, str, str]]:
    options = [p for p in command.params if not type(p).__name__.endswith("Argument") and not p.hidden]
    return [(_flags(p), _kind(p), _default(p), cell(p.help or "")) for p in options]


def _examples(command: Any) -> list[str]:
    """The examples of a command's help, where it has some, as a block of code."""
    lines = [line for example, what in getattr(command, "examples", ()) for line in (f"# {what}", f"$ {example}")]
    return ["```console", *lines, "```", ""] if lines else []


def _help(text: str) -> list[str]:
    """Paragraphs; those that are commands as code."""
    lines: list[str] = []
    for paragraph in text.replace("\b", "").strip().split("\n\n"):
        shown = paragraph.strip("\n")
        if shown.strip().startswith(("simserve ", "$ ")):
            lines += ["```console", *(f"$ {line.strip().removeprefix('$ ')}" for line in shown.splitlines()), "```", ""]
        else:
            lines += [prose(shown), ""]
    return lines


def _flags(option: Any) -> str:
    return " ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))


def _kind(option: Any) -> str:
    if option.is_flag:
        return ""
    kind = getattr(getattr(option, "type_descriptor", None), "annotation", str)
    inner = get_args(kind)
    name = getattr(inner[0] if inner else kind, "__name__", str(kind)).lower()
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    bounds = "".join(f" {sign} {end:g}" for sign, end in ((">=", low), ("<=", high)) if end is not None)
    return f"{name}{bounds}{', repeatable' if option.multiple else ''}"


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, False, ()) or callable(value) else code(value)
