"""Multi-head latent attention (DeepSeek): KV of 512 + 64 values a token, shared by all heads of a rank.

Tables hold two parts: `kernel`, attention alone, and `module`, vLLM's whole block of DeepSeek-V3 with its projections.
A captured step is GEMMs + batched GEMMs (`measured_bmm`, decode only) + kernel + norms, rotary embedding and KV writes;
on Blackwell that sum agrees with the module within 10 %, on Hopper module rows also hold their launches at small
batches (perfdb/README.md).

Over batch and tokens or contexts the rules are those of ordinary attention (prefill.py, decode.py). Heads that nobody
measured lie between the two measured numbers around them, log time linear in log heads; outside of those, prefill
follows its FLOP and decode the longer of its bytes and FLOP, both down to the shortest time measured.
(H100 has both: from its 128 heads to 16, decode is 1 to 13 % high, prefill right at 16,384 tokens, 24 % low at 4,096.)
"""

from __future__ import annotations

from math import log

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.decode import EXPONENTS, DecodeTable, decode_table
from simserve.perf.gemm import Curve
from simserve.perf.prefill import PrefillTable, grid_of
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.perf.shapes import Match
from simserve.spec.hardware import GpuSpec

KV_RANK, ROPE, NOPE, VALUE = 512, 64, 128, 128  # of every DeepSeek and Kimi model
LATENT = KV_RANK + ROPE


def measured_mla_decode(
    gpu: GpuSpec,
    source: GpuSpec,
    kv_dtype: str,
    heads: int,
    max_batch: int,
    *,
    part: str = "kernel",
    dtype: str = "bf16",
) -> DecodeTable:
    """From the tables of `source`, on the memory bandwidth of `gpu`; `heads` of one rank."""
    columns = _rows(source, "mla_decode", kv_dtype, part, dtype)
    size = LATENT * roofline.element_bytes(kv_dtype)
    tables: list[DecodeTable] = []
    around, kind, note = _around(heads, columns)
    for near, _ in around:
        rows = columns["heads"] == near
        batch, context, time = (columns[name][rows].astype(np.float64) for name in ("batch", "context", "latency_ns"))
        match = Match(near, 1, LATENT, 1.0, 1.0, kind, note)
        tables.append(decode_table(gpu, source, (batch, context, time), size, match, max_batch))
    ns = np.exp(sum(weight * np.log(table.ns) for (_, weight), table in zip(around, tables, strict=True)))
    if kind == "modelled":
        ratio = _decode_rate(source, kv_dtype, heads) / _decode_rate(source, kv_dtype, around[0][0])
        ns = np.maximum(ns * ratio, ns.min())
    first = tables[0]
    hull = min(table.hull for table in tables)
    return DecodeTable(ns, first.shape_source, first.note, first.measured_batch, hull)


