"""Which measured attention shape stands in for one that nobody measured.

Attention kernels split their work over requests x heads, so r times the heads at batch b cost what one times
the heads cost at batch r b. A shape is scaled from the measured one with the nearest group size (query heads
per KV head) and then the nearest number of heads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

from simserve.perf.priced import Source


@dataclass(frozen=True, slots=True)
class Match:
    """Measured (heads, kv_heads, head_dim), and what to multiply batch and time by."""

    heads: int
    kv_heads: int
    head_dim: int
    batch_scale: float
    time_scale: float
    source: Source
    note: str


def nearest(heads: int, kv_heads: int, head_dim: int, measured: Iterable[tuple[int, int, int]]) -> Match:
    """The measured shape closest to the wanted one; measured: (heads, kv_heads, head_dim), not empty."""

    def distance(shape: tuple[int, int, int]) -> tuple[float, float, float]:
        group = abs(log((shape[0] / shape[1]) / (heads / kv_heads)))
        return abs(log(shape[2] / head_dim)), group, abs(log(shape[1] / kv_heads))

    h, kv, dim = min(measured, key=distance)
    if (h, kv, dim) == (heads, kv_heads, head_dim):
        return Match(h, kv, dim, 1.0, 1.0, "measured", "")
    same_group = h * kv_heads == heads * kv
    source: Source = "interpolated" if same_group and dim == head_dim else "modelled"
    note = f"shape of {h}/{kv} heads of {dim}, batch x {kv_heads / kv:g}"
    return Match(h, kv, dim, kv_heads / kv, head_dim / dim, source, note)
