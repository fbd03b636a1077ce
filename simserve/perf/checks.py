"""Units and physics of measured tables: no row may be faster than the device can be.

A row is dropped when it beats max(FLOP / peak, bytes / bandwidth), each operand crossing the bus once. Two
reasons are told apart. If the time beats FLOP / peak or (bytes - L2) / bandwidth, the row is impossible:
wrong unit or wrong key. Otherwise the benchmark repeated one operation on data that stayed in the L2 cache:
real, but serving never sees it, as the weights and KV of the other layers pass through the cache in between.
FLOP of causal attention count attended pairs only.
All-reduce: each rank sends at least (ranks - 1) / ranks of the message, switch reduction included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData
from simserve.perf import roofline
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec, LinkSpec
from simserve.units import MIB

# Level-2 cache per device: NVIDIA architecture white papers (A100, H100, Ada); B200 as the driver reports it.
L2_BYTES = {
    "a100_sxm": 40 * MIB,
    "h100_sxm": 50 * MIB,
    "h200_sxm": 50 * MIB,
    "l40s": 96 * MIB,
    "b200_sxm": 126 * MIB,
}
Columns = dict[str, NDArray[np.generic]]
_ELEMENT = {"bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class Dropped:
    """Rows removed for one reason: how many, and the worst few in words."""

    reason: str
    rows: int
    examples: tuple[str, ...]


def l2_bytes(gpu: GpuSpec) -> int:
    """Level-2 cache of a device whose tables are checked; MissingData for one that nobody looked up."""
    if gpu.name not in L2_BYTES:
        raise MissingData(f"no L2 size known for {gpu.name}; add it to simserve/perf/checks.py")
    return L2_BYTES[gpu.name]


def bound_ns(family: str, columns: Columns, gpu: GpuSpec, link: LinkSpec, cached_bytes: int = 0) -> Floats:
    """The least time each row of a table may take, ns, if `cached_bytes` need not cross the memory bus."""
    number = {k: v.astype(np.float64) for k, v in columns.items() if v.dtype.kind in "iuf"}
    if family == "all_reduce":
        ranks = number["ranks"]
        return number["bytes"] * (ranks - 1) / ranks / link.bandwidth_bytes_per_s * NS
    if family == "gemm":
        flop, size = 2 * number["m"] * number["n"] * number["k"], _gemm_bytes(columns, number)
        dtypes = columns["dtype"]
    else:
        flop, size = _attention_work(family, columns, number)
        dtypes = columns["kv_dtype"]
    peak = _per_dtype(dtypes, lambda d: roofline.peak_flops(gpu, d if d in gpu.peak_flops else "bf16"))
    uncached = np.maximum(size - cached_bytes, 0) / gpu.memory_bandwidth_bytes_per_s
    return np.maximum(flop / peak, uncached) * NS


def drop_unphysical(
    family: str, columns: Columns, gpu: GpuSpec, link: LinkSpec
) -> tuple[Columns, list[Dropped]]:
    """The rows that physics allows, and what was removed (non-positive times included)."""
    bound, time = bound_ns(family, columns, gpu, link), columns["latency_ns"].astype(np.float64)
    broken = ~(time > 0)
    impossible = ~broken & (time < bound_ns(family, columns, gpu, link, l2_bytes(gpu)))
    cached = ~broken & ~impossible & (time < bound)
    keep = ~(broken | impossible | cached)
    reasons = {
        "not positive": broken,
        "faster than the roofline, caches granted: impossible": impossible,
        "faster than the roofline: operands stayed in the L2 cache of the benchmark": cached,
    }
    dropped = [
        Dropped(why, int(rows.sum()), _examples(columns, bound, rows))
        for why, rows in reasons.items()
        if rows.any()
    ]
    return {name: values[keep] for name, values in columns.items()}, dropped


def _gemm_bytes(columns: Columns, number: dict[str, Floats]) -> Floats:
    element = _elements(columns["dtype"])
    m, n, k = number["m"], number["n"], number["k"]
    return element * (m * k + n * k) + 2 * m * n


def _attention_work(family: str, columns: Columns, number: dict[str, Floats]) -> tuple[Floats, Floats]:
    batch, heads, kv_heads, dim = (number[c] for c in ("batch", "heads", "kv_heads", "head_dim"))
    element = _elements(columns["kv_dtype"])
    if family == "prefill_attention":
        tokens = number["tokens"]
        pairs, queries, context = batch * tokens * (tokens + 1) / 2, batch * tokens, batch * tokens
    else:
        pairs, queries, context = batch * number["context"], batch, batch * number["context"]
    size = 2 * context * kv_heads * dim * element + 4 * queries * heads * dim
    return 4 * pairs * heads * dim, size


def _elements(dtypes: NDArray[np.generic]) -> Floats:
    return _per_dtype(dtypes, lambda d: _ELEMENT[d])


def _per_dtype(dtypes: NDArray[np.generic], value: Callable[[str], float]) -> Floats:
    names, index = np.unique(dtypes.astype(str), return_inverse=True)
    return np.array([value(str(name)) for name in names], dtype=np.float64)[index]


def _examples(columns: Columns, bound: Floats, mask: NDArray[np.bool_], limit: int = 3) -> tuple[str, ...]:
    time = columns["latency_ns"].astype(np.float64)
    ratio = np.where(mask, time / np.maximum(bound, 1e-9), np.inf)
    return tuple(_describe(columns, bound, int(i)) for i in np.argsort(ratio)[: min(limit, int(mask.sum()))])


def _describe(columns: Columns, bound: Floats, row: int) -> str:
    keys: Sequence[str] = [c for c in columns if c not in ("latency_ns", "kernel")]
    shape = ", ".join(f"{key}={columns[key][row]}" for key in keys)
    return f"{shape}: {columns['latency_ns'][row]} ns measured, bound {bound[row]:.0f} ns"