def measured_mla_prefill(
    gpu: GpuSpec, source: GpuSpec, kv_dtype: str, heads: int, *, part: str = "kernel", dtype: str = "bf16"
) -> PrefillTable:
    """From the tables of `source`, on the peak FLOP/s of `gpu`; `heads` of one rank, nothing cached before."""
    columns = _rows(source, "mla_prefill", kv_dtype, part, dtype)
    around, kind, note = _around(heads, columns)
    grids: list[Floats] = []
    lengths: list[Floats] = []
    for near, _ in around:
        rows = (columns["heads"] == near) & (columns["past"] == 0)
        batch, tokens = (columns[name][rows].astype(np.int64) for name in ("batch", "tokens"))
        grid, length = grid_of(batch, tokens, columns["latency_ns"][rows].astype(np.float64))
        grids.append(grid)
        lengths.append(length)
    shared = [value for value in lengths[0] if all(value in other for other in lengths)]
    rows_shared = min(len(grid) for grid in grids)
    picked = [g[:rows_shared, np.isin(n, shared)] for g, n in zip(grids, lengths, strict=True)]
    log_ns = np.asarray(sum(weight * grid for (_, weight), grid in zip(around, picked, strict=True)))
    if kind == "modelled":
        log_ns = np.maximum(log_ns + log(heads / around[0][0]), log_ns.min())
    if gpu.name != source.name:
        log_ns = log_ns + log(roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16"))
        kind, note = worst(kind, "transferred"), f"utilisation of {source.name}; {note}".rstrip("; ")
    return PrefillTable(log_ns, np.array(shared), kind, note, 1.0)


def measured_bmm(gpu: GpuSpec, source: GpuSpec, op: str, heads: int, tokens: Floats) -> Curve:
    """The batched GEMM before ("pre": query into the latent space) or after ("post") decode, over `tokens`."""
    columns = store.read_table(source.name, "mla_bmm", {"op": op, "dtype": "bf16"})
    around, kind, note = _around(heads, columns)
    log_ns: Floats = np.zeros(len(tokens))
    knots: set[int] = set()
    for near, weight in around:
        rows = np.flatnonzero(columns["heads"] == near)
        rows = rows[np.argsort(columns["tokens"][rows])]
        x = np.log(columns["tokens"][rows].astype(np.float64))
        y = np.log(columns["latency_ns"][rows].astype(np.float64))
        beyond = np.maximum(np.log(tokens) - x[-1], 0.0)
        log_ns = log_ns + weight * (monotone(x, y, np.log(tokens)) + beyond)
        knots.update(columns["tokens"][rows].tolist())
    ns = np.exp(log_ns)
    if gpu.name != source.name:
        ns = ns * source.memory_bandwidth_bytes_per_s / gpu.memory_bandwidth_bytes_per_s
        kind, note = worst(kind, "transferred"), f"times of {source.name}; {note}".rstrip("; ")
    return Curve(ns, kind, note, frozenset(knots), max(knots))


def roofline_mla_decode(gpu: GpuSpec, kv_dtype: str, heads: int, max_batch: int) -> DecodeTable:
    """Without a table: the longer of latent KV at a share of the bandwidth and FLOP at a share of the peak."""
    sums = 2.0 ** np.arange(EXPONENTS)
    row = roofline.ATTENTION_FLOOR_NS + _decode_rate(gpu, kv_dtype, heads) * NS * sums
    return DecodeTable(np.tile(row, (max_batch + 1, 1)), "modelled", "roofline and launch floor", frozenset(), -1)


def _decode_rate(gpu: GpuSpec, kv_dtype: str, heads: int) -> float:
    """Seconds per cached token: latent KV at a share of the bandwidth or FLOP at a share of the peak."""
    bandwidth = gpu.memory_bandwidth_bytes_per_s * roofline.DECODE_BYTE_EFFICIENCY
    read = LATENT * roofline.element_bytes(kv_dtype) / bandwidth
    flop = 2.0 * heads * (LATENT + KV_RANK) / roofline.peak_flops(gpu, "bf16") / roofline.PREFILL_FLOP_EFFICIENCY
    return max(read, flop)


def roofline_mla_prefill(gpu: GpuSpec, heads: int) -> PrefillTable:
    """Without a table: FLOP with K and V expanded per head, at a documented share of the peak, plus a launch floor."""
    lengths: Floats = 2.0 ** np.arange(16, dtype=np.float64)
    batch = 2.0 ** np.arange(9)[:, None]
    rate = roofline.peak_flops(gpu, "bf16") * roofline.PREFILL_FLOP_EFFICIENCY
    flop = 2.0 * batch * lengths * (lengths + 1) / 2 * heads * (NOPE + ROPE + VALUE)
    grid = np.asarray(np.log(roofline.ATTENTION_FLOOR_NS + flop / rate * NS), dtype=np.float64)
    return PrefillTable(grid, lengths, "modelled", "roofline and launch floor", 1.0)


def _rows(source: GpuSpec, family: str, kv_dtype: str, part: str, dtype: str) -> store.Columns:
    return store.read_table(source.name, family, {"part": part, "dtype": dtype, "kv_dtype": kv_dtype})


def _around(heads: int, columns: store.Columns) -> tuple[list[tuple[int, float]], Source, str]:
    """Measured numbers of heads around `heads` with their weights, how good that is, and a note."""
    have = np.unique(columns["heads"]).astype(int).tolist()
    if heads in have:
        return [(heads, 1.0)], "measured", ""
    if not have[0] < heads < have[-1]:
        near = have[0] if heads < have[0] else have[-1]
        return [(near, 1.0)], "modelled", f"from times of {near} heads by bytes and FLOP"
    high = next(value for value in have if value > heads)
    low = have[have.index(high) - 1]
    weight = log(heads / low) / log(high / low)
    return [(low, 1 - weight), (high, weight)], "interpolated", f"between {low} and {high} heads"
