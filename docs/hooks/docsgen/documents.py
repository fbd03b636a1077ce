"""Documents of the repository as parts of pages: they are written once, where the code needs them."""

from __future__ import annotations

import inspect
import re

from docsgen.markdown import ROOT
from simserve.report import document

_FIELD = re.compile(r"^( *)(\S(?:.*?\S)?)(?:  +|;  )(\S.*)$")


def _without_title(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.sub(r"\A# .*\n", "", text).strip() + "\n"


def design() -> str:
    """`simserve/DESIGN.md`."""
    return _without_title("simserve/DESIGN.md").partition("\n")[2]


def changelog() -> str:
    """`CHANGELOG.md`."""
    return _without_title("CHANGELOG.md")


def perfdb_readme() -> str:
    """`perfdb/README.md`."""
    return _without_title("perfdb/README.md")


def hardware_readme() -> str:
    """`hw_specs/README.md`."""
    return _without_title("hw_specs/README.md")


def models_readme() -> str:
    """`models/README.md`."""
    return _without_title("models/README.md")


def result_schema() -> str:
    """The schema of result.json, as its module states it."""
    return f"```text\n{inspect.getdoc(document)}\n```\n"
