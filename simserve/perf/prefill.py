"""Prefill attention: measured for prompts with nothing cached before them, carried over to every set of chunks.

The table holds `batch` prompts of `tokens` tokens each. Any step is mapped onto it:
- several requests: with pairs P_i = q_i (q_i + 1) / 2, the effective number n = (sum P)^2 / sum P^2 and the equal
  length with sum P / n pairs each. n equal requests give batch n exactly; a long prompt beside short ones n near 1;
- cached context: p_i tokens before the chunk add max(c max p_i, r sum q_i p_i). A block of queries walks through the
  cached keys one after the other, c ns for each; blocks beyond what the device runs at once queue up, and r is the
  time per pair at full rate, that of the longest prompt. c is the slope of the table's prompts with one or two heads,
  which one round of blocks covers: without any row with cached context this predicts those of RTX PRO 6000
  (LLMServingSim) to a median of 7 % where equal pairs alone were off by up to ten times (`benchmarks/cross_source.py`).
  Tables that do hold rows with cached context tell c themselves;
- decoding requests in the same launch, where the engine's kernel takes both (FlashAttention-2 under vLLM: ONE_LAUNCH):
  each is a block of TILE query rows with one row in use, walking through its context like any other, so it costs
  TILE r (context + CTA_NS / c), or the reading of REREAD of its context once per query head, if that is longer. Found
  in LLMServingSim's mixed launches: CTA_NS fitted on RTX 4090, REREAD on Llama-3.1-8B on RTX PRO 6000 [fitted];
- where neither can tell c, a chunk of q tokens after p is priced as the prompt with as many pairs, q p + q (q + 1) / 2,
  and at least what reading its keys and values takes;
- between rows log time is a monotone cubic in log tokens, and then in log batch (`simserve.perf.curves`); past 16384
  tokens it goes with the pairs, past the largest batch with the slope of the last doubling. Where single prompts alone
  were measured, work above the shortest prompt's time goes with the batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import exp, log, log2
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData
from simserve.perf import roofline, store
from simserve.perf.curves import monotone
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats, causal_pairs, equivalent_tokens
from simserve.perf.shapes import nearest
from simserve.spec.hardware import GpuSpec

# Straight pieces that stand for the cubic between two measured batch sizes, and two measured lengths.
_PER_OCTAVE, _PER_GAP = 4, 6
# Prompt lengths between which a lone head's time grows by its longest block of queries alone, on every measured device.
_CHAIN = (1024, 4096)
_LONG_PAST = 1024
_SHORT = 32.0  # tokens below which every prompt is a launch
# Architectures on which vLLM's attention is FlashAttention-2, one launch for prefill and decode.
ONE_LAUNCH = ("ampere", "ada", "blackwell_rtx")
TILE, CTA_NS, REREAD = 64, 3500.0, 0.6
_Numbers = NDArray[np.int64]


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
        self,
        log_ns: Floats,
        tokens: Floats,
        source: Source,
        note: str,
        batch_scale: float,
        window: int = 0,
        chain_ns: float = 0.0,
        reread_ns: float = 0.0,
        pair_ns: float = 0.0,
        first: float = 0.0,
    ) -> None:
        # Past the longest prompt time goes with the pairs: with the tokens under a window, else with their square.
        self._growth = 1.0 if window else 2.0
        self._alone: dict[int, float] = {}
        self.shape_source, self.note, self.batch_scale = source, note, batch_scale
        if len(log_ns) == 1:
            log_ns = _by_launch_and_work(log_ns[0])
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
        # Of one cached token before a chunk: at the least, and per query token at full rate. 0: nobody knows.
        self.chain_ns, self.window = chain_ns, window
        longest = self.tokens[-1]
        pairs = windowed_pairs(longest, 0, window) if window else causal_pairs(longest, 0)
        self._pair_ns: float = pair_ns or self.time_ns(1.0, longest) / pairs
        self._first = first  # shortest measured prompt
        # Of one token that a decoding request of the same launch attends to: computing, and reading; 0: own launch.
        self._tile_ns, self._reread_ns = TILE * self._pair_ns, reread_ns
        self.one_launch = bool(chain_ns and reread_ns and not window)

    def chunks_ns(self, chunks: Sequence[tuple[int, int]], beside_ns: float = 0.0, longest: float = 0.0) -> float:
        """Time of (chunk tokens, context before) per request, not empty.

        beside_ns: what decoding requests in the same launch take at full rate, longest: the context of one of them.
        """
        if len(chunks) == 1:
            chunk, past = chunks[0]
            if not past and not beside_ns:
                return self._alone_ns(chunk)
            if self.chain_ns and not self.window:
                chain = self.chain_ns * (past if past > longest else longest)
                full = chunk * past * self._pair_ns + beside_ns
                return self._alone_ns(chunk) + (chain if chain > full else full)
        if self.chain_ns and not self.window:
            return self._several_ns(chunks, beside_ns, longest)
        work = equivalent([(chunk, 0) for chunk, _ in chunks] if self.chain_ns else chunks, self.window)
        seen = [(chunk, min(past, self.window)) for chunk, past in chunks] if self.chain_ns else []
        cached = self._pair_ns * sum(chunk * past for chunk, past in seen) + beside_ns
        chain = self.chain_ns * max((past for _, past in seen), default=0)
        return self.time_ns(work.batch, work.tokens) + max(chain, cached)

    def beside_ns(self, decode_seqs: int, context_sum: int) -> float:
        """What decoding requests add at full rate to a launch that they share with prompts."""
        walk = self._tile_ns * (context_sum + decode_seqs * CTA_NS / self.chain_ns)
        read = self._reread_ns * context_sum
        return walk if walk > read else read

    def _several_ns(self, chunks: Sequence[tuple[int, int]], beside_ns: float, longest: float) -> float:
        """`equivalent` of the chunks alone, written out, and their cached tokens: this is priced millions of times."""
        total = squares = cached = 0.0
        for chunk, past in chunks:
            pairs = chunk * (chunk + 1.0) / 2.0
            total += pairs
            squares += pairs * pairs
            if past:
                cached += chunk * past
                if past > longest:
                    longest = past
        batch, each = total * total / squares, squares / total
        ns = self.time_ns(batch, (2.0 * each + 0.25) ** 0.5 - 0.5)
        return ns + max(self.chain_ns * longest, self._pair_ns * cached + beside_ns)

    def _alone_ns(self, chunk: int) -> float:
        """One prompt's: candidates of a search ask for the same ones again."""
        found = self._alone.get(chunk)
        if found is None:
            found = self._alone[chunk] = self.time_ns(1.0, float(chunk))
        return found

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

    @property
    def most_batch(self) -> float:
        """The largest batch that was measured, in prompts of these heads."""
        return float(2.0**self._octaves / self.batch_scale)

    def source_at(self, work: Equivalent) -> Source:
        """How the time of `work` came about."""
        scaled = work.batch * self.batch_scale
        inside = self._first <= work.tokens <= self.tokens[-1] or work.tokens <= _SHORT
        if not work.exact or not 1 <= scaled <= 2.0**self._octaves or not inside:
            return worst(self.shape_source, "modelled")
        on_grid = scaled == 2.0 ** round(log2(scaled)) and work.tokens in self.tokens
        return self.shape_source if on_grid else worst(self.shape_source, "interpolated")


