"""What a result rests on: the study as read, the data's origin, versions, seed; no host or user names."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from simserve.version import __version__

if TYPE_CHECKING:
    from simserve.spec.model import ModelSpec
    from simserve.spec.study import StudySpec
    from simserve.workload.requests import RequestSet

PACKAGES = ("numpy", "optuna", "simpy", "scipy", "pandas", "pyarrow", "pydantic")


def provenance(study: StudySpec, model: ModelSpec, workload: RequestSet) -> dict[str, Any]:
    """JSON-safe record of the inputs; `tables` is added per deployment by the runner."""
    return {
        **versions(),
        "seed": study.seed,
        "study": study.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "workload": {"requests": len(workload), **dict(workload.provenance)},
        "workload_sha256": columns_digest(workload),
    }


def versions() -> dict[str, Any]:
    """Of simserve, Python and the packages that results depend on."""
    packages = {name: _version(name) for name in PACKAGES}
    return {"simserve": __version__, "python": platform.python_version(), "packages": packages}


def fingerprint(record: dict[str, Any]) -> str:
    """A hash of all that decides a search's trials; two searches with the same one may share a journal.

    The number of trials and the time limit are left out, so that a search can be resumed with more of them.
    """
    search = dict(record["study"].get("search") or {})
    for extendable in ("trials", "timeout_s"):
        search.pop(extendable, None)
    keys = ("simserve", "seed", "model", "workload_sha256")
    core = {**{k: record[k] for k in keys}, "study": {**record["study"], "search": search}}
    return hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()


def columns_digest(workload: RequestSet) -> str:
    """SHA-256 of a workload's columns: two results with the same one simulated the same requests.

    What requests of a diffusion language model draw in a run is in it too.
    """
    digest = hashlib.sha256(repr(workload.concurrency).encode())
    if workload.confidence is not None:
        digest.update(f"{workload.confidence_seed} {workload.confidence.model_dump_json()}".encode())
    for column in workload.columns().values():
        digest.update(repr(column).encode() if isinstance(column, list | tuple) else column.tobytes())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
