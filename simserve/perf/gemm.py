"""GEMM time: utilisation of the roofline, measured on a grid of (n, k, m), interpolated between its points.

Per (n, k) the table holds a curve over m. Time = roofline / utilisation; log utilisation is linear in log m
along a curve, and bilinear in (log n, log k) between the four measured curves around a shape. Outside the
grid the utilisation of its edge is kept. Inside the grid, plain log time or a launch floor in the anchor do
about as well (perfdb/README.md); outside it only the roofline goes on correctly.

Weights come from memory in serving, never from the L2 cache, so where the roofline is the memory's, no
utilisation above that of the largest streamed GEMMs (weights over 4 x L2, m <= 16) is believed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.checks import known_l2
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import Floats
from simserve.spec.hardware import GpuSpec

_STREAMED_M = 16


@dataclass(frozen=True)
class Curve:
    """Times of one GEMM at some m: ns[i] at m[i]; `knots` are the measured m, `shape_source` is of (n, k)."""

    ns: Floats
    shape_source: Source
    note: str
    knots: frozenset[int]
    m_max: int

    def source_at(self, m: int) -> Source:
        """How the time at m tokens came about."""
        if m > self.m_max:
            return worst(self.shape_source, "modelled")
        return self.shape_source if m in self.knots else worst(self.shape_source, "interpolated")


class GemmTable:
    """The measured GEMMs of `source` in one dtype, on the roofline of `gpu` (the same unless transferred)."""

    def __init__(
        self, gpu: GpuSpec, source: GpuSpec, dtype: str, columns: store.Columns | None = None
    ) -> None:
        self.gpu, self.source, self.asked = gpu, source, dtype
        self.dtype = "bf16" if dtype == "fp16" else dtype
        self.element = roofline.element_bytes(dtype)
        if columns is None:
            columns = store.read_table(source.name, "gemm", {"dtype": self.dtype})
        n, k, m = (columns[name].astype(np.float64) for name in ("n", "k", "m"))
        self.ns_grid, self.ks_grid = np.unique(n), np.unique(k)
        self.m_grid = np.unique(m)
        shape = (len(self.ns_grid), len(self.ks_grid), len(self.m_grid))
        axes = ((self.ns_grid, n), (self.ks_grid, k), (self.m_grid, m))
        cell = tuple(np.searchsorted(grid, values) for grid, values in axes)
        log_u = np.full(shape, np.nan)
        log_u[cell] = np.log(self._roof(source, m, n, k) / columns["latency_ns"].astype(np.float64))
        self.measured = np.isfinite(log_u)
        self.streamed = self._streamed_utilisation(log_u)
        self.log_u = self._capped(log_u)

    def _roof(self, gpu: GpuSpec, m: Floats, n: Floats | float, k: Floats | float) -> Floats:
        flops = roofline.fastest_flops(gpu, self.dtype)
        bandwidth = gpu.memory_bandwidth_bytes_per_s
        return roofline.gemm_ns(m, n, k, flops=flops, bandwidth=bandwidth, element=self.element)

    def _weights(self) -> Floats:
        return self.element * np.outer(self.ns_grid, self.ks_grid).astype(np.float64)

    def _streamed_utilisation(self, log_u: Floats) -> float:
        """Log of the best share of bandwidth that a GEMM reaches whose weights cannot be cached."""
        big = self._weights() > 4 * known_l2(self.source.name)
        streamed = log_u[big][:, self.m_grid <= _STREAMED_M]
        return float(np.nanmax(streamed)) if np.isfinite(streamed).any() else 0.0

    def _capped(self, log_u: Floats) -> Floats:
        """Rows that were dropped, or that lean on a warm cache, get the streamed utilisation."""
        n, k, m = np.meshgrid(self.ns_grid, self.ks_grid, self.m_grid, indexing="ij")
        flop = 2.0 * m * n * k / roofline.fastest_flops(self.source, self.dtype) * roofline.NS
        memory_bound = flop < self._roof(self.source, m, n, k)
        measured_shape = np.isfinite(log_u).any(axis=2, keepdims=True)
        filled = np.where(np.isnan(log_u) & memory_bound & measured_shape, self.streamed, log_u)
        capped = np.where(memory_bound, np.minimum(filled, self.streamed), filled)
        return _fill_along_m(capped)

    def curve(self, n: int, k: int, m: Floats) -> Curve:
        """Times of [m, k] x [k, n] in ns for each of `m` (float array, ascending)."""
        log_u, source, note = self._at_shape(n, k)
        at_m = np.interp(np.log(m), np.log(self.m_grid), log_u)
        time = self._roof(self.gpu, m, float(n), float(k)) / np.exp(at_m)
        if self.gpu.name != self.source.name:
            source = worst(source, "transferred")
            note = f"utilisation of {self.source.name}; {note}".rstrip("; ")
        if self.asked != self.dtype:
            source = worst(source, "transferred")
            note = f"{self.asked} at the times of {self.dtype}, equal tensor rates; {note}".rstrip("; ")
        return Curve(time, source, note, frozenset(int(x) for x in self.m_grid), int(self.m_grid[-1]))

    def _at_shape(self, n: int, k: int) -> tuple[Floats, Source, str]:
        """Log utilisation over m_grid, bilinear in log n and log k; missing corners give up their weight."""
        rows, row_source = _bracket(self.ns_grid, n)
        columns, column_source = _bracket(self.ks_grid, k)
        total, weight_sum = np.zeros(len(self.m_grid)), 0.0
        for i, wi in rows:
            for j, wj in columns:
                if wi * wj > 0 and np.isfinite(self.log_u[i, j]).all():
                    total, weight_sum = total + wi * wj * self.log_u[i, j], weight_sum + wi * wj
        if weight_sum == 0.0:  # only the corner that nobody measured: its neighbour with half the weights
            return self.log_u[-2, -1], "modelled", "largest measured shape"
        source = worst(row_source, column_source)
        edges = {"measured": "", "interpolated": f"between shapes around n={n}, k={k}"}
        outside = f"n={n}, k={k} outside the grid, edge utilisation kept"
        return total / weight_sum, source, edges.get(source, outside)


def roofline_curve(gpu: GpuSpec, dtype: str, n: int, k: int, m: Floats) -> Curve:
    """Times without a table: compute and memory at their efficiencies, plus a launch floor."""
    element = roofline.element_bytes(dtype)
    time = roofline.GEMM_FLOOR_NS + roofline.gemm_ns(
        m,
        n,
        k,
        flops=roofline.fastest_flops(gpu, dtype) * roofline.GEMM_FLOP_EFFICIENCY,
        bandwidth=gpu.memory_bandwidth_bytes_per_s * roofline.GEMM_BYTE_EFFICIENCY,
        element=element,
    )
    return Curve(time, "modelled", "roofline and launch floor", frozenset(), 0)


def _bracket(grid: Floats, value: int) -> tuple[list[tuple[int, float]], Source]:
    """Indices around `value` with log-linear weights, and whether it is on, between or outside the points."""
    i = int(np.searchsorted(grid, value))
    if i < len(grid) and grid[i] == value:
        return [(i, 1.0)], "measured"
    if i == 0 or i == len(grid):
        return [(min(i, len(grid) - 1), 1.0)], "modelled"
    weight = float(np.log(value / grid[i - 1]) / np.log(grid[i] / grid[i - 1]))
    return [(i - 1, 1 - weight), (i, weight)], "interpolated"


def _fill_along_m(log_u: Floats) -> Floats:
    """Holes of a measured curve, linear between its own points (flat at its ends)."""
    out = log_u.copy()
    holes = np.isnan(out)
    for i, j in np.argwhere(holes.any(axis=2) & ~holes.all(axis=2)):
        good = ~holes[i, j]
        out[i, j] = np.interp(np.arange(out.shape[2]), np.flatnonzero(good), out[i, j][good])
    return out
