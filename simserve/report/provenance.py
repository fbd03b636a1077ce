"""The part of a page that says what its numbers were made from: inputs, versions, seed, tables, fitted constants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from simserve.explore.result import SearchResult
from simserve.report.page import table
from simserve.report.series import Series


def provenance_html(result: SearchResult, shown: Sequence[Series]) -> str:
    """Facts, kernel tables, engine profiles, and the study as it was read."""
    tables, profiles = dict(_tables(shown)), dict(_profiles(shown))
    parts = [table(("", ""), list(_facts(result.provenance)), sortable=False, name="facts")]
    if tables:
        heads, rows = ("table", "from", "measured with", "rows", "licence"), sorted(tables.items())
        parts.append("<h3>Kernel tables</h3>" + table(heads, [(name, *row) for name, row in rows], sortable=False))
    for name, numbers in sorted(profiles.items()):
        body = table(("number", "value", "source"), numbers, sortable=False)
        what = f"Engine profile {escape(name)}: host times and kernel factors"
        parts.append(f"<details><summary>{what}</summary>{body}</details>")
    study = json.dumps(result.provenance.get("study"), indent=2)
    parts.append(f"<details><summary>The study as read</summary><pre>{escape(study)}</pre></details>")
    return "\n".join(parts)


def _facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    packages = ", ".join(f"{name} {number}" for name, number in (record.get("packages") or {}).items() if number)
    yield "simserve", str(record.get("simserve", ""))
    yield "Python", f"{record.get('python', '')}; {packages}"
    yield "model", str(record["model"]["name"])
    yield "seed", str(record.get("seed", ""))
    for name, value in (record.get("workload") or {}).items():
        yield f"workload: {name.replace('_', ' ')}", _words(value)
    yield "workload SHA-256", str(record.get("workload_sha256", ""))
    yield "prices of GPUs", "assumptions of hw_specs, to edit"


def _words(value: Any) -> str:
    """A number, a text, or a mapping of such as 'key value, key (key value)'."""
    if not isinstance(value, Mapping):
        return value if isinstance(value, str) else json.dumps(value)
    return ", ".join(f"{key} ({_words(part)})" if isinstance(part, Mapping) else f"{key} {_words(part)}"
                     for key, part in value.items())  # fmt: skip


def _each(shown: Sequence[Series]) -> Iterator[Mapping[str, Any]]:
    """What the prices of each pool of each configuration rest on."""
    for one in shown:
        yield from one.tables.get("pools", {"": one.tables}).values()


def _tables(shown: Sequence[Series]) -> Iterator[tuple[str, tuple[str, str, str, str]]]:
    for part in _each(shown):
        for name, entry in part.get("tables", {}).items():
            origin = f"{entry.get('package', '')} {entry.get('package_version', '')}".strip()
            with_ = {f"{s.get('framework', '')} {s.get('version', '')}".strip() for s in entry.get("sources", [])}
            rows = entry.get("rows_kept")
            yield name, (origin, ", ".join(sorted(with_)), f"{rows:,}" if rows else "", str(entry.get("licence", "")))


def _profiles(shown: Sequence[Series]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    for part in _each(shown):
        if profile := part.get("engine_profile"):
            rows = [(key.replace("_", " "), str(entry["value"]), str(entry["source"]))
                    for key, entry in profile.items() if isinstance(entry, Mapping)]  # fmt: skip
            yield str(profile["name"]), rows
