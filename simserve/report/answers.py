"""What `capacity`, `compare`, `sensitivity` and `explain` keep: one JSON document, one CSV table, provenance.

Each document has `schema` ("simserve.<kind>/1"), `kind`, `name` of the study, `model`, `seeds` and `provenance` (as in
`simserve.report.document`; `workloads_sha256` by seed). What else is in it:

    capacity     deployment, slo; unit of the loads; capacity {value, low, high}: mean over the seeds of the highest
                 load that kept the SLO, and its interval at `confidence`, null where a seed has no bracket; tolerance:
                 of each seed's bracket, relative; brackets [{seed, low, high, broke, tried [{load, met, nearest,
                 excess}]}]
    compare      metrics; baseline; confidence; same_requests: whether all play the same ones; deployments [{name,
                 deployment, met: seeds that kept the SLO, values {metric: {value, low, high}}, differences {metric:
                 {value, low, high, relative, tie}} from the baseline}]; best, ties: by the first metric
    sensitivity  deployment; metrics; base {metric: {value, low, high}}; factors [{name, group, basis, note, ends
                 [{change, what, differences {metric: {value, low, high}}}]}]; order {metric: names of the factors,
                 the widest swing first}
    explanation  see `simserve.explore.explained`
    reproduce    studies [{what a paper study says (`simserve.spec.paper`), rows [{study, quantity, published, ours,
                 low, high, ok, unit, source, note}], played [{run, at, numbers, infeasible}]}]
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simserve.report.document import json_safe
from simserve.report.save import make_folder, to_json, write_atomic


@dataclass(frozen=True)
class Answer:
    """The answer to a question: the document, the rows of its table, and other files by name."""

    kind: str
    content: dict[str, Any]
    rows: list[dict[str, Any]]
    files: dict[str, str] = field(default_factory=dict)


def answer(
    kind: str, name: str, model: str, provenance: Mapping[str, Any], content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]], files: Mapping[str, str] | None = None,
) -> Answer:  # fmt: skip
    """An Answer whose document has the parts that all have."""
    whole = {"schema": f"simserve.{kind}/1", "kind": kind, "name": name, "model": model, **content,
             "provenance": dict(provenance)}  # fmt: skip
    return Answer(kind, json_safe(whole), [json_safe(dict(row)) for row in rows], dict(files or {}))


def save_answer(found: Answer, folder: Path) -> list[Path]:
    """Write <kind>.json, <kind>.csv, provenance.json and the other files; their paths."""
    files = {
        f"{found.kind}.json": to_json(found.content),
        f"{found.kind}.csv": csv_of(found.rows),
        "provenance.json": to_json(found.content["provenance"]),
        **found.files,
    }
    make_folder(folder)
    return [write_atomic(folder / name, text) for name, text in files.items()]


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; the header has every key, in order of first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
