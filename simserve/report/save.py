"""Write results so that a reader never sees half a file: to a temporary file, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from simserve.errors import SpecError
from simserve.explore.result import SearchResult
from simserve.report.document import document
from simserve.report.launch import launch_files, launch_script, nothing_to_launch, served_model
from simserve.report.tables import csv_text, parquet_bytes

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.workload.requests import RequestSet

LAUNCH = "launch"  # the folder of launch files beside a result


def save(result: SearchResult, folder: Path, *, workload: RequestSet | None = None) -> list[Path]:
    """Write result.json, runs.csv, runs.parquet, provenance.json, launch.sh and launch/ (where some framework has the
    scheduler); their paths.

    workload: the simulated requests, for launch/requests.jsonl; without them launch/bench.sh says that they miss.
    """
    content = document(result)
    files: dict[str, str | bytes] = {
        "result.json": to_json(content),
        "runs.csv": csv_text(result),
        "runs.parquet": parquet_bytes(result),
        "provenance.json": to_json(content["provenance"]),
    }
    chosen = content["recommended"] if result.kind == "search" else 0
    run = result.runs[chosen] if chosen is not None else None
    if run is not None and nothing_to_launch(run.deployment) is None:
        files["launch.sh"] = launch_script(served_model(result.provenance), run)
        files |= _launch_folder(result, run, workload)
    make_folder(folder)
    if "launch.sh" in files:
        make_folder(folder / LAUNCH)
    return [write_atomic(folder / name, text) for name, text in files.items()]


def to_json(content: object) -> str:
    """Readable JSON with a final newline."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def check_targets(folder: Path | None, json_out: str | None, *files: Path | None) -> None:
    """Before any work: SpecError if results cannot be written to `folder` (made here) or to the files."""
    if folder is not None:
        make_folder(folder)
    asked = [Path(json_out)] if json_out is not None and json_out != "-" else []
    for path in (*asked, *(file for file in files if file is not None)):
        if path.is_dir():
            raise SpecError("cannot write: is a directory", file=str(path))
        if not path.exists() or path.is_file():
            _try_writing(path.parent, "cannot write", str(path))


def make_folder(folder: Path) -> None:
    """Create `folder`; SpecError if that is not possible, or nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"cannot create the output folder: {_why(error)}", file=str(folder)) from None
    _try_writing(folder, "the output folder is not writable", str(folder))


def _try_writing(folder: Path, problem: str, name: str) -> None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".simserve."):
            pass
    except OSError as error:
        raise SpecError(f"{problem}: {_why(error)}", file=name) from None


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Replace `path` by `content` in one step; SpecError if that is not possible. A device or pipe is written to."""
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return path
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as out:
            temporary = Path(out.name)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise SpecError(f"cannot write: {_why(error)}", file=str(path)) from None
    return path


def _launch_folder(result: SearchResult, run: Outcome, workload: RequestSet | None) -> dict[str, str]:
    """The launch files of a run, below the folder of the result."""
    if "workload" not in result.provenance:
        return {}
    texts = launch_files(run, result.provenance, name=result.name, workload=workload)
    return {f"{LAUNCH}/{name}": text for name, text in texts.items()}


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
