"""Copies between host and GPU: bytes at the bandwidth of large copies, and what each piece of a batch adds.

    time = latency + pieces x (bytes / bandwidth + overhead(bytes, pieces))

The overhead is measured for batches of 10,000 to 100,000 pieces on PCIe 5.0 and is no constant: below 28 KiB the copy
engine moves pages at 4 to 7 GB/s, from 28 KiB on at 40 to 50 (`perfdb/pcie5_x16`). Between measured sizes the overhead
is linear in log size, never across that cliff; above 64 KiB it stays. Other generations take it over (transferred).
Copies in both directions at once lose what was measured on PCIe 4.0. Pageable memory halves the rate: a rule of thumb
without a published curve, so such a price is modelled.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from simserve.errors import UnknownName
from simserve.perf import store
from simserve.perf.priced import Priced, Source, worst
from simserve.perf.roofline import Floats
from simserve.spec.hardware import LinkSpec
from simserve.units import KIB, NS_PER_S

PAGEABLE_FACTOR = 2.0  # [guessed]
CLIFF_BYTES = 28 * KIB
_BATCHED = "pcie5_x16"
_BOTH = "pcie4_x16"


def copy(
    link: LinkSpec, size_bytes: int, pieces: int = 1, *, direction: str = "h2d", memory: str = "pinned",
    both: bool = False,
) -> Priced:  # fmt: skip
    """The price of one copy of `pieces` pieces of `size_bytes` each; both: the other direction is busy as well."""
    for word, value, known in (("direction", direction, ("h2d", "d2h")), ("memory", memory, ("pinned", "pageable"))):
        if value not in known:
            raise UnknownName(word, value, known)
    rate, source = large_rate(link, direction)
    overhead = piece_overhead_ns(size_bytes, pieces)
    if pieces > 1:
        on_grid = link.name == _BATCHED and _measured(size_bytes, pieces)
        source = worst(source, "measured" if on_grid else "interpolated" if link.name == _BATCHED else "transferred")
    ns = link.latency_ns + pieces * (size_bytes / rate * NS_PER_S + overhead)
    note = ""
    if both:
        ns *= _both_factor()
        source, note = worst(source, "transferred"), "both directions: as on PCIe 4.0"
    if memory == "pageable":
        ns *= PAGEABLE_FACTOR
        source, note = "modelled", "pageable: twice the time of pinned memory, a rule of thumb"
    return Priced(ns, source, f"{link.name}/host_copy", note)


def piece_overhead_ns(size_bytes: int, pieces: int) -> float:
    """What each of `pieces` pieces of `size_bytes` adds to its bytes at full bandwidth; 0 for a single piece."""
    if pieces <= 1:
        return 0.0
    sizes, counts, extra = _overheads()
    side = sizes < CLIFF_BYTES if size_bytes < CLIFF_BYTES else sizes >= CLIFF_BYTES
    at_counts = [np.interp(np.log(size_bytes), np.log(sizes[side]), row[side]) for row in extra]
    return float(np.interp(np.log(pieces), np.log(counts), at_counts))


def large_rate(link: LinkSpec, direction: str) -> tuple[float, Source]:
    """Bytes/s of a large copy in one direction; the other direction's, or the datasheet's, if nobody measured it."""
    if store.has_table(link.name, "host_copy"):
        columns = store.read_table(link.name, "host_copy")
        large = columns["pieces"] == 1
        choices: tuple[tuple[str, Source], ...] = ((direction, "measured"), ("h2d", "transferred"))
        for name, source in choices:
            rows = large & (columns["direction"] == name)
            if rows.any():
                rate = columns["bytes"][rows] / columns["latency_ns"][rows].astype(np.float64) * NS_PER_S
                return float(rate.max()), source
    return float(link.payload_bytes_per_s), "modelled"


@lru_cache(maxsize=1)
def _overheads() -> tuple[Floats, list[float], list[Floats]]:
    """(piece sizes, numbers of pieces, ns that a piece adds at each size, per number of pieces)."""
    columns = store.read_table(_BATCHED, "host_copy")
    size, pieces, ns = (columns[name].astype(np.float64) for name in ("bytes", "pieces", "latency_ns"))
    rate = (size / ns)[pieces == 1].max()
    counts = sorted({float(p) for p in pieces if p > 1})
    sizes = np.unique(size[pieces > 1])
    extra = []
    for count in counts:
        rows = pieces == count
        order = np.argsort(size[rows])
        extra.append(np.maximum((ns[rows] / count - size[rows] / rate)[order], 0.0))
    return sizes, counts, extra


def _measured(size_bytes: int, pieces: int) -> bool:
    sizes, counts, _ = _overheads()
    return size_bytes in sizes and pieces in counts


@lru_cache(maxsize=1)
def _both_factor() -> float:
    """Time of a copy while the other direction is busy over its time alone."""
    columns = store.read_table(_BOTH, "host_copy")
    time = {str(d): int(t) for d, t in zip(columns["direction"], columns["latency_ns"], strict=True)}
    return time["bidir"] / time["h2d"]
