"""Rows of a source in our keys, where they are from, and what every importer does with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simserve.perf import store
from simserve.perf.store import Columns

DTYPES = {"bfloat16": "bf16"}  # other names stay: fp8, fp8_block, nvfp4, int4_wo, w4a16_mxfp4, w4a8_mxfp4_mxfp8
Mask = NDArray[np.bool_]
Counts = dict[str, int]


@dataclass(frozen=True)
class Origin:
    """One source file: its path inside the source, what measured it, and how many rows it has."""

    file: str
    framework: str
    version: str
    device: str
    rows: int


@dataclass(frozen=True)
class Read:
    """Rows of one family in our keys, the files they are from, and how many rows were left out, by reason."""

    raws: tuple[Origin, ...]
    columns: Columns
    left_out: Counts


def ns(milliseconds: NDArray[np.generic]) -> NDArray[np.int64]:
    """Integer nanoseconds."""
    return np.rint(milliseconds.astype(np.float64) * 1e6).astype(np.int64)


def dtype_names(names: NDArray[np.generic]) -> NDArray[np.generic]:
    """The schema's names of number formats."""
    distinct, index = np.unique(names.astype(str), return_inverse=True)
    return np.array([DTYPES.get(str(name), str(name)) for name in distinct], dtype=object)[index]


def constant(value: str, rows: int) -> NDArray[np.generic]:
    """A text column of one value."""
    return np.full(rows, value, dtype=object)


def join(parts: list[Columns]) -> Columns:
    """Rows of several tables one after the other; a kernel that one of them does not name is ''."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    rows = [len(part["latency_ns"]) for part in parts]
    return {
        name: np.concatenate([p.get(name, constant("", n)) for p, n in zip(parts, rows, strict=True)]) for name in names
    }


def together(*found: Read | None) -> Read | None:
    """Several reads of one family as one."""
    reads = [read for read in found if read is not None]
    if not reads:
        return None
    left_out: Counts = {}
    for read in reads:
        for reason, count in read.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
    return Read(tuple(raw for read in reads for raw in read.raws), join([r.columns for r in reads]), left_out)


def median_of_repeats(family: str, columns: Columns) -> tuple[Columns, int]:
    """One row per key: the median of its repeats. Returns how many rows went."""
    group = store.group_ids(columns, store.KEYS[family])
    _, first = np.unique(group, return_index=True)
    repeats = len(group) - len(first)
    if not repeats:
        return columns, 0
    time = columns["latency_ns"].astype(np.float64)
    order = np.lexsort((time, group))
    splits = np.split(time[order], np.flatnonzero(np.diff(group[order])) + 1)
    out = {name: values[first] for name, values in columns.items()}
    out["latency_ns"] = np.array([round(float(np.median(part))) for part in splits], dtype=np.int64)
    return out, repeats
