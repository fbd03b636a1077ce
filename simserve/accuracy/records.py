"""Records files: YAML that says what a CSV of measurements holds and what it was measured on, and their judgement.

    kind: requests                    # one run, a row per request; stages: runs at several rates; points: closed loops
    csv: measured.csv                 # in --data DIR, beside this file, or in the current folder
    columns: {e2e_ms: latency_ms}     # field -> column, where the names differ; see `accuracy/table.py` for more
    model: meta-llama/Llama-3.1-8B    # of requests; stages and points have a column
    clock: engine                     # or client: times include HTTP and the tokenizer
    deployment: {gpu: rtx_pro_6000}   # as in a study; columns of stages replace parts of it
    trace: {path: trace.jsonl, format: blocks_jsonl}   # of requests, optional: what the prompts share

The fields are those of `Request` (requests.py), `Stage` (stages.py) and `Point` (points.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from simserve.accuracy.judged import Judged
from simserve.accuracy.points import KIND as POINTS
from simserve.accuracy.points import Point
from simserve.accuracy.requests import KIND as REQUESTS
from simserve.accuracy.requests import judge_requests
from simserve.accuracy.stages import KIND as STAGES
from simserve.accuracy.stages import judge_run, runs_of
from simserve.accuracy.table import Kind, Layout, Rows, read_rows
from simserve.errors import SpecError, UnknownName, nearest_name
from simserve.paths import data_files
from simserve.spec.base import load
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.workload import TraceSpec
from simserve.workload.blocks import FORMATS, read_blocks
from simserve.workload.files import resolve

_OF_KIND: dict[str, set[str]] = {
    "requests": {"model", "clock", "deployment", "trace"}, "stages": {"clock", "deployment", "api_ns"}, "points": set(),
}  # fmt: skip
_KINDS: dict[str, Kind[Any]] = {"requests": REQUESTS, "stages": STAGES, "points": POINTS}
_NEEDED: dict[str, tuple[str, ...]] = {"requests": ("model", "clock", "deployment"), "stages": ("clock",), "points": ()}


class RecordsSpec(Layout):
    """One file of measurements.

    source: whose they are; clock: whose times they are, the engine's or a client's; api_ns: what the measurement states
    of the way between the two, None for the engine profile's.
    """

    kind: Literal["requests", "stages", "points"]
    csv: str
    source: str = ""
    model: str | None = None
    clock: Literal["engine", "client"] | None = None
    deployment: DeploymentSpec | None = None
    trace: TraceSpec | None = Field(default=None)
    api_ns: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> RecordsSpec:
        for name in _NEEDED[self.kind]:
            if getattr(self, name) is None:
                raise ValueError(f"records of {self.kind} need {name}")
        for name in ("model", "clock", "deployment", "trace", "api_ns"):
            if name not in _OF_KIND[self.kind] and getattr(self, name) is not None:
                raise ValueError(f"records of {self.kind} have no {name}")
        names = _KINDS[self.kind].names
        for part in ("columns", "values", "constants"):
            wrong = next((name for name in getattr(self, part) if name not in names), None)
            if wrong is not None:
                near = nearest_name(wrong, names)
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(names)}"
                raise ValueError(f"{part}: records of {self.kind} have no field {wrong!r}; {hint}")
        if self.trace is not None and (self.trace.format not in FORMATS or self.trace.rate_scale != 1.0):
            raise ValueError(f"the trace must have block ids (format {' or '.join(FORMATS)}) and no rate_scale")
        return self

    @property
    def client_side(self) -> bool:
        """Whether the measured times are a client's."""
        return self.clock == "client"


@dataclass(frozen=True)
class Work:
    """Runs to judge, one by one or side by side, and how many rows were left out, by reason."""

    runs: list[Callable[[], list[Judged]]]
    left_out: dict[str, int]


def records_file(given: Path) -> Path | None:
    """The records file that is meant: YAML, or the name of one that comes with simserve; None for a CSV of points."""
    if given.suffix in (".yaml", ".yml"):
        return given
    if given.exists() or given.suffix or len(given.parts) != 1:
        return None
    known = {path.stem: path for path in reversed(list(data_files("studies"))) if path.parent.name == "records"}
    if str(given) not in known:
        raise UnknownName("records", str(given), known)
    return known[str(given)]


def read_records(path: Path) -> RecordsSpec:
    """The records file at `path`."""
    return load(RecordsSpec, path)


def points_of(spec: RecordsSpec, folder: Path) -> Rows[Point]:
    """The points of a file of kind points."""
    return read_rows(resolve(spec.csv, folder), POINTS, spec)


def work_of(
    spec: RecordsSpec, folder: Path, *, gpu: str = "", split: str = "", seed: int = 0, calibrated: bool = True
) -> Work:
    """What to judge for a file of requests or stages; gpu: instead of the file's; split: these rows alone."""
    path = resolve(spec.csv, folder)
    deployment = (spec.deployment or DeploymentSpec()).model_copy(update={"calibrated": calibrated})
    if gpu:
        load_gpu(gpu)
    if spec.kind == "requests":
        rows = read_rows(path, REQUESTS, spec)
        if split:
            raise SpecError("requests have no splits", key="split", value=split)
        if not rows.rows:
            raise SpecError("no row is left to judge", file=str(path))
        if gpu:
            deployment = deployment.model_copy(update={"gpu": gpu})
        asked = spec.trace
        trace = None if asked is None else read_blocks(resolve(asked.path, folder), asked.format, limit=asked.limit)
        judge = partial(
            judge_requests, rows.rows, spec.model or "", deployment, client_side=spec.client_side, trace=trace,
            name=path.stem,
        )  # fmt: skip
        return Work([judge], rows.left_out)
    stages = read_rows(path, STAGES, spec)
    if not stages.rows:
        raise SpecError("no row is left to judge", file=str(path))
    kept = [replace(row, gpu=gpu or row.gpu) for row in stages.rows if split in ("", row.split)]
    if not kept:
        raise UnknownName("split", split, {row.split for row in stages.rows if row.split})
    runs: list[Callable[[], list[Judged]]] = [
        partial(judge_run, run, deployment, client_side=spec.client_side, seed=seed, api_ns=spec.api_ns)
        for run in runs_of(kept)
    ]
    return Work(runs, stages.left_out)
