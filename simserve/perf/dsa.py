"""DeepSeek sparse attention (DeepSeek-V3.2, GLM-5): the whole block of a layer, projections and indexer included.

Tables are of SGLang. Decode was captured in CUDA graphs and follows the rule of ordinary attention (decode.py): keys
seen stop at the indexer's top-k, what goes on growing with the context is the indexer's read of one key per cached
token. Prompts were launched eagerly, as they are served:
- while no request is longer than the top-k, cached context included, the block is dense: by the number of new tokens Q,
  the median over batches of equal Q, log time monotone cubic in log Q;
- else as one prompt of Q tokens after p cached ones, of as many pairs P of queries and keys: p = P / Q - (Q + 1) / 2,
  at least 0; log time monotone cubic in log Q, time linear in p between measured ones and beyond. Short prompts without
  context are never sparse, so there the row of the shortest measured context counts. Where a longer context took less
  time, the shorter one is believed to take no more.
Past the last length time goes with the tokens. Numbers of heads that nobody measured take the times of the nearest,
other formats of the projections those of fp8_block, or bf16. Without a table: FLOP and bytes of projections, indexer
and attention.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from simserve.arch.ops import SparseAttention
from simserve.errors import SpecError
from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.decode import EXPONENTS, DecodeTable, decode_table
from simserve.perf.mla import KV_RANK, LATENT, ROPE
from simserve.perf.prefill import Equivalent
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.perf.shapes import Match
from simserve.spec.hardware import GpuSpec

INDEX_BYTES = 132.0  # a key of 128 values in 8 bits with its scale
# The shortest decode of the tables takes 58 to 80 us: a dozen kernels one after the other.
FLOOR_NS = 60_000.0
# Short prompts take as long on every device: the host's launches of a dense block, and of one with its indexer.
EAGER_DENSE_NS, EAGER_SPARSE_NS = 750_000.0, 1_400_000.0
_PER_GAP = 6
# Hidden size -> query rank, dims of a head's unrotated query and value, indexer heads: GLM-5, DeepSeek-V3.2.
_MODELS = {6144: (2048, 192, 256, 32), 7168: (1536, 128, 128, 64)}


def block_of(hidden: int, heads: int, dtype: str) -> SparseAttention:
    """One block of the model with this hidden size; SpecError for any other."""
    if hidden not in _MODELS:
        known = " or ".join(str(size) for size in _MODELS)
        raise SpecError(f"must be the hidden size of a measured model, {known}", key="hidden", value=hidden)
    rank, nope, value, index_heads = _MODELS[hidden]
    return SparseAttention(heads, 1, hidden, rank, KV_RANK, ROPE, nope, value, index_heads, 128, 2048, dtype)


class _Curve:
    """Time over new tokens from points (tokens, ns): straight between points of the cubic in logarithms."""

    def __init__(self, tokens: Floats, ns: Floats) -> None:
        x = np.log(tokens)
        fine = np.interp(np.arange((len(x) - 1) * _PER_GAP + 1) / _PER_GAP, np.arange(len(x)), x)
        self._x: list[float] = fine.tolist()
        self._y: list[float] = monotone(x, np.log(ns), fine).tolist()

    def ns(self, tokens: float) -> float:
        """Flat below the first point; past the last time goes with the tokens."""
        x = log(tokens)
        i = bisect_right(self._x, x)
        if not i or i == len(self._x):
            return exp(self._y[0] if not i else self._y[-1] + x - self._x[-1])
        weight = (x - self._x[i - 1]) / (self._x[i] - self._x[i - 1])
        return exp(self._y[i - 1] + weight * (self._y[i] - self._y[i - 1]))


class SparsePrefill:
    """One layer's block over prompts; see the module's text. topk: keys that a query sees."""

    chain_ns, one_launch = 0.0, False  # of PrefillTable: decoding requests are launched on their own

    def __init__(
        self, dense: _Curve | None, by_past: list[tuple[int, _Curve]], topk: int, source: Source, note: str
    ) -> None:
        self._dense, self._topk = dense, topk
        self._pasts, self._curves = [past for past, _ in by_past], [curve for _, curve in by_past]
        self.shape_source, self.note = source, note

    def chunks_ns(self, chunks: Sequence[tuple[int, int]], beside_ns: float = 0.0, longest: float = 0.0) -> float:
        """Time of (chunk tokens, context before) per request, not empty."""
        tokens = pairs = most = 0.0
        for chunk, past in chunks:
            tokens += chunk
            pairs += chunk * (past + (chunk + 1.0) / 2.0)
            most = max(most, chunk + past)
        if most <= self._topk and self._dense is not None:
            return self._dense.ns(tokens)
        return self._sparse_ns(tokens, max(pairs / tokens - (tokens + 1.0) / 2.0, 0.0))

    def _sparse_ns(self, tokens: float, past: float) -> float:
        if len(self._pasts) == 1:
            return self._curves[0].ns(tokens)
        i = min(max(bisect_right(self._pasts, past) - 1, 0), len(self._pasts) - 2)
        low, high = self._curves[i].ns(tokens), self._curves[i + 1].ns(tokens)
        share = (past - self._pasts[i]) / (self._pasts[i + 1] - self._pasts[i])
        return low + share * max(high - low, 0.0)

    def beside_ns(self, decode_seqs: int, context_sum: int) -> float:
        """Nothing: decoding requests are never in one launch with prompts."""
        return 0.0

    def source_at(self, work: Equivalent) -> Source:
        """How the time of `work` came about: what is no set of equal fresh prompts was converted."""
        return worst(self.shape_source, "interpolated" if work.exact else "modelled")


def measured_prefill(gpu: GpuSpec, source: GpuSpec, kv_dtype: str, op: SparseAttention) -> SparsePrefill:
    """From the table of `source`, on the peak FLOP/s of `gpu`; the host's launches stay what they are."""
    c, kind, note = _rows(source, "dsa_prefill", kv_dtype, op)
    if gpu.name != source.name:
        kind, note = worst(kind, "transferred"), f"utilisation of {source.name}; {note}".rstrip("; ")
    batch, past, length = (c[name].astype(np.int64) for name in ("batch", "past", "tokens"))
    tokens, sparse = (batch * length).astype(np.float64), past + length > op.topk
    time = c["latency_ns"].astype(np.float64)
    ratio = roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16")
    time = np.maximum(time * ratio, np.minimum(time, np.where(sparse, EAGER_SPARSE_NS, EAGER_DENSE_NS)))
    dense = _medians(tokens[~sparse], time[~sparse])
    alone = sparse & (batch == 1)
    return SparsePrefill(dense, _by_past(past[alone], tokens[alone], time[alone]), op.topk, kind, note)


