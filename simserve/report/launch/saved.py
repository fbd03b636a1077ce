"""A saved result read back for its launch files: the run, and the requests that it was simulated with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import SimserveError, SpecError
from simserve.search.objective import Outcome, outcome_from_dict

if TYPE_CHECKING:
    from simserve.workload.requests import RequestSet

_OUTCOME = {f.name for f in fields(Outcome)}


def read_result(path: Path) -> dict[str, Any]:
    """The document of a result, from its file or the folder that holds result.json; SpecError if it is none."""
    file = path / "result.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("no such file", file=str(file)) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SpecError(f"cannot be read as a result ({type(error).__name__})", file=str(file)) from None
    if not isinstance(data, dict) or not str(data.get("schema", "")).startswith("simserve.result/"):
        raise SpecError("is no result of `simserve search` or `simserve simulate`", file=str(file))
    return data


def run_of(data: Mapping[str, Any], rank: int | None, *, file: str) -> Outcome:
    """The run of a rank (1 is the best, as in the table); without one the recommended, or the only one."""
    runs = data["runs"]
    index = rank - 1 if rank is not None else data.get("recommended")
    if index is None and data.get("kind") == "search":
        raise SpecError("nothing was recommended; say which run by its rank", file=file, key="--rank")
    index = index or 0
    if not 0 <= index < len(runs):
        raise SpecError(f"there are {len(runs)} runs", file=file, key="--rank", value=rank)
    return outcome_from_dict({key: value for key, value in runs[index].items() if key in _OUTCOME})


def workload_of(provenance: Mapping[str, Any], base_dir: Path | None) -> RequestSet | None:
    """The requests that a result was simulated with, made again; None where they cannot be, or are not the same."""
    from simserve.search.provenance import columns_digest
    from simserve.spec.workload import WorkloadSpec
    from simserve.workload.build import build_workload

    try:
        spec = WorkloadSpec.model_validate(provenance["study"]["workload"])
        workload = build_workload(spec, seed=int(provenance["seed"]), base_dir=base_dir)
        head = provenance["workload"].get("head")
        workload = workload if head is None else workload.head(int(head))
    except (SimserveError, ValueError, KeyError):
        return None
    return workload if columns_digest(workload) == provenance.get("workload_sha256") else None
