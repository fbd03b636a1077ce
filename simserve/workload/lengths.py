"""Token counts of prompts and outputs: int64, at least 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.spec.lengths import LengthSpec, is_json
from simserve.workload.files import read_columns, read_json_lengths, resolve

Ints = NDArray[np.int64]


def lengths(spec: LengthSpec, count: int, rng: np.random.Generator, base_dir: Path | None) -> Ints:
    """`count` lengths after `spec`; a lognormal with the mean and std of the variable before clipping."""
    if spec.kind == "fixed":
        return np.full(count, spec.value, dtype=np.int64)
    if spec.kind == "uniform":
        low, high = spec.ends
        return rng.integers(low, high + 1, count, dtype=np.int64)
    if spec.kind == "lognormal":
        return _lognormal(spec, count, rng)
    return rng.choice(_observed(spec, base_dir), count)


def _lognormal(spec: LengthSpec, count: int, rng: np.random.Generator) -> Ints:
    mean, std = spec.mean or 1.0, spec.std or 1.0
    variance = np.log1p((std / mean) ** 2)
    drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)
    return np.clip(np.rint(drawn), spec.min or 1, spec.max or 1 << 31).astype(np.int64)


def _observed(spec: LengthSpec, base_dir: Path | None) -> Ints:
    """The values to draw from."""
    if spec.values is not None:
        return np.array(spec.values, dtype=np.int64)
    path, column = resolve(spec.path or "", base_dir), spec.column or ""
    if is_json(spec.path or ""):
        return read_json_lengths(path, spec.column)
    values = read_columns(path, {column: "int"})[column]
    if (values < 1).any():
        row = int(np.flatnonzero(values < 1)[0])
        raise SpecError("a length below 1 token", file=f"{path}, row {row + 2}", key=column,
                        value=int(values[row]))  # fmt: skip
    return values
