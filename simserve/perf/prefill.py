"""Prefill attention: measured for prompts without past at equal lengths, carried over by equal work.

The table holds `batch` prompts of `tokens` tokens each, nothing before them. Any step is mapped onto it:
- past: a chunk of q tokens after p earlier ones attends q p + q (q + 1) / 2 pairs and is priced as a prompt
  with as many pairs. No row with past was measured, so such a price is 'modelled';
- several requests: with pairs P_i, the effective number n = (sum P)^2 / sum P^2 and the equal length with
  sum P / n pairs each. n equal requests give batch n exactly; a long prompt beside short ones gives n near 1;
- between rows log time is a monotone cubic in log tokens, and then in log batch (`simserve.perf.curves`); past 16384
  tokens it goes with the pairs, past the largest batch with the slope of the last doubling.
A chunk never takes less than reading its keys and values as decode attention would.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import exp, log, log2
from typing import NamedTuple

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats, causal_pairs, equivalent_tokens
from simserve.perf.shapes import nearest
from simserve.spec.hardware import GpuSpec

# Straight pieces that stand for the cubic between two measured batch sizes, and two measured lengths.
_PER_OCTAVE, _PER_GAP = 4, 6


class Equivalent(NamedTuple):
    """A set of chunks as `batch` equal prompts of `tokens` tokens; exact: nothing had to be converted."""

    batch: float
    tokens: float
    exact: bool


def equivalent(chunks: Sequence[tuple[int, int]], window: int = 0) -> Equivalent:
    """(chunk tokens, context before) per request -> equal prompts with as many pairs. window: 0 = none."""
    if window:
        return _equivalent_in_window(chunks, window)
    if len(chunks) == 1:
        chunk, past = chunks[0]
        if not past:
            return Equivalent(1.0, float(chunk), True)
        # equivalent_tokens(causal_pairs(chunk, past)), written out: this is priced millions of times
        return Equivalent(1.0, (chunk * (2.0 * past + chunk + 1.0) + 0.25) ** 0.5 - 0.5, False)
    total = squares = 0.0
    for chunk, past in chunks:
        pairs = causal_pairs(chunk, past)
        total += pairs
        squares += pairs * pairs
    batch = total * total / squares
    exact = len(set(chunks)) == 1 and chunks[0][1] == 0
    return Equivalent(batch, equivalent_tokens(total / batch), exact)


def _equivalent_in_window(chunks: Sequence[tuple[int, int]], window: int) -> Equivalent:
    """As `equivalent`, each query seeing at most `window` keys."""
    pairs = [windowed_pairs(chunk, past, window) for chunk, past in chunks]
    total = sum(pairs)
    batch = total * total / sum(value * value for value in pairs)
    each, full = total / batch, windowed_pairs(window, 0, window)
    tokens = equivalent_tokens(each) if each <= full else window + (each - full) / window
    return Equivalent(batch, tokens, len(set(chunks)) == 1 and chunks[0][1] == 0)


def windowed_pairs(chunk: float, past: float, window: float) -> float:
    """Pairs of `chunk` tokens after `past` earlier ones, each query seeing at most `window` keys, itself included."""
    full = min(max(chunk + past - window, 0.0), chunk)
    return full * window + causal_pairs(chunk - full, past)


class PrefillTable:
    """One layer's prefill attention in ns, from a complete grid of log times [log2 batch, tokens]."""

    def __init__(
        self, log_ns: Floats, tokens: Floats, source: Source, note: str, batch_scale: float, window: int = 0
    ) -> None:
        # Past the longest prompt time goes with the pairs: with the tokens under a window, else with their square.
        self._growth = 1.0 if window else 2.0
        self.shape_source, self.note, self.batch_scale = source, note, batch_scale
        if len(log_ns) == 1:  # one batch size measured: time goes with the batch
            log_ns = np.concatenate([log_ns, log_ns + log(2.0)])
        self.tokens: list[float] = tokens.tolist()
        self._octaves = len(log_ns) - 1
        batch = np.arange(self._octaves * _PER_OCTAVE + 1) / _PER_OCTAVE
        fine = np.interp(np.arange((len(tokens) - 1) * _PER_GAP + 1) / _PER_GAP, np.arange(len(tokens)), np.log(tokens))
        along = monotone(np.log(tokens), log_ns.T, fine)
        self._log_tokens: list[float] = fine.tolist()
        rows = monotone(np.arange(self._octaves + 1.0), along.T, batch)
        self._rows: list[list[float]] = rows.tolist()
        self._last = len(self._rows) - 1
        # One doubling past the largest batch, with the slope of the doubling before it.
        self._beyond: list[float] = (2 * rows[-1] - rows[-1 - _PER_OCTAVE]).tolist()

    def time_ns(self, batch: float, tokens: float) -> float:
        """Time of `batch` equal prompts of `tokens` tokens each."""
        grid = self._log_tokens
        x = log(tokens)
        i = bisect_right(grid, x)
        if i >= len(grid):  # past the longest prompt
            i, weight, more = len(grid) - 1, 1.0, self._growth * (x - grid[-1])
        elif i:
            weight, more = (x - grid[i - 1]) / (grid[i] - grid[i - 1]), 0.0
        else:
            i, weight, more = 1, 0.0, 0.0
        at = _PER_OCTAVE * log2(batch * self.batch_scale)
        low = int(at) if at > 0.0 else 0
        if low >= self._last:
            first, second, at = self._rows[self._last], self._beyond, (at - self._last) / _PER_OCTAVE
        else:
            first, second, at = self._rows[low], self._rows[low + 1], max(at, 0.0) - low
        value = first[i - 1] + weight * (first[i] - first[i - 1])
        other = second[i - 1] + weight * (second[i] - second[i - 1])
        return exp(value + at * (other - value) + more)

    def source_at(self, work: Equivalent) -> Source:
        """How the time of `work` came about."""
        scaled = work.batch * self.batch_scale
        if not work.exact or not 1 <= scaled <= 2.0**self._octaves or work.tokens > self.tokens[-1]:
            return worst(self.shape_source, "modelled")
        on_grid = scaled == 2.0 ** round(log2(scaled)) and work.tokens in self.tokens
        return self.shape_source if on_grid else worst(self.shape_source, "interpolated")


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
    grid, lengths = grid_of(batch, tokens, columns["latency_ns"][rows].astype(np.float64))
    grid += log(match.time_scale)
    note, shape_source = match.note, match.source
    if gpu.name != source.name:
        grid += log(roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16"))
        note = f"utilisation of {source.name}; {note}".rstrip("; ")
        shape_source = worst(shape_source, "transferred")
    return PrefillTable(grid, lengths, shape_source, note, heads / match.heads, window)


def roofline_prefill(gpu: GpuSpec, heads: int, head_dim: int) -> PrefillTable:
    """Without a table: FLOP at a documented share of the peak, plus a launch floor."""
    lengths: Floats = 2.0 ** np.arange(15, dtype=np.float64)
    batch = 2.0 ** np.arange(9)[:, None]
    rate = roofline.peak_flops(gpu, "bf16") * roofline.PREFILL_FLOP_EFFICIENCY
    flop = 4.0 * batch * lengths * (lengths + 1) / 2 * heads * head_dim
    grid = np.asarray(np.log(roofline.ATTENTION_FLOOR_NS + flop / rate * NS), dtype=np.float64)
    return PrefillTable(grid, lengths, "modelled", "roofline and launch floor", 1.0)


def grid_of(batch: Floats, tokens: Floats, time: Floats) -> tuple[Floats, Floats]:
    """Log ns over [log2 batch, tokens]; holes lie on the cubic between measured batch sizes, beyond them time goes
    with the batch."""
    lengths = np.unique(tokens).astype(np.float64)
    grid = np.full((int(np.log2(batch.max())) + 1, len(lengths)), np.nan)
    whole = np.log2(batch) == np.rint(np.log2(batch))
    grid[np.log2(batch[whole]).astype(int), np.searchsorted(lengths, tokens[whole])] = np.log(time[whole])
    octaves = np.arange(len(grid), dtype=np.float64)
    complete = np.isfinite(grid).any(axis=0)
    for column in np.flatnonzero(complete & ~np.isfinite(grid).all(axis=0)):
        good = np.flatnonzero(np.isfinite(grid[:, column]))
        holes = np.isnan(grid[:, column])
        beyond = octaves - np.clip(octaves, good[0], good[-1])
        filled = monotone(octaves[good], grid[good, column], octaves) + beyond * log(2.0)
        grid[holes, column] = filled[holes]
    return grid[:, complete], lengths[complete]
