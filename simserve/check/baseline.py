"""A stored result that later ones are held against: one JSON file, "simserve.baseline/1".

    schema       "simserve.baseline/1"
    study, kind  name of the study, and "search" or "simulate"
    fingerprint  {model, workload, slo: SHA-256, seed, requests}: of the question, without the deployment, the search
                 space, kernel tables and versions; those may change, and what that does is what a baseline shows
    versions     of simserve, Python and packages that made it
    deployment   of the run
    metrics      every number of the run by its name in `simserve.check.metrics`, to ten digits
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.check.metrics import numbers
from simserve.errors import SpecError
from simserve.explore.provenance import versions
from simserve.report.save import make_folder, to_json, write_atomic
from simserve.workload.files import resolve

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.explore.runner import Inputs
    from simserve.spec.study import StudySpec

SCHEMA = "simserve.baseline/1"
UPDATE = "--update-baselines"
_KEYS = {"schema": str, "study": str, "kind": str, "fingerprint": dict, "versions": dict, "deployment": dict,
         "metrics": dict}  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """A baseline as it is in its file; metrics by name."""

    path: Path
    study: str
    kind: str
    fingerprint: Mapping[str, Any]
    versions: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def made_by(self) -> str:
        """'simserve 0.1.0'."""
        return f"simserve {self.versions.get('simserve')}"


def read_baseline(path: Path, study: StudySpec) -> Baseline:
    """The baseline of a study; SpecError in one line if it is not there, is none, or is another study's."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"no such file; `simserve check {UPDATE}` writes it", file=str(path)) from None
    except json.JSONDecodeError as error:
        raise SpecError(f"not valid JSON: {error.msg}", file=str(path), line=error.lineno) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read ({error.__class__.__name__})", file=str(path)) from None
    _check_form(data, path)
    kind = kind_of(study)
    if (data["study"], data["kind"]) != (study.name, kind):
        problem = f"is of another study ({data['kind']} {data['study']}, this is {kind} {study.name})"
        raise SpecError(problem, file=str(path))
    return Baseline(path, data["study"], data["kind"], data["fingerprint"], data["versions"], data["metrics"])


def check_question(baseline: Baseline, asked: Mapping[str, Any]) -> None:
    """SpecError that names what differs if the baseline answers another question than `asked`, a fingerprint."""
    other = [name for name in asked if baseline.fingerprint.get(name) != asked[name]]
    if other:
        problem = f"is of another {', '.join(other)}; if the study is meant to be another now, {UPDATE} writes it anew"
        raise SpecError(problem, file=str(baseline.path))


def kind_of(study: StudySpec) -> str:
    """'search' or 'simulate', as in results."""
    return "simulate" if study.search is None else "search"


def fingerprint(inputs: Inputs, base_dir: Path | None) -> dict[str, Any]:
    """What a study asks, without how it is answered.

    Hashes are of what the study says and of the files that it names, not of drawn numbers, whose last digits differ
    between processors.
    """
    study = inputs.study
    slo = None if study.slo is None else study.slo.model_dump(mode="json", exclude_defaults=True)
    workload = study.workload.model_dump(mode="json", exclude_defaults=True)
    return {
        "model": _digest(inputs.model.model_dump(mode="json", exclude_defaults=True)),
        "workload": _digest(_with_contents(workload, base_dir)),
        "slo": _digest(slo),
        "seed": study.seed,
        "requests": len(inputs.workload),
    }


def write_baseline(path: Path, study: StudySpec, question: Mapping[str, Any], run: Outcome) -> None:
    """Replace the file at once, its folder made if need be; SpecError if that is not possible."""
    make_folder(path.parent)
    content = {
        "schema": SCHEMA,
        "study": study.name,
        "kind": kind_of(study),
        "fingerprint": dict(question),
        "versions": versions(),
        "deployment": run.deployment.model_dump(mode="json"),
        "metrics": {name: float(f"{value:.10g}") for name, value in sorted(numbers(run).items())},
    }
    write_atomic(path, to_json(content))


def _check_form(data: Any, path: Path) -> None:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise SpecError(f"is no baseline ({SCHEMA})", file=str(path))
    for key, kind in _KEYS.items():
        if not isinstance(data.get(key), kind):
            raise SpecError(f"is missing, or not what {UPDATE} writes", file=str(path), key=key)
    for name, value in data["metrics"].items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError("must be a number", file=str(path), key=f"metrics.{name}", value=value)


def _with_contents(value: Any, base_dir: Path | None) -> Any:
    """The same with the digest of its content for each file that is named."""
    if isinstance(value, list):
        return [_with_contents(item, base_dir) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: hashlib.sha256(resolve(item, base_dir).read_bytes()).hexdigest()
        if key == "path" and isinstance(item, str)
        else _with_contents(item, base_dir)
        for key, item in value.items()
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
