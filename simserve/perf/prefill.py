"""Prefill attention: measured for prompts without past at equal lengths, carried over by equal work.

The table holds `batch` prompts of `tokens` tokens each, nothing before them. Any step is mapped onto it:
- past: a chunk of q tokens after p earlier ones attends q p + q (q + 1) / 2 pairs and is priced as a prompt
  with as many pairs. No row with past was measured, so such a price is 'modelled';
- several requests: with pairs P_i, the effective number n = (sum P)^2 / sum P^2 and the equal length with
  sum P / n pairs each. n equal requests give batch n exactly; a long prompt beside short ones gives n near 1;
- between rows log time is bilinear in (log batch, log tokens); past 16384 tokens it goes with the pairs.
A chunk never takes less than reading its keys and values as decode attention would.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log2

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats, causal_pairs, equivalent_tokens
from simserve.perf.shapes import nearest
from simserve.spec.hardware import GpuSpec


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A set of chunks as `batch` equal prompts of `tokens` tokens; exact: nothing had to be converted."""

    batch: float
    tokens: float
    exact: bool


def equivalent(chunks: Sequence[tuple[int, int]]) -> Equivalent:
    """(chunk tokens, context before) per request -> equal prompts with as many pairs."""
    if len(chunks) == 1:
        chunk, past = chunks[0]
        tokens = equivalent_tokens(causal_pairs(chunk, past)) if past else float(chunk)
        return Equivalent(1.0, tokens, past == 0)
    total = squares = 0.0
    for chunk, past in chunks:
        pairs = causal_pairs(chunk, past)
        total += pairs
        squares += pairs * pairs
    batch = total * total / squares
    exact = len(set(chunks)) == 1 and chunks[0][1] == 0
    return Equivalent(batch, equivalent_tokens(total / batch), exact)


class PrefillTable:
    """One layer's prefill attention in ns, from a complete grid of log times."""

    def __init__(self, log_ns: Floats, tokens: Floats, source: Source, note: str, batch_scale: float) -> None:
        self.shape_source, self.note, self.batch_scale = source, note, batch_scale
        self.tokens: list[float] = tokens.tolist()
        self._log_tokens: list[float] = np.log(tokens).tolist()
        self._rows: list[list[float]] = log_ns.tolist()
        if len(self._rows) == 1:  # one batch size measured: time goes with the batch
            self._rows.append([value + log(2.0) for value in self._rows[0]])

    def time_ns(self, batch: float, tokens: float) -> float:
        """Time of `batch` equal prompts of `tokens` tokens each."""
        at = log2(batch * self.batch_scale)
        top = len(self._rows) - 1
        low = min(max(int(at), 0), max(top - 1, 0))
        weight = max(at, 0.0) - low
        first = self._along(self._rows[low], tokens)
        second = self._along(self._rows[min(low + 1, top)], tokens)
        return exp(first + weight * (second - first))

    def source_at(self, work: Equivalent) -> Source:
        """How the time of `work` came about."""
        scaled = work.batch * self.batch_scale
        if not work.exact or not 1 <= scaled <= 2.0 ** (len(self._rows) - 1) or work.tokens > self.tokens[-1]:
            return worst(self.shape_source, "modelled")
        on_grid = scaled == 2.0 ** round(log2(scaled)) and work.tokens in self.tokens
        return self.shape_source if on_grid else worst(self.shape_source, "interpolated")

    def _along(self, row: list[float], tokens: float) -> float:
        grid = self._log_tokens
        x = log(tokens)
        if x >= grid[-1]:  # time goes with the pairs
            return row[-1] + 2.0 * (x - grid[-1])
        i = max(bisect_right(grid, x), 1)
        weight = max((x - grid[i - 1]) / (grid[i] - grid[i - 1]), 0.0)
        return row[i - 1] + weight * (row[i] - row[i - 1])


def measured_prefill(
    gpu: GpuSpec, source: GpuSpec, kv_dtype: str, heads: int, kv_heads: int, head_dim: int, window: int = 0
) -> PrefillTable:
    """From the tables of `source`, on the peak FLOP/s of `gpu`. window: keys a query sees, 0 = all before it."""
    where: dict[str, str | int] = {"kv_dtype": kv_dtype, "window": window, "past": 0}
    columns = store.read_table(source.name, "prefill_attention", where)
    h, kv, dim = (columns[c].astype(np.int64) for c in ("heads", "kv_heads", "head_dim"))
    match = nearest(heads, kv_heads, head_dim, set(zip(h.tolist(), kv.tolist(), dim.tolist(), strict=True)))
    rows = (h == match.heads) & (kv == match.kv_heads) & (dim == match.head_dim)
    batch, tokens = (columns[c][rows].astype(np.int64) for c in ("batch", "tokens"))
    grid, lengths = _grid(batch, tokens, columns["latency_ns"][rows].astype(np.float64))
    grid += log(match.time_scale)
    note, shape_source = match.note, match.source
    if gpu.name != source.name:
        grid += log(roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16"))
        note = f"utilisation of {source.name}; {note}".rstrip("; ")
        shape_source = worst(shape_source, "transferred")
    return PrefillTable(grid, lengths, shape_source, note, heads / match.heads)


def roofline_prefill(gpu: GpuSpec, heads: int, head_dim: int) -> PrefillTable:
    """Without a table: FLOP at a documented share of the peak, plus a launch floor."""
    lengths: Floats = 2.0 ** np.arange(15, dtype=np.float64)
    batch = 2.0 ** np.arange(9)[:, None]
    rate = roofline.peak_flops(gpu, "bf16") * roofline.PREFILL_FLOP_EFFICIENCY
    flop = 4.0 * batch * lengths * (lengths + 1) / 2 * heads * head_dim
    grid = np.asarray(np.log(roofline.ATTENTION_FLOOR_NS + flop / rate * NS), dtype=np.float64)
    return PrefillTable(grid, lengths, "modelled", "roofline and launch floor", 1.0)


def _grid(batch: Floats, tokens: Floats, time: Floats) -> tuple[Floats, Floats]:
    """Log ns over [log2 batch, tokens]; a hole takes twice the time of half the batch, or half of twice."""
    lengths = np.unique(tokens).astype(np.float64)
    grid = np.full((int(np.log2(batch.max())) + 1, len(lengths)), np.nan)
    whole = np.log2(batch) == np.rint(np.log2(batch))
    grid[np.log2(batch[whole]).astype(int), np.searchsorted(lengths, tokens[whole])] = np.log(time[whole])
    for i in range(1, len(grid)):
        grid[i] = np.where(np.isnan(grid[i]), grid[i - 1] + log(2.0), grid[i])
    for i in range(len(grid) - 2, -1, -1):
        grid[i] = np.where(np.isnan(grid[i]), grid[i + 1] - log(2.0), grid[i])
    complete = np.isfinite(grid).all(axis=0)
    return grid[:, complete], lengths[complete]
