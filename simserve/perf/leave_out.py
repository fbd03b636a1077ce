"""How wrong interpolation is: rows are left out and predicted from their neighbours by the rule of prices.

The gap is then twice what a query inside the table meets, so the figures are on the careful side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simserve.perf.decode import batch_grid
from simserve.perf.gemm import GemmTable
from simserve.perf.roofline import Floats
from simserve.perf.store import KEYS, Columns, groups
from simserve.spec.hardware import GpuSpec

_WHAT = {
    "gemm": "a whole row of n, then of k, from its two neighbours; all m",
    "prefill_attention": "one prompt length from its two neighbours, log time in log tokens; all batches",
    "decode_attention": "one batch size from half and twice of it, at equal sum of contexts",
    "all_reduce": "one size from half and twice of it",
    "collective": "one size from half and twice of it",
}


def summary(family: str, columns: Columns, gpu: GpuSpec) -> dict[str, Any]:
    """Median and 90th percentile of the absolute relative error, signed median, and what was left out."""
    errors = _errors(family, columns, gpu)
    if not len(errors):
        return {}
    size = np.abs(errors)
    return {
        "median": round(float(np.median(size)), 4),
        "p90": round(float(np.quantile(size, 0.9)), 4),
        "signed_median": round(float(np.median(errors)), 4),
        "points": len(errors),
        "left_out": _WHAT[family],
    }


def _errors(family: str, columns: Columns, gpu: GpuSpec) -> Floats:
    if family == "gemm":
        return _gemm(columns, gpu)
    if family == "prefill_attention":
        keys = ("kv_dtype", "head_dim", "heads", "kv_heads", "window", "batch")
        return _in_groups(columns, keys, "tokens")
    if family == "decode_attention":
        return _decode(columns)
    if family in ("all_reduce", "collective"):
        return _in_groups(columns, KEYS[family][:-1], "bytes")
    return np.zeros(0)


def _gemm(columns: Columns, gpu: GpuSpec) -> Floats:
    errors: list[Floats] = []
    for dtype in sorted({str(d) for d in columns["dtype"]}):
        rows = columns["dtype"].astype(str) == dtype
        table = GemmTable(gpu, gpu, dtype, {name: values[rows] for name, values in columns.items()})
        for axis, grid in ((0, table.ns_grid), (1, table.ks_grid)):
            errors.append(_from_neighbours(np.moveaxis(table.log_u, axis, 0), np.log(grid)))
    # Utilisation and time err in opposite directions.
    return -np.concatenate(errors)


def _decode(columns: Columns) -> Floats:
    keys = ("kv_dtype", "head_dim", "heads", "kv_heads", "window")
    errors: list[Floats] = []
    for rows in groups(columns, keys):
        batch, context = (columns[name][rows].astype(np.float64) for name in ("batch", "context"))
        grid = batch_grid(batch, batch * context, columns["latency_ns"][rows].astype(np.float64))
        guess = (grid[:-2] + grid[2:]) / 2
        error = guess / grid[1:-1] - 1
        errors.append(error[np.isfinite(error)])
    return np.concatenate(errors) if errors else np.zeros(0)


def _in_groups(columns: Columns, keys: tuple[str, ...], along: str) -> Floats:
    errors: list[Floats] = []
    for rows in groups(columns, keys):
        order = np.argsort(columns[along][rows])
        x = np.log(columns[along][rows][order].astype(np.float64))
        errors.append(_from_neighbours(np.log(columns["latency_ns"][rows][order].astype(np.float64)), x))
    return np.concatenate(errors) if errors else np.zeros(0)


def _from_neighbours(log_value: Floats, x: Floats) -> Floats:
    """Relative error of each inner entry along axis 0, linear in x between the entries beside it."""
    if len(x) < 3:
        return np.zeros(0)
    weight = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    weight = weight.reshape(-1, *[1] * (log_value.ndim - 1))
    guess = (1 - weight) * log_value[:-2] + weight * log_value[2:]
    error = np.exp(guess - log_value[1:-1]).ravel() - 1
    return np.asarray(error[np.isfinite(error)])

