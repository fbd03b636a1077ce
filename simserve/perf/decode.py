"""Decode attention: piecewise linear in S, the sum of the contexts, per batch size b.

The table holds equal contexts c at batch b, in most tables both powers of two, so S = b c is one too; elsewhere rows
less than a factor of two apart are joined by a line to the powers between them. For each b the time is linear
between S = 2^j and 2^(j+1); between measured batch sizes log time is a monotone cubic in log b at equal S: the bytes
that must be read go with S alone, only launch and split overheads with b. A knot that nobody measured lies on the
monotone cubic of log time in log S through its row. Beyond the table the last slope goes on. KV comes from memory in
serving (the other layers' KV passes through the cache), so no time is believed below the KV bytes at the bandwidth
that the largest rows reach.

With a sliding window each request attends at most `window` tokens. Rows and queries still count whole contexts: at
batch b the mean context S / b says how much of the window is filled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simserve.errors import MissingData
from simserve.perf import roofline, store
from simserve.perf.checks import known_l2
from simserve.perf.curves import monotone
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.perf.shapes import Match, nearest
from simserve.spec.hardware import GpuSpec, HostSpec

# S up to 2^39 tokens: more than any memory holds, so that no query needs a bound check.
EXPONENTS = 40
_POWERS = 2.0 ** np.arange(EXPONENTS)


@dataclass(frozen=True)
class DecodeTable:
    """One layer's decode attention: ns[b, j] at batch b and sum of contexts 2^j; b from 0 to max_batch.

    measured_batch: b that the table holds; hull: largest measured j per row of batch (-1 without a table);
    least_context: shortest measured context of a request.
    """

    ns: Floats
    shape_source: Source
    note: str
    measured_batch: frozenset[int]
    hull: int
    least_context: float = 0.0

    def time_ns(self, batch: int, context_sum: int) -> float:
        """Time of `batch` requests with `context_sum` tokens in all."""
        return float(np.interp(context_sum, _POWERS, self.ns[batch]))

    def source_at(self, batch: int, context_sum: int) -> Source:
        """How the time of `batch` requests with `context_sum` tokens in all came about."""
        beyond = context_sum > 2.0**self.hull or (self.measured_batch and batch > max(self.measured_batch))
        if beyond or context_sum < batch * self.least_context:
            return worst(self.shape_source, "modelled")
        on_knot = batch in self.measured_batch and context_sum & (context_sum - 1) == 0
        return self.shape_source if on_knot else worst(self.shape_source, "interpolated")


def segments(ns: Floats) -> tuple[Floats, Floats]:
    """a[..., j] and c[..., j] with time = a + c S for 2^(j-1) <= S < 2^j, that is j = S.bit_length()."""
    slope = np.diff(ns, axis=-1) / np.diff(_POWERS)
    intercept = ns[..., :-1] - slope * _POWERS[:-1]
    first = np.zeros((*ns.shape[:-1], 1))
    return np.concatenate([ns[..., :1], intercept], axis=-1), np.concatenate([first, slope], axis=-1)


def measured_decode(
    gpu: GpuSpec,
    source: GpuSpec,
    kv_dtype: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    max_batch: int,
    window: int = 0,
) -> DecodeTable:
    """From the tables of `source`, on the memory bandwidth of `gpu`. window: keys a query sees, 0 = all."""
    where: dict[str, str | int] = {"kv_dtype": kv_dtype, "window": window}
    columns = store.read_table(source.name, "decode_attention", where)
    h, kv, dim = (columns[c].astype(np.int64) for c in ("heads", "kv_heads", "head_dim"))
    match = nearest(heads, kv_heads, head_dim, set(zip(h.tolist(), kv.tolist(), dim.tolist(), strict=True)))
    rows = (h == match.heads) & (kv == match.kv_heads) & (dim == match.head_dim)
    batch, context = (columns[c][rows].astype(np.int64) for c in ("batch", "context"))
    time = columns["latency_ns"][rows].astype(np.float64)
    size = token_bytes_of(kv_dtype, match.kv_heads, match.head_dim)
    return decode_table(gpu, source, (batch, context, time), size, match, max_batch, window)


def without_batch(
    source: GpuSpec, rows: tuple[Floats, Floats, Floats], token_bytes: float, window: int, batch: int
) -> tuple[Floats, Floats]:
    """(priced, measured) ns of the rows at `batch`, priced from a table compiled without them."""
    gone = rows[0] == batch
    batches, contexts, times = ((values[~gone], values[gone]) for values in rows)
    knots, complete = _compiled(source, (batches[0], contexts[0], times[0]), token_bytes, window)
    row = _rows_at(knots, complete, np.log2(batches[1][:1]))[0]
    return np.interp(batches[1] * contexts[1], _POWERS, row), times[1]


def _compiled(
    source: GpuSpec | HostSpec, rows: tuple[Floats, Floats, Floats], token_bytes: float, window: int
) -> tuple[Floats, Floats]:
    """`_complete` of the rows (batch, context, ns) of one shape."""
    batch, context, time = rows
    token_ns = token_bytes / source.memory_bandwidth_bytes_per_s * NS
    streamed_from = 4 * known_l2(source.name) / token_bytes
    return _complete(*batch_grid(batch, batch * context, time), token_ns, streamed_from, window)


def decode_table(
    gpu: GpuSpec | HostSpec,
    source: GpuSpec | HostSpec,
    rows: tuple[Floats, Floats, Floats],
    token_bytes: float,
    match: Match,
    max_batch: int,
    window: int = 0,
) -> DecodeTable:
    """A table from rows (batch, context, ns) of one shape on `source`; token_bytes: KV of one token of one layer."""
    batch, context, _ = rows
    knots, complete = _compiled(source, rows, token_bytes, window)
    ns = _on_batches(knots, complete, match, max_batch)
    note, shape_source = match.note, match.source
    if gpu.name != source.name:
        ratio = source.memory_bandwidth_bytes_per_s / gpu.memory_bandwidth_bytes_per_s
        ns = ns[:, :1] + (ns - ns[:, :1]) * ratio
        note = f"utilisation of {source.name}; {note}".rstrip("; ")
        shape_source = worst(shape_source, "transferred")
    measured = frozenset(b for b in range(1, max_batch + 1) if b * match.batch_scale in set(batch.tolist()))
    hull = int(np.log2((batch * context).max() / match.batch_scale))
    return DecodeTable(ns, shape_source, note, measured, hull, _least_context(context))


def _least_context(context: Floats) -> float:
    """Contexts up to 16 tokens are as good as none: every table starts there or says where it starts."""
    return float(context.min()) if context.min() > 16 else 0.0


def within_window(table: DecodeTable, window: int) -> DecodeTable:
    """The same layer if each request attended at most `window` tokens: priced as at that context. 0: as it is."""
    if not window:
        return table
    most = np.arange(len(table.ns)) * window
    capped = [np.interp(np.minimum(_POWERS, most[b]), _POWERS, row) for b, row in enumerate(table.ns)]
    note = f"full attention over the window; {table.note}".rstrip("; ")
    return replace(table, ns=np.array(capped), shape_source=worst(table.shape_source, "modelled"), note=note)


def roofline_decode(
    gpu: GpuSpec, kv_element: int, kv_heads: int, head_dim: int, max_batch: int
) -> DecodeTable:
    """Without a table: KV bytes at a documented share of the bandwidth, plus a launch floor."""
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.DECODE_BYTE_EFFICIENCY
    token_ns = roofline.kv_bytes(1, kv_heads, head_dim, kv_element) / rate * NS
    row = roofline.ATTENTION_FLOOR_NS + token_ns * _POWERS
    ns = np.tile(row, (max_batch + 1, 1))
    return DecodeTable(ns, "modelled", "roofline and launch floor", frozenset(), -1)


def token_bytes_of(kv_dtype: str, kv_heads: int, head_dim: int) -> float:
    return roofline.kv_bytes(1, kv_heads, head_dim, 1 if kv_dtype == "fp8" else 2)


def batch_grid(batch: Floats, context_sum: Floats, time: Floats) -> tuple[Floats, Floats]:
    """(measured batch sizes, their rows over log2 S in ns); NaN where nothing within a factor of two was measured."""
    batches = np.unique(batch).astype(np.float64)
    grid = np.full((len(batches), EXPONENTS), np.nan)
    for row, value in zip(grid, batches, strict=True):
        at = np.flatnonzero(batch == value)
        at = at[np.argsort(context_sum[at])]
        sums, ns = context_sum[at].astype(np.float64), time[at]
        high = np.searchsorted(sums, _POWERS).clip(0, len(sums) - 1)
        near = (sums[high] < 2 * sums[np.maximum(high - 1, 0)]) & (sums[0] <= _POWERS) & (sums[-1] >= _POWERS)
        row[near] = np.interp(_POWERS, sums, ns)[near]
        exact = sums[high] == _POWERS
        row[exact] = ns[high][exact]
    return batches, grid


def _complete(
    batches: Floats, grid: Floats, token_ns: float, streamed_from: float, window: int = 0
) -> tuple[Floats, Floats]:
    """(log2 of the measured batch sizes, their rows with every cell filled).

    Below a row's first measurement its first slope goes on down to the table's fastest time, beyond the last its last
    slope; cubic between.
    streamed_from: tokens read whose KV is too large for any cache; they tell the share of the bandwidth.
    """
    seen = np.tile(_POWERS, (len(grid), 1))
    if window:
        seen = np.minimum(seen, window * batches[:, None])
    shares = np.where(streamed_from <= seen, token_ns * seen / grid, np.nan)
    share = float(np.nanmax(shares)) if np.isfinite(shares).any() else 1.0
    cold = token_ns * seen / min(share, 1.0)
    steepest = 0.0 if window else cold[0, 0]
    rows = np.flatnonzero(np.isfinite(grid).sum(axis=1) >= 2)
    if not len(rows):
        raise MissingData("a decode table needs two contexts at one batch size; collect more points")
    out = np.empty((len(rows), EXPONENTS))
    exponents = np.arange(EXPONENTS, dtype=np.float64)
    for i, row in enumerate(grid[rows]):
        good = np.flatnonzero(np.isfinite(row))
        out[i] = np.exp(monotone(good.astype(np.float64), np.log(row[good]), exponents))
        out[i, good] = row[good]
        last, before = good[-1], good[-2]
        slope = max((row[last] - row[before]) / (_POWERS[last] - _POWERS[before]), steepest)
        first, second = good[0], good[1]
        rise = max((row[second] - row[first]) / (_POWERS[second] - _POWERS[first]), 0.0)
        below = np.arange(EXPONENTS) < first
        out[i, below] = np.maximum(row[first] - rise * (_POWERS[first] - _POWERS[below]), np.nanmin(grid))
        beyond = np.arange(EXPONENTS) > last
        out[i, beyond] = row[last] + slope * (_POWERS[beyond] - _POWERS[last])
    # A longer context never takes less time; the benchmark's noise sometimes says so.
    return np.log2(batches[rows]), np.asarray(np.maximum.accumulate(np.maximum(out, cold[rows]), axis=1))


def _rows_at(knots: Floats, complete: Floats, log_batch: Floats) -> Floats:
    """Rows at any log2 of the batch: a measured one as it is, else the cubic between them."""
    at = np.clip(log_batch, knots[0], knots[-1])
    rows = np.exp(monotone(knots, np.log(complete), at))
    rows = np.maximum.accumulate(rows, axis=1)
    measured = np.isin(at, knots)
    rows[measured] = complete[np.searchsorted(knots, at[measured])]
    return np.asarray(rows, dtype=np.float64)


def _on_batches(knots: Floats, complete: Floats, match: Match, max_batch: int) -> Floats:
    """Times for b = 0..max_batch of the wanted shape, at sums of contexts 2^j of the wanted shape."""
    scale = match.batch_scale
    b = np.maximum(np.arange(max_batch + 1) * scale, 1e-9)
    rows = _rows_at(knots, complete, np.log2(b))
    if scale != 1.0:
        last_slope = (rows[:, -1] - rows[:, -2]) / (_POWERS[-1] - _POWERS[-2])
        wanted = _POWERS * scale
        inside = np.array([np.interp(wanted, _POWERS, row) for row in rows])
        over = np.maximum(wanted - _POWERS[-1], 0.0)
        rows = inside + last_slope[:, None] * over
    return np.asarray(rows * match.time_scale, dtype=np.float64)
