"""Small parts of Markdown that the generators share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_CODE = re.compile(r"(`[^`]*`)")


def prose(text: str) -> str:
    """Plain text of a docstring as Markdown: code spans stay, what would be markup does not become any."""
    parts = _CODE.split(text)
    return "".join(part if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    return re.sub(r"([*_<\[\]])", r"\\\1", text).replace("&lt;", "\\<")


def cell(value: object) -> str:
    """Text of one cell of a table."""
    return " ".join(prose(str(value)).split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """A table; cells are Markdown. right: columns of numbers."""
    rule = ["---:" if index in right else "---" for index in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(str(part) for part in line) + " |" for line in lines)


def code(value: object) -> str:
    """A code span."""
    return f"`{value}`" if str(value) else ""


def details(title: str, body: str) -> str:
    """A block that opens on a click."""
    indented = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
    return f'??? note "{title}"\n\n{indented}\n'


def anchor(text: str) -> str:
    """The id of a heading, as MkDocs makes it."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())
