"""What tables there are, and the engines' profiles, from perfdb itself."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import yaml

from docsgen.markdown import ROOT, cell, code, details, table
from simserve.perf.store import KEYS, list_tables


def tables() -> str:
    """The columns of each family, then the tables of each device."""
    keys = [(code(family), ", ".join(code(key) for key in columns)) for family, columns in KEYS.items()]
    lines = [table(("table", "keys; `latency_ns` is the value"), keys), ""]
    for device, own in groupby(list_tables(), key=lambda info: info.device):
        rows = [(code(i.family), f"{i.rows:,}", cell(_source(i.provenance)), _error(i.provenance)) for i in own]
        shown = table(("table", "rows", "from", "left-out error, median (p90)"), rows, (1,))
        lines.append(details(f"{device}: {len(rows)} tables", shown))
    return "\n".join(lines)


def _source(entry: dict[str, Any]) -> str:
    package = " ".join(str(entry[key]) for key in ("package", "package_version") if entry.get(key))
    measured = [f"{s.get('framework', '')} {s.get('version', '')}".strip() for s in entry.get("sources", ())]
    return "; ".join(word for word in (package, ", ".join(dict.fromkeys(filter(None, measured)))) if word)


def _error(entry: dict[str, Any]) -> str:
    error = entry.get("left_out_error") or {}
    if error.get("median") is None:
        return ""
    return f"{100 * error['median']:.1f} ({100 * error['p90']:.0f}) %"


def engines() -> str:
    """Every profile with its constants and their sources."""
    lines = []
    for path in sorted((ROOT / "perfdb" / "engines").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        sections = [("", content), *((f" from {since}", part) for since, part in content.get("versions", {}).items())]
        rows = [
            (code(key) + since, cell(entry["value"]), cell(entry.get("source", "")))
            for since, part in sections for key, entry in part.items() if isinstance(entry, dict) and "value" in entry
        ]  # fmt: skip
        if rows:
            lines.append(details(f"{path.name}: {len(rows)} constants", table(("constant", "value", "source"), rows)))
    return "\n".join(lines)
