"""Attention of vision and audio encoders: bidirectional, equal lengths, no cache; log time over (batch, tokens).

Between rows as in prefill: a monotone cubic in log tokens and in log batch, past the longest by the pairs. Heads that
nobody measured take the nearest measured number at as many times the batch: kernels split over requests x heads.
"""

from __future__ import annotations

from math import log

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.prefill import PrefillTable, grid_of
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.perf.shapes import nearest
from simserve.spec.hardware import GpuSpec


def measured_encoder(gpu: GpuSpec, source: GpuSpec, heads: int, head_dim: int) -> PrefillTable:
    """From the tables of `source` (bf16), on the peak FLOP/s of `gpu`; time_ns(batch, tokens) of one layer."""
    columns = store.read_table(source.name, "encoder_attention")
    h, dim = (columns[name].astype(np.int64) for name in ("heads", "head_dim"))
    match = nearest(heads, heads, head_dim, {(a, a, b) for a, b in zip(h.tolist(), dim.tolist(), strict=True)})
    rows = (h == match.heads) & (dim == match.head_dim)
    batch, tokens = (columns[name][rows].astype(np.int64) for name in ("batch", "tokens"))
    grid, lengths = grid_of(batch, tokens, columns["latency_ns"][rows].astype(np.float64))
    grid += log(match.time_scale)
    kind: Source = match.source
    note = match.note
    if gpu.name != source.name:
        grid += log(roofline.peak_flops(source, "bf16") / roofline.peak_flops(gpu, "bf16"))
        kind, note = worst(kind, "transferred"), f"utilisation of {source.name}; {note}".rstrip("; ")
    return PrefillTable(grid, lengths, kind, note, match.batch_scale)


def roofline_encoder(gpu: GpuSpec, heads: int, head_dim: int) -> PrefillTable:
    """Without a table: FLOP at the share of the peak that prefill reaches, plus a launch floor."""
    lengths: Floats = 2.0 ** np.arange(17, dtype=np.float64)
    batch = 2.0 ** np.arange(7)[:, None]
    rate = roofline.peak_flops(gpu, "bf16") * roofline.PREFILL_FLOP_EFFICIENCY
    flop = 4.0 * batch * lengths * lengths * heads * head_dim
    grid = np.asarray(np.log(roofline.ATTENTION_FLOOR_NS + flop / rate * NS), dtype=np.float64)
    return PrefillTable(grid, lengths, "modelled", "roofline and launch floor", 1.0)
