"""What `simserve validate --html` adds to the results: how they were made, and from whose data."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer


def page(
    context: typer.Context, content: Mapping[str, Any], compared: Sequence[Mapping[str, tuple[float, float]]]
) -> str:
    """The report of `simserve validate`, run as `context` says; content: what `--json` writes.

    compared: {metric: (predicted, measured)} of each point.
    """
    from simserve.report.accuracy import accuracy_html

    return accuracy_html(content, compared, about(context))


def about(context: typer.Context) -> dict[str, str]:
    """Provenance by name, as text."""
    from simserve.explore.provenance import versions

    given, known = context.params, versions()
    packages = ", ".join(f"{name} {number}" for name, number in known["packages"].items() if number)
    return {
        "simserve": known["simserve"],
        "Python": f"{known['python']}; {packages}",
        "command": command_line(context),
        "seed": f"{given['seed']}: of request lengths and of the sample",
        "split": given["part"] or "all scenarios",
        "sample": f"{given['sample']:,} points, drawn evenly" if given["sample"] else "all points",
        **_data(given["records"], given["flags"]),
    }


def command_line(context: typer.Context) -> str:
    """The command with all options that are not at their defaults."""
    words = context.command_path.split()
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value not in (None, option.default):
            words += [option.secondary_opts[0]] if value is False else [option.opts[0], str(value)]
    return shlex.join(words)


def _data(records: Path | None, flags: Path | None) -> dict[str, str]:
    from simserve.accuracy.silicon import LICENCE, SOURCE

    if records is not None:
        return {"data": _named(records), "licence of the data": "not stated in the file"}
    cleaning = {} if flags is None else {"cleaning": f"by the verdicts of {_named(flags)}"}
    return {"data": SOURCE, "licence of the data": LICENCE, **cleaning}


def _named(path: Path) -> str:

    return f"{path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
