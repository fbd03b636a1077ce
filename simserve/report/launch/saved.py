"""What launch files need of a saved result: the run, and the requests that it was simulated with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import SimserveError, SpecError

if TYPE_CHECKING:
    from simserve.search.objective import Outcome
    from simserve.search.saved import Saved
    from simserve.workload.requests import RequestSet


def run_of(saved: Saved, rank: int | None) -> Outcome:
    """The run of a rank (1 is the best, as in the table); without one the recommended, or the only one."""
    if rank is None:
        if saved.document.get("kind") == "search" and saved.document.get("recommended") is None:
            raise SpecError("nothing was recommended; say which run by its rank", file=str(saved.path), key="--rank")
        return saved.outcome
    if rank > len(saved.runs):
        raise SpecError(f"there are {len(saved.runs)} runs", file=str(saved.path), key="--rank", value=rank)
    return saved.runs[rank - 1]


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
