"""Griffe extension: examples of docstrings (`>>> ...`) as blocks of code on the page of the Python API."""

from __future__ import annotations

from typing import Any

import griffe


def fenced(text: str) -> str:
    """Paragraphs that begin with a prompt, between fences."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```pycon\n{p}\n```" if p.lstrip().startswith(">>>") else p for p in paragraphs)


class Doctests(griffe.Extension):
    """Does that to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each function, class, attribute and module."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
