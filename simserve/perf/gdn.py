"""Gated delta nets (Qwen3.5): a layer's causal convolution and delta rule, without its projections.

Tables hold four operations, heads per rank: over prompts `conv` and `scan`, with one new token a request `conv_update`
and `recurrence`. The cached context of a request costs nothing: its state holds all that the layer remembers.
- prompts: log time, monotone cubic in log tokens, then in log batch. The scan walks through each prompt, prompts and
  heads side by side, so requests of lengths q_i are taken as n = (sum q)^2 / sum q^2 prompts of sum q^2 / sum q tokens;
  past the longest measured prompt time goes with the tokens;
- decode: log time, monotone cubic in log batch; past the largest batch, and below the smallest that physics let pass,
  with the batch;
- numbers of heads that nobody measured: the nearest by value heads, time going with them; other sizes of a head
  likewise by the size of the state. Without a table: bytes and FLOP at shares of the peaks, and two launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from simserve.arch.ops import LinearAttention
from simserve.errors import MissingData
from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.decode import EXPONENTS, DecodeTable
from simserve.perf.prefill import PrefillTable, grid_of
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec

DIM, CONV = 128, 4  # of a head and of the convolution, in all measured rows
PROMPTS, ONE_TOKEN = ("conv", "scan"), ("conv_update", "recurrence")
_KERNELS = 2
# Of large scans and convolutions in the tables of H100 to B200: 0.15 to 0.25 of the peak, 0.5 of the bandwidth.
SCAN_FLOP_EFFICIENCY, CONV_BYTE_EFFICIENCY = 0.15, 0.5
_CHUNK = 64  # tokens that the scan handles at once, by products among themselves [known: flash-linear-attention]


class NetPrefill(PrefillTable):
    """Convolution and scan of prompts; what is cached before a chunk does not matter."""

    def __init__(self, log_ns: Floats, tokens: Floats, source: Source, note: str) -> None:
        super().__init__(log_ns, tokens, source, note, 1.0)
        self._growth = 1.0

    def chunks_ns(self, chunks: Sequence[tuple[int, int]], beside_ns: float = 0.0, longest: float = 0.0) -> float:
        """Time of (chunk tokens, context before) per request, not empty."""
        total = squares = 0.0
        for chunk, _ in chunks:
            total += chunk
            squares += chunk * chunk
        return self.time_ns(total * total / squares, squares / total)


class NetDecode(DecodeTable):
    """One new token per request: by their number alone."""

    def source_at(self, batch: int, context_sum: int) -> Source:
        """How the time of `batch` requests came about."""
        if batch in self.measured_batch or not self.measured_batch:
            return self.shape_source
        inside = min(self.measured_batch) < batch < max(self.measured_batch)
        return worst(self.shape_source, "interpolated" if inside else "modelled")


def measured_prefill(gpu: GpuSpec, source: GpuSpec, op: LinearAttention) -> NetPrefill:
    """From the table of `source`, on the memory bandwidth of `gpu`, the scan on its peak FLOP/s."""
    columns = store.read_table(source.name, "gdn")
    near, scale, kind, note = _nearest(columns, op)
    grids: list[tuple[Floats, Floats]] = []
    for name in PROMPTS:
        rows, rate = _rows(columns, name, near), _rate(gpu, source, name)
        batch, tokens = (columns[key][rows].astype(np.float64) for key in ("batch", "tokens"))
        grids.append(grid_of(batch, tokens, columns["latency_ns"][rows].astype(np.float64) * rate))
    shared = np.intersect1d(grids[0][1], grids[1][1])
    deep = min(len(grid) for grid, _ in grids)
    ns = sum((np.exp(grid[:deep, np.isin(lengths, shared)]) for grid, lengths in grids), np.zeros(1))
    kind, note = _carried(gpu, source, kind, note)
    return NetPrefill(np.log(ns * scale), shared, kind, note)


def measured_decode(gpu: GpuSpec, source: GpuSpec, op: LinearAttention, max_batch: int) -> NetDecode:
    """From the table of `source`, on the memory bandwidth of `gpu`."""
    columns = store.read_table(source.name, "gdn")
    near, scale, kind, note = _nearest(columns, op)
    each = np.zeros(max_batch + 1)
    measured: set[int] = set()
    for name in ONE_TOKEN:
        rows = _rows(columns, name, near)
        rows = rows[np.argsort(columns["batch"][rows])]
        batch, ns = columns["batch"][rows].astype(np.float64), columns["latency_ns"][rows].astype(np.float64)
        wanted = np.arange(1, max_batch + 1, dtype=np.float64)
        with_batch = wanted / np.clip(wanted, batch[0], batch[-1])
        curve = np.exp(monotone(np.log(batch), np.log(ns), np.log(wanted))) * with_batch
        curve = np.maximum(curve, roofline.ELEMENTWISE_FLOOR_NS if batch[0] > 1 else 0.0)
        each[1:] += curve * _rate(gpu, source, name)
        known = set(batch.astype(int).tolist())
        measured = measured & known if measured else known
    kind, note = _carried(gpu, source, kind, note)
    return NetDecode(_by_batch(each * scale), kind, note, frozenset(measured), EXPONENTS)


def roofline_prefill(gpu: GpuSpec, op: LinearAttention) -> NetPrefill:
    """Without a table: the convolved channels in and out, and the scan's FLOP or bytes."""
    lengths: Floats = 2.0 ** np.arange(16, dtype=np.float64)
    tokens = 2.0 ** np.arange(9)[:, None] * lengths
    rate = gpu.memory_bandwidth_bytes_per_s * CONV_BYTE_EFFICIENCY
    values = op.value_heads * op.value_dim
    flop = tokens * values * (4 * op.key_dim + 4 * _CHUNK)
    compute = flop / roofline.peak_flops(gpu, "bf16") / SCAN_FLOP_EFFICIENCY
    seconds = 4 * tokens * op.channels / rate + np.maximum(compute, 2 * tokens * (op.channels + values) / rate)
    floor = _KERNELS * roofline.ATTENTION_FLOOR_NS
    return NetPrefill(np.log(floor + seconds * NS), lengths, "modelled", "roofline and launch floor")


