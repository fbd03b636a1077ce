"""Measured points as a table of perfdb, with provenance; replaces what stood there in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import UnknownName
from simserve.perf import leave_out, store
from simserve.perf.collect.grid import Point
from simserve.perf.collect.machine import Machine
from simserve.perf.collect.task import Task
from simserve.perf.collect.timer import Sample
from simserve.spec.hardware import GpuSpec, load_gpu


def write(task: Task, machine: Machine, samples: Mapping[Point, Sample], out: Path, worst: float) -> Path:
    """<out>/<device>/<family>.parquet and its entry of provenance.json; the table's path. worst: error left."""
    folder = out / task.device
    path = folder / f"{task.family}.parquet"
    points = [dict(point) for point in samples]
    columns: store.Columns = {}
    for name in store.KEYS[task.family]:
        kind = object if name in store.WORDS else np.int64
        columns[name] = np.array([point[name] for point in points], dtype=kind)
    columns["latency_ns"] = np.array([sample.ns for sample in samples.values()], dtype=np.int64)
    partial = path.with_suffix(".partial")
    store.write_table(partial, task.family, columns)
    partial.replace(path)
    error = leave_out.summary(task.family, columns, _gpu(task.device))
    errors = {"largest_gap_error": round(worst, 4), "left_out_error": error}
    _note(folder / "provenance.json", task, machine, samples, errors)
    return path


def _gpu(device: str) -> GpuSpec | None:
    """The device's description; None for a host, and for a GPU that hw_specs does not know."""
    try:
        return load_gpu(device.partition("/")[0])
    except UnknownName:
        return None


def _note(
    path: Path, task: Task, machine: Machine, samples: Mapping[Point, Sample], errors: dict[str, Any]
) -> None:
    """Add the table's entry, keeping those of other tables."""
    whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    repeats = sorted(sample.repeats for sample in samples.values())
    entry = {
        "method": "median of repeats, rotating buffers larger than twice the last cache",
        "kernels": [task.kernel],
        "rows_kept": len(samples),
        "repeats": {"least": repeats[0], "most": repeats[-1]} if repeats else {},
        "outliers": sum(sample.outliers for sample in samples.values()),
        **errors,
        "latency_unit": "ns",
        "measured": datetime.now(UTC).date().isoformat(),
        "machine": machine.facts,
        **task.facts,
    }
    whole |= {"package": "own measurement", "licence": "own measurement", "built_by": "simserve perfdb collect"}
    whole.setdefault("tables", {})[task.family] = entry
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
