"""Units and physics of measured tables: no row may be faster than the device can be.

A row is dropped when it beats max(FLOP / peak, bytes / bandwidth), each operand crossing the bus once. Two
reasons are told apart. If the time beats FLOP / peak or (bytes - L2) / bandwidth, the row is impossible:
wrong unit or wrong key. Otherwise the benchmark repeated one operation on data that stayed in the L2 cache:
real, but serving never sees it, as the weights and KV of the other layers pass through the cache in between
(WARM: families for which it does). Of decode attention a row also goes that took much longer than one with more
context: nothing is slower for less work, and prices never fall with the context.
What is counted per family is in `simserve.perf.bounds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData
from simserve.perf import store
from simserve.perf.bounds import bound_ns
from simserve.perf.roofline import Floats
from simserve.spec.hardware import GpuSpec, LinkSpec
from simserve.units import MIB

# Level-2 cache per device: NVIDIA architecture white papers (A100, GA102, T4, H100, Ada, RTX Blackwell); A30 as its
# product brief says; H20 60 MiB as public device queries print; H800 as H100; B200 as the driver reports it, and its
# Ultra and Grace versions as the same [recalled].
L2_BYTES = {
    "t4": 4 * MIB,
    "a10": 6 * MIB,
    "a10g": 6 * MIB,
    "l4": 48 * MIB,
    "a100_sxm_40gb": 40 * MIB,
    "a30": 24 * MIB,
    "a40": 6 * MIB,
    "rtx_a6000": 6 * MIB,
    "rtx_3090": 6 * MIB,
    "rtx_4090": 72 * MIB,
    "h20": 60 * MIB,
    "h800": 50 * MIB,
    "a100_sxm": 40 * MIB,
    "h100_sxm": 50 * MIB,
    "h200_sxm": 50 * MIB,
    "l40s": 96 * MIB,
    "b200_sxm": 126 * MIB,
    "b300_sxm": 126 * MIB,
    "gb200": 126 * MIB,
    "gb300": 126 * MIB,
    "rtx_pro_6000": 128 * MIB,
}
# Passes that read in serving, too, what the kernel before them left in the cache.
WARM = ("elementwise",)
# GeForce cards run above the boost clock that their rated peak assumes: measured GEMMs reach 1.06 of it (RTX 3090).
ABOVE_RATED = {"rtx_3090": 1.12, "rtx_4090": 1.12}
HELD_UP = 3.0  # noise is below; the rows above it take up to 200 times as long (H200, MLA: 2.2 ms beside 12 us)
Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Dropped:
    """Rows removed for one reason: how many, and the worst few in words."""

    reason: str
    rows: int
    examples: tuple[str, ...]


def known_l2(device: str, unknown: int = 0) -> int:
    """Level-2 cache of a device in bytes ('h100_sxm/vidur' is an h100_sxm), `unknown` where nobody looked it up."""
    return L2_BYTES.get(device.partition("/")[0], unknown)


def l2_bytes(gpu: GpuSpec) -> int:
    """Level-2 cache of a device whose tables are checked; MissingData for one that nobody looked up."""
    known = known_l2(gpu.name)
    if not known:
        raise MissingData(f"no L2 size known for {gpu.name}; add it to simserve/perf/checks.py")
    return known


def drop_unphysical(
    family: str, columns: Columns, gpu: GpuSpec, link: LinkSpec
) -> tuple[Columns, list[Dropped]]:
    """The rows that physics allows, and what was removed (non-positive times included)."""
    clock = ABOVE_RATED.get(gpu.name.partition("/")[0], 1.0)
    peaks = {name: round(value * clock) for name, value in gpu.peak_flops.items()}
    gpu = gpu.model_copy(update={"peak_flops": peaks})
    bound, time = bound_ns(family, columns, gpu, link), columns["latency_ns"].astype(np.float64)
    broken = ~(time > 0)
    impossible = ~broken & (time < bound_ns(family, columns, gpu, link, l2_bytes(gpu)))
    cached = ~broken & ~impossible & (time < bound) & (family not in WARM)
    held_up = _slower_than_longer(family, columns, time) & ~(broken | impossible | cached)
    keep = ~(broken | impossible | cached | held_up)
    reasons = {
        "not positive": broken,
        "faster than the roofline, caches granted: impossible": impossible,
        "faster than the roofline: operands stayed in the L2 cache of the benchmark": cached,
        f"more than {HELD_UP:g} times as long as a longer context: something else ran": held_up,
    }
    dropped = [
        Dropped(why, int(rows.sum()), _examples(columns, bound, rows))
        for why, rows in reasons.items()
        if rows.any()
    ]
    return {name: values[keep] for name, values in columns.items()}, dropped


def _slower_than_longer(family: str, columns: Columns, time: Floats) -> NDArray[np.bool_]:
    """Rows of decode attention that took more than `HELD_UP` times as long as one that only has more context."""
    slow = np.zeros(len(time), dtype=np.bool_)
    if family not in ("decode_attention", "mla_decode"):
        return slow
    for rows in store.groups(columns, store.KEYS[family][:-1]):
        ordered = rows[np.argsort(columns["context"][rows])]
        least = np.minimum.accumulate(time[ordered][::-1])[::-1]
        slow[ordered] = time[ordered] > HELD_UP * least
    return slow


def _examples(columns: Columns, bound: Floats, mask: NDArray[np.bool_], limit: int = 3) -> tuple[str, ...]:
    time = columns["latency_ns"].astype(np.float64)
    ratio = np.where(mask, time / np.maximum(bound, 1e-9), np.inf)
    return tuple(_describe(columns, bound, int(i)) for i in np.argsort(ratio)[: min(limit, int(mask.sum()))])


def _describe(columns: Columns, bound: Floats, row: int) -> str:
    keys: Sequence[str] = [c for c in columns if c not in ("latency_ns", "kernel")]
    shape = ", ".join(f"{key}={columns[key][row]}" for key in keys)
    return f"{shape}: {columns['latency_ns'][row]} ns measured, bound {bound[row]:.0f} ns"