def _medians(tokens: Floats, time: Floats) -> _Curve | None:
    each = np.unique(tokens)
    return _Curve(each, np.array([np.median(time[tokens == n]) for n in each])) if len(each) else None


def _by_past(past: NDArray[np.int64], tokens: Floats, time: Floats) -> list[tuple[int, _Curve]]:
    """(cached tokens, time over new ones) of single prompts; short ones that are missing come from the next row."""
    rows: dict[int, dict[float, float]] = {}
    for cached, new, ns in zip(past.tolist(), tokens.tolist(), time.tolist(), strict=True):
        rows.setdefault(cached, {})[new] = ns
    pasts = sorted(rows)
    for cached, longer in zip(pasts[-2::-1], pasts[:0:-1], strict=True):
        # Of eager launches that took longer after less context the host's noise is the reason.
        rows[cached] = {new: min(ns, rows[longer].get(new, ns)) for new, ns in rows[cached].items()}
    if len(pasts) > 1:
        first, shortest = rows[pasts[0]], min(rows[pasts[0]])
        first |= {new: min(ns, first[shortest]) for new, ns in rows[pasts[1]].items() if new < shortest}
    points = {cached: sorted(rows[cached].items()) for cached in pasts}
    return [(cached, _Curve(*(np.array(axis) for axis in zip(*points[cached], strict=True)))) for cached in pasts]


