"""Collectives over several nodes: inside each node as measured, across them on the link between nodes, in turn.

As NCCL's hierarchical rings: an all-reduce scatters inside the node, reduces each part across the nodes over every
GPU's own port, and gathers inside. Nobody has measured any of it here, so all of it is 'modelled'.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np

from simserve.perf import roofline
from simserve.perf.collective import AllReduceCurve, measured_collective, roofline_collective
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec, LinkSpec

Tables = tuple[GpuSpec, GpuSpec] | None


def link_ns(link: LinkSpec, size_bytes: Floats | float, hops: int = 1) -> Floats:
    """Time of `size_bytes` over one port; a link whose efficiency nobody measured gets that of collectives."""
    rate = link.bandwidth_bytes_per_s * (link.efficiency or roofline.LINK_EFFICIENCY)
    return np.asarray(hops * link.latency_ns + np.asarray(size_bytes) / rate * NS, dtype=np.float64)


def across(
    op: str, gpu: GpuSpec, tables: Tables, link: LinkSpec, ranks: int, per_node: int, size_bytes: Floats
) -> AllReduceCurve:
    """all_reduce, all_gather, reduce_scatter or all_to_all among `ranks`, `per_node` of them in each node.

    tables: (this device, the one whose measured collectives answer), None for the roofline; size_bytes: of the whole
    message, as in `collective`.
    """
    nodes = ceil(ranks / per_node)
    leaves = (nodes - 1) / nodes
    hops = ceil(log2(nodes))
    if op == "all_to_all":
        ns = _inside(op, gpu, tables, per_node, size_bytes / nodes) + link_ns(link, leaves * size_bytes, hops)
    else:
        passes = ("reduce_scatter", "all_gather") if op == "all_reduce" else (op,)
        part = size_bytes / per_node
        ns = sum((_inside(name, gpu, tables, per_node, size_bytes) for name in passes), np.zeros(len(size_bytes)))
        ns = ns + len(passes) * link_ns(link, leaves * part, hops)
    note = f"{nodes} nodes of {per_node} ranks over {link.name}"
    return AllReduceCurve(ns, "modelled", note, frozenset(), 0)


def _inside(op: str, gpu: GpuSpec, tables: Tables, ranks: int, size_bytes: Floats) -> Floats:
    if ranks == 1:
        return np.zeros(len(size_bytes))
    if tables is None:
        return roofline_collective(gpu, ranks, size_bytes).ns
    return measured_collective(*tables, op, ranks, size_bytes).ns