def measured_prefill(
    gpu: GpuSpec, source: GpuSpec, kv_dtype: str, heads: int, kv_heads: int, head_dim: int, window: int = 0
) -> PrefillTable:
    """From the tables of `source`, on the peak FLOP/s of `gpu`. window: keys a query sees, 0 = all before it."""
    columns = store.read_table(source.name, "prefill_attention", {"kv_dtype": kv_dtype, "window": window})
    h, kv, dim, past = (columns[c].astype(np.int64) for c in ("heads", "kv_heads", "head_dim", "past"))
    match = nearest(heads, kv_heads, head_dim, set(zip(h.tolist(), kv.tolist(), dim.tolist(), strict=True)))
    shape = (h == match.heads) & (kv == match.kv_heads) & (dim == match.head_dim)
    batch, tokens = (columns[c].astype(np.int64) for c in ("batch", "tokens"))
    time = columns["latency_ns"].astype(np.float64)
    alone = shape & (past == 0)
    if not alone.any():
        raise MissingData(f"{source.name}/prefill_attention has no prompts without cached context of these heads")
    grid, lengths = grid_of(batch[alone], tokens[alone], time[alone])
    lone = (batch == 1) & (dim == match.head_dim)
    chain_ns = _chain_of_past(tokens, past, time, lone & shape) or _chain_of_few_heads(h, tokens, time, lone)
    pair_ns = _pair_of_past(tokens, past, time, lone & shape)
    first = float(lengths[0])
    grid, lengths = _down_to_launch(grid, lengths)
    grid, chain_ns, pair_ns = grid + log(match.time_scale), chain_ns * match.time_scale, pair_ns * match.time_scale
    note, shape_source = match.note, match.source
    if gpu.name != source.name:
        ratio = roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16")
        grid, chain_ns, pair_ns = grid + log(ratio), chain_ns * ratio, pair_ns * ratio
        note = f"utilisation of {source.name}; {note}".rstrip("; ")
        shape_source = worst(shape_source, "transferred")
    reread_ns = 0.0
    if gpu.architecture in ONE_LAUNCH:
        size = roofline.kv_bytes(1, heads, head_dim, 1 if kv_dtype == "fp8" else 2)
        reread_ns = REREAD * size / gpu.memory_bandwidth_bytes_per_s * NS
    return PrefillTable(
        grid, lengths, shape_source, note, heads / match.heads, window, chain_ns, reread_ns, pair_ns, first
    )