def measured_decode(
    gpu: GpuSpec, source: GpuSpec, kv_dtype: str, op: SparseAttention, max_batch: int
) -> DecodeTable:
    """From the table of `source`, on the memory bandwidth of `gpu`."""
    c, kind, note = _rows(source, "dsa_decode", kv_dtype, op)
    batch, context, time = (c[name].astype(np.float64) for name in ("batch", "context", "latency_ns"))
    match = Match(op.heads, 1, LATENT, 1.0, 1.0, kind, note)
    return decode_table(gpu, source, (batch, context, time), INDEX_BYTES, match, max_batch)


class RooflinePrefill(SparsePrefill):
    """Without a table: weights once, projections, indexer over all pairs, attention over the picked ones."""

    def __init__(self, gpu: GpuSpec, op: SparseAttention) -> None:
        super().__init__(None, [], op.topk, "modelled", "roofline and launch floor")
        self._weights_ns = _weights_ns(gpu, op)
        peak = roofline.fastest_flops(gpu, op.dtype if roofline.computes(gpu, op.dtype) else "bf16")
        self._token_ns = 2 * (op.shared_weights + op.head_weights) / peak / roofline.GEMM_FLOP_EFFICIENCY * NS
        rate = roofline.peak_flops(gpu, "bf16") * roofline.PREFILL_FLOP_EFFICIENCY
        self._index_ns = 2 * op.index_heads * op.index_dim / rate * NS
        self._pair_ns = 2 * op.heads * (LATENT + KV_RANK) / rate * NS

    def chunks_ns(self, chunks: Sequence[tuple[int, int]], beside_ns: float = 0.0, longest: float = 0.0) -> float:
        """Time of (chunk tokens, context before) per request, not empty."""
        tokens = sum(chunk for chunk, _ in chunks)
        pairs = sum(roofline.causal_pairs(chunk, past) for chunk, past in chunks)
        picked = min(pairs, tokens * self._topk)
        device = self._weights_ns + tokens * self._token_ns + pairs * self._index_ns + picked * self._pair_ns
        sparse = max(chunk + past for chunk, past in chunks) > self._topk
        return max(device, EAGER_SPARSE_NS if sparse else EAGER_DENSE_NS)


def roofline_decode(gpu: GpuSpec, kv_dtype: str, op: SparseAttention, max_batch: int) -> DecodeTable:
    """Without a table: weights once, an index key per cached token, the latent vectors of the picked ones."""
    sums, batch = 2.0 ** np.arange(EXPONENTS), np.arange(max_batch + 1)[:, None]
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.DECODE_BYTE_EFFICIENCY
    latent = LATENT * roofline.element_bytes(kv_dtype)
    read = INDEX_BYTES * sums + latent * np.minimum(sums, batch * op.topk)
    ns = FLOOR_NS + _weights_ns(gpu, op) + read / rate * NS
    return DecodeTable(ns, "modelled", "roofline and launch floor", frozenset(), -1)


def _weights_ns(gpu: GpuSpec, op: SparseAttention) -> float:
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.GEMM_BYTE_EFFICIENCY
    return (op.shared_weights + op.head_weights) * roofline.element_bytes(op.dtype) / rate * NS


def _rows(source: GpuSpec, family: str, kv_dtype: str, op: SparseAttention) -> tuple[store.Columns, Source, str]:
    """Rows of the model, format and heads nearest to `op`, and how near they are."""
    columns = store.read_table(source.name, family, {"kv_dtype": kv_dtype})
    kind: Source = "measured"
    notes = []
    for key, wanted in (("hidden", op.hidden), ("heads", op.heads)):
        have = np.unique(columns[key]).astype(int).tolist()
        near = have[int(np.argmin(np.abs(np.log(np.array(have) / wanted))))]
        if near != wanted:
            kind = "modelled"
            notes.append(f"times of {key} {near}")
        columns = _where(columns, key, near)
    formats = set(columns["dtype"].tolist())
    exact = {"fp8": "fp8_block", "fp16": "bf16"}.get(op.dtype, op.dtype)
    dtype = next((name for name in (exact, "fp8_block", "bf16") if name in formats), "")
    if dtype != exact:
        kind = "modelled"
        notes.append(f"times of {dtype}")
    return _where(columns, "dtype", dtype), kind, "; ".join(notes)


def _where(columns: store.Columns, key: str, value: int | str) -> store.Columns:
    keep = columns[key] == value
    return {name: values[keep] for name, values in columns.items()}
