"""The Python API: every name of `simserve.__all__`, wherever it is defined."""

from __future__ import annotations

import inspect

import simserve


def reference() -> str:
    """A directive of mkdocstrings for each public name."""
    lines: list[str] = []
    for name in getattr(simserve, "__all__", []):
        found = getattr(simserve, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            lines += [f"::: {found.__module__}.{found.__qualname__}", ""]
        elif inspect.ismodule(found):
            lines += [f"::: {found.__name__}", ""]
    return "\n".join(lines) if lines else "This version of simserve has no public Python names beside its command line."
