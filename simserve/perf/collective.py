"""Collectives: log time linear in log bytes per method; the fastest method, for all-reduce vLLM's own kernel or NCCL.

vLLM picks by a size threshold per GPU generation that it tunes to the crossing point; the minimum is that
choice without the threshold's small misses. Below the table: its smallest message; above: the last bandwidth.
Ranks that nobody measured take the nearest measured ring, scaled by (r - 1) / r.
Bytes are those of the whole message: the vector that is summed, or all gathered, scattered or exchanged parts
of one rank together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simserve.errors import UnknownName
from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec, load_link

OPS = ("all_gather", "reduce_scatter", "all_to_all")


@dataclass(frozen=True)
class AllReduceCurve:
    """Times of one collective: ns[i] at each queried size."""

    ns: Floats
    source: Source
    note: str
    sizes: frozenset[int]
    largest: int

    def source_at(self, size_bytes: int) -> Source:
        """How the time of one message came about."""
        if size_bytes > self.largest:
            return worst(self.source, "modelled")
        return self.source if size_bytes in self.sizes else worst(self.source, "interpolated")


def measured_all_reduce(gpu: GpuSpec, source: GpuSpec, ranks: int, size_bytes: Floats) -> AllReduceCurve:
    """From the tables of `source`; times of messages of `size_bytes` (array) among `ranks`."""
    return _measured(store.read_table(source.name, "all_reduce"), gpu, source, ranks, size_bytes)


def measured_collective(
    gpu: GpuSpec, source: GpuSpec, op: str, ranks: int, size_bytes: Floats
) -> AllReduceCurve:
    """all_gather, reduce_scatter or all_to_all of messages of `size_bytes` (array) among `ranks`."""
    return _measured(store.read_table(source.name, "collective", {"op": op}), gpu, source, ranks, size_bytes)


def _measured(
    columns: store.Columns, gpu: GpuSpec, source: GpuSpec, ranks: int, size_bytes: Floats
) -> AllReduceCurve:
    have = np.unique(columns["ranks"].astype(np.int64))
    near = int(have[np.argmin(np.abs(np.log(have / ranks)))])
    curves = []
    knots: set[int] = set()
    for method in np.unique(columns["method"].astype(str)):
        rows = (columns["ranks"] == near) & (columns["method"] == method)
        if not rows.any():
            continue
        order = np.argsort(columns["bytes"][rows])
        sizes = columns["bytes"][rows][order].astype(np.float64)
        time = columns["latency_ns"][rows][order].astype(np.float64)
        knots.update(int(x) for x in sizes)
        inside = np.exp(np.interp(np.log(size_bytes), np.log(sizes), np.log(time)))
        curves.append(inside * np.maximum(size_bytes / sizes[-1], 1.0))
    ns = np.minimum.reduce(curves)
    kind: Source = "measured"
    note = ""
    if near != ranks:
        ns = ns * ((ranks - 1) / ranks) / ((near - 1) / near)
        kind, note = "modelled", f"ring of {near} ranks scaled to {ranks}"
    if gpu.interconnect != source.interconnect:
        ns = ns * _link_rate(source) / _link_rate(gpu)
    if gpu.name != source.name:
        kind, note = worst(kind, "transferred"), f"times of {source.name}; {note}".rstrip("; ")
    return AllReduceCurve(ns, kind, note, frozenset(knots), max(knots))


def measured_exchange(
    gpu: GpuSpec, source: GpuSpec, op: str, method: str, shape: tuple[int, int, int, int], tokens: Floats
) -> AllReduceCurve:
    """DeepEP's "dispatch" or "combine" by `method`; shape: (ranks, hidden, experts, topk); `tokens` of one rank.

    Another hidden size goes with the bytes; ranks that nobody measured with the share that leaves the rank.
    """
    columns = store.read_table(source.name, "moe_exchange", {"op": op, "method": method})
    if not len(columns["latency_ns"]):
        known = sorted({str(name) for name in store.read_table(source.name, "moe_exchange")["method"]})
        raise UnknownName("exchange method", method, known)
    keys = [columns[name].astype(np.int64) for name in ("ranks", "hidden", "experts", "topk")]
    have = sorted(set(zip(*(key.tolist() for key in keys), strict=True)))
    near = min(have, key=lambda other: float(np.abs(np.log(np.divide(other, shape))) @ (8.0, 4.0, 1.0, 2.0)))
    rows = np.flatnonzero(np.all([key == value for key, value in zip(keys, near, strict=True)], axis=0))
    rows = rows[np.argsort(columns["tokens"][rows])]
    x, y = (columns[name][rows].astype(np.float64) for name in ("tokens", "latency_ns"))
    ns = np.exp(monotone(np.log(x), np.log(y), np.log(tokens))) * np.maximum(tokens / x[-1], 1.0)
    kind: Source = "measured" if near == shape else "modelled"
    note = "" if near == shape else f"times of (ranks, hidden, experts, topk) = {near}, by bytes"
    ns = ns * shape[1] / near[1] * ((shape[0] - 1) / shape[0]) / ((near[0] - 1) / near[0])
    if gpu.name != source.name:
        ns = ns * _link_rate(source) / _link_rate(gpu)
        kind, note = worst(kind, "transferred"), f"times of {source.name}; {note}".rstrip("; ")
    return AllReduceCurve(ns, kind, note, frozenset(int(t) for t in x), int(x[-1]))


def roofline_all_reduce(gpu: GpuSpec, ranks: int, size_bytes: Floats) -> AllReduceCurve:
    """Without a table: a ring at a documented share of the link, plus a launch floor."""
    return _ring(gpu, 2 * (ranks - 1) / ranks * size_bytes)


def roofline_collective(gpu: GpuSpec, ranks: int, size_bytes: Floats) -> AllReduceCurve:
    """Any of OPS without a table: each rank receives (ranks - 1) / ranks of the message."""
    return _ring(gpu, (ranks - 1) / ranks * size_bytes)


def _ring(gpu: GpuSpec, traffic: Floats) -> AllReduceCurve:
    ns = roofline.COLLECTIVE_FLOOR_NS + traffic / _link_rate(gpu) * NS
    return AllReduceCurve(ns, "modelled", "ring on the link's bandwidth", frozenset(), 0)


def _link_rate(gpu: GpuSpec) -> float:
    link = load_link(gpu.interconnect)
    return link.bandwidth_bytes_per_s * (link.efficiency or roofline.LINK_EFFICIENCY)