def roofline_decode(gpu: GpuSpec, op: LinearAttention, max_batch: int) -> NetDecode:
    """Without a table: each request's state read and written, and its convolution's."""
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.DECODE_BYTE_EFFICIENCY
    state = 2 * op.value_heads * op.value_dim * op.key_dim * op.state_bytes + 4 * op.channels * op.conv
    each = _KERNELS * roofline.ELEMENTWISE_FLOOR_NS + np.arange(max_batch + 1) * state / rate * NS
    return NetDecode(_by_batch(each), "modelled", "roofline and launch floor", frozenset(), EXPONENTS)


def _by_batch(each: Floats) -> Floats:
    """ns[b, j], the same at every sum of contexts."""
    return np.repeat(each[:, None], EXPONENTS, axis=1)


def _nearest(columns: store.Columns, op: LinearAttention) -> tuple[tuple[int, int], float, Source, str]:
    """Measured (key, value) heads, what their times are multiplied with, and how good that is."""
    have = set(zip(columns["k_heads"].tolist(), columns["v_heads"].tolist(), strict=True))
    wanted = (op.key_heads, op.value_heads)
    near = min(have, key=lambda heads: (abs(log(heads[1] / wanted[1])), abs(log(heads[0] / wanted[0])), heads))
    size = op.key_dim * op.value_dim / DIM**2
    if near == wanted and (op.key_dim, op.value_dim, op.conv) == (DIM, DIM, CONV):
        return near, 1.0, "measured", ""
    note = f"from times of {near[0]} key and {near[1]} value heads of {DIM}"
    return near, wanted[1] / near[1] * size, "modelled", note


def _rows(columns: store.Columns, op: str, heads: tuple[int, int]) -> NDArray[np.int64]:
    same = (columns["op"] == op) & (columns["k_heads"] == heads[0]) & (columns["v_heads"] == heads[1])
    rows = np.flatnonzero(same)
    if not len(rows):
        raise MissingData(f"the gdn table has no rows of {op} with {heads[0]} key and {heads[1]} value heads")
    return rows


def _rate(gpu: GpuSpec, source: GpuSpec, op: str) -> float:
    """What times of `source` are multiplied with on `gpu`: scans compute, all else moves bytes."""
    if op == "scan":
        return roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16")
    return source.memory_bandwidth_bytes_per_s / gpu.memory_bandwidth_bytes_per_s


def _carried(gpu: GpuSpec, source: GpuSpec, kind: Source, note: str) -> tuple[Source, str]:
    """How good a price from the table of `source` is, and its note."""
    if gpu.name == source.name:
        return kind, note
    return worst(kind, "transferred"), f"utilisation of {source.name}; {note}".rstrip("; ")