def _chain_of_past(tokens: _Numbers, past: _Numbers, time: Floats, rows: NDArray[np.bool_]) -> float:
    """ns per cached token before the shortest measured chunk, from rows with much cached context; 0 without any."""
    long = rows & (past >= _LONG_PAST)
    if not long.any():
        return 0.0
    shortest = tokens[long].min()
    alone = rows & (past == 0)
    fresh = float(np.interp(shortest, np.sort(tokens[alone]), time[alone][np.argsort(tokens[alone])]))
    long &= tokens == shortest
    return float(np.median((time[long] - fresh) / past[long]))


def _pair_of_past(tokens: _Numbers, past: _Numbers, time: Floats, rows: NDArray[np.bool_]) -> float:
    """ns per pair of a query and a cached token, from the longest chunk after much context; 0 without any."""
    long = rows & (past >= _LONG_PAST)
    if not long.any():
        return 0.0
    most = tokens[long].max()
    alone = rows & (past == 0)
    fresh = float(np.interp(most, np.sort(tokens[alone]), time[alone][np.argsort(tokens[alone])]))
    long &= tokens == most
    return float(np.median((time[long] - fresh) / (past[long] * most)))


def _down_to_launch(grid: Floats, lengths: Floats) -> tuple[Floats, Floats]:
    """Shorter prompts than were measured: a launch, and the work above it by pairs."""
    if lengths[0] <= _SHORT:
        return grid, lengths
    shorter = _SHORT * 2.0 ** np.arange(int(np.ceil(np.log2(lengths[0] / _SHORT))))
    launch = np.minimum(roofline.ATTENTION_FLOOR_NS, np.exp(grid[:, :1]))
    share = shorter * (shorter + 1) / (lengths[0] * (lengths[0] + 1))
    return np.concatenate([np.log(launch + (np.exp(grid[:, :1]) - launch) * share), grid], axis=1), np.concatenate(
        [shorter, lengths]
    )


def _chain_of_few_heads(heads: _Numbers, tokens: _Numbers, time: Floats, rows: NDArray[np.bool_]) -> float:
    """ns that one more key adds to a prompt of one or two heads between _CHAIN lengths; 0 if nobody measured such."""
    rows = rows & (heads == heads[rows].min())
    low, high = _CHAIN
    if heads[rows].min() > 2 or tokens[rows].max() < high:
        return 0.0
    order = np.argsort(tokens[rows])
    first, last = np.interp(_CHAIN, tokens[rows][order], time[rows][order])
    return float((last - first) / (high - low))


def _by_launch_and_work(log_ns: Floats) -> Floats:
    """Rows for batches 1, 2, 4, ... from those of single prompts: the launch once, the work above it per prompt."""
    ns = np.exp(log_ns)
    launch = ns.min()
    batch = 2.0 ** np.arange(9)[:, None]
    return np.asarray(np.log(launch + batch * (ns - launch)), dtype=np.float64)


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
