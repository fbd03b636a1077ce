"""A result that was saved by `simserve search` or `simserve simulate`, read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import MissingData, SimserveError, SpecError
from simserve.explore.objective import Outcome, outcome_from_dict

if TYPE_CHECKING:
    from simserve.explore.runner import Inputs
    from simserve.spec.study import StudySpec
    from simserve.workload.requests import RequestSet

FILE, SCHEMA = "result.json", "simserve.result/1"


@dataclass(frozen=True)
class Saved:
    """The document, its runs as outcomes (the best first), and the one that it is about.

    chosen: index of the recommended run; of the nearest to the SLO if none meets it, of the only one of a simulation.
    """

    path: Path
    document: dict[str, Any]
    runs: list[Outcome]
    chosen: int

    @property
    def objective(self) -> str:
        """What the runs are ranked by."""
        return str(self.document.get("objective", "throughput"))

    @property
    def outcome(self) -> Outcome:
        """The chosen run."""
        return self.runs[self.chosen]


def read_saved(path: Path) -> Saved:
    """Read a results folder or its JSON file; SpecError if there is none, or it is something else."""
    file = path / FILE if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("no such file; give a folder or file that `simserve search -o` wrote", file=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read ({type(error).__name__})", file=str(file)) from None
    except ValueError:
        raise SpecError("is no JSON", file=str(file)) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise SpecError(f"is no result of simserve: its schema is not {SCHEMA}", file=str(file), key="schema")
    try:
        known = Outcome.__dataclass_fields__
        runs = [outcome_from_dict({k: v for k, v in run.items() if k in known}) for run in document["runs"]]
        chosen = document["recommended"] or 0
        runs[chosen], document["provenance"]["study"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SpecError(f"is no complete result ({type(error).__name__})", file=str(file), key="runs") from None
    return Saved(file, document, runs, chosen)


def inputs_of(saved: Saved) -> Inputs:
    """Model and requests as they were; MissingData, in one line, where they cannot be had again."""
    from simserve.explore.load import summarise
    from simserve.explore.runner import Inputs
    from simserve.pooled import resolve_pools
    from simserve.spec.model import load_model

    study, workload, folder = _played(saved)
    try:
        model = load_model(study.model)
    except SimserveError as error:
        raise _missing(str(error)) from None
    study = study.model_copy(update={"deployment": resolve_pools(study.deployment)})
    return Inputs(study, model, workload, summarise(workload), folder)


def workload_of(saved: Saved) -> RequestSet | None:
    """The requests as they were; None where they cannot be had again."""
    try:
        return _played(saved)[1]
    except MissingData:
        return None


def _played(saved: Saved) -> tuple[StudySpec, RequestSet, Path]:
    """The study, the requests that were played, and the folder that files of the study lie in, or MissingData.

    They are looked for from the current folder, beside the result, and beside its folder.
    """
    from simserve.explore.provenance import columns_digest
    from simserve.spec.base import parse
    from simserve.spec.study import StudySpec
    from simserve.workload.build import study_requests

    record, beside = saved.document["provenance"], saved.path.resolve().parent
    limit = record.get("workload", {}).get("head")
    problem = ""
    for folder in (Path(), beside, beside.parent):
        try:
            study = parse(StudySpec, record["study"], file=str(saved.path))
            workload = study_requests(study, seed=study.seed, base_dir=folder)
        except SimserveError as error:
            problem = problem or str(error)
            continue
        workload = workload if limit is None else workload.head(int(limit))
        if columns_digest(workload) == record.get("workload_sha256"):
            return study, workload, folder
        problem = "the requests are not those of the result"
    raise _missing(problem)


def _missing(problem: str) -> MissingData:
    return MissingData(f"cannot be simulated again: {problem}")
