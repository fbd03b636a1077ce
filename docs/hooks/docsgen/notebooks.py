"""The notebooks of the repository, by their first cell."""

from __future__ import annotations

import json

from docsgen.markdown import ROOT, cell, code, table


def listed() -> str:
    """Title and first sentence of each."""
    rows = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
        title, _, rest = first.lstrip("# ").partition("\n")
        sentence = " ".join(rest.split()).partition(". ")[0].rstrip(".")
        rows.append((code(f"notebooks/{path.name}"), cell(title), cell(sentence)))
    return table(("file", "title", "about"), rows)
