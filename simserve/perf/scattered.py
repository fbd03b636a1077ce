"""GEMMs of a device where a few (n, k) alone were measured, those of some models, instead of a grid.

Between such shapes the log utilisation of the roofline is the mean of the measured ones at equal m, weighted by the
inverse fourth power of the distance in (log n, log k): nearly the nearest shape's. Leaving shapes out chose that: a
relative's full table under it, or smaller powers, predict worse on A40, RTX A6000, RTX 4090 and H20. Along m it is
linear in log m. A shape that was measured keeps its own times.
"""

from __future__ import annotations

import numpy as np

from simserve.perf.gemm import Curve
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import Floats, element_bytes, fastest_flops, gemm_ns
from simserve.perf.store import Columns
from simserve.spec.hardware import GpuSpec

_POWER = 4
# Farther than this from every measured shape, in powers of two, a price is modelled rather than interpolated.
_NEAR_OCTAVES = 2.0
# Share of the grid of all n and all k that was measured, below which a table counts as scattered.
_GRID_SHARE = 0.75


def is_scattered(columns: Columns) -> bool:
    """Whether the measured (n, k) are far from filling the grid of their n and k."""
    n, k = columns["n"].astype(np.int64), columns["k"].astype(np.int64)
    shapes = len(np.unique(n * (k.max(initial=0) + 1) + k))
    return shapes < _GRID_SHARE * len(np.unique(n)) * len(np.unique(k))


class ScatteredGemms:
    """The measured GEMMs of `source` in one dtype, on the roofline of `gpu`; prices as `GemmTable` does."""

    def __init__(self, gpu: GpuSpec, source: GpuSpec, dtype: str, columns: Columns) -> None:
        self.gpu, self.source, self.asked = gpu, source, dtype
        self.dtype = "bf16" if dtype == "fp16" else dtype
        n, k, m, ns = (columns[name].astype(np.float64) for name in ("n", "k", "m", "latency_ns"))
        self.m_grid = np.unique(m)
        self.measured: dict[tuple[int, int], tuple[Floats, Floats]] = {}
        for shape in sorted(set(zip(n.astype(int).tolist(), k.astype(int).tolist(), strict=True))):
            rows = np.flatnonzero((n == shape[0]) & (k == shape[1]))
            rows = rows[np.argsort(m[rows])]
            self.measured[shape] = m[rows], np.log(self._roof(source, *shape, m[rows]) / ns[rows])
        self.shapes = np.array(list(self.measured), dtype=np.float64)
        log_m = np.log(self.m_grid)
        self.log_u = np.stack([np.interp(log_m, np.log(m), log_u) for m, log_u in self.measured.values()])

    def _roof(self, gpu: GpuSpec, n: int, k: int, m: Floats) -> Floats:
        flops, bandwidth = fastest_flops(gpu, self.dtype), gpu.memory_bandwidth_bytes_per_s
        return gemm_ns(m, float(n), float(k), flops=flops, bandwidth=bandwidth, element=element_bytes(self.dtype))

    def curve(self, n: int, k: int, m: Floats, *, without: tuple[int, int] | None = None) -> Curve:
        """Times of [m, k] x [k, n] in ns for each of `m` (ascending); without: a measured shape not to look at."""
        weights, source = self._weights(n, k, without)
        log_u = np.interp(np.log(m), np.log(self.m_grid), weights @ self.log_u)
        time = self._roof(self.gpu, n, k, m) / np.exp(log_u)
        note = "" if source == "measured" else f"between shapes around n={n}, k={k}"
        if self.gpu.name != self.source.name:
            source, note = worst(source, "transferred"), f"utilisation of {self.source.name}; {note}".rstrip("; ")
        if self.asked != self.dtype:
            source = worst(source, "transferred")
            note = f"{self.asked} at the times of {self.dtype}, equal tensor rates; {note}".rstrip("; ")
        knots, _ = self.measured.get((n, k), (self.m_grid, self.m_grid))
        return Curve(time, source, note, frozenset(int(x) for x in knots), int(knots[-1]))

    def _weights(self, n: int, k: int, without: tuple[int, int] | None) -> tuple[Floats, Source]:
        """Weight of each measured shape, and how a price from them came about."""
        octaves = np.hypot(*(np.log2(self.shapes / np.array([n, k])).T))
        if without is not None:
            octaves[list(self.measured).index(without)] = np.inf
        nearest = float(octaves.min())
        if nearest == 0.0:
            return (octaves == 0.0).astype(np.float64), "measured"
        weights = octaves**-_POWER
        return weights / weights.sum(), "interpolated" if nearest <= _NEAR_OCTAVES else "modelled"

    def left_out(self) -> tuple[Floats, Floats]:
        """Relative errors of single m left out of a curve, and of whole shapes priced from the others."""
        one: list[Floats] = [np.zeros(0)]
        block: list[Floats] = [np.zeros(0)]
        for shape, (m, log_u) in self.measured.items():
            if len(m) > 2:
                weight = np.log(m[1:-1] / m[:-2]) / np.log(m[2:] / m[:-2])
                guess = (1 - weight) * log_u[:-2] + weight * log_u[2:]
                one.append(np.exp(log_u[1:-1] - guess) - 1)
            if len(self.measured) > 1:
                ns = self._roof(self.source, *shape, m) / np.exp(log_u)
                block.append(self.curve(*shape, m, without=shape).ns / ns - 1)
        return np.concatenate(one), np.concatenate(block)
