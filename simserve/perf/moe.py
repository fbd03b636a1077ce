"""Expert layers: measured curves over the tokens of one (shape, split, routing), carried to splits between them.

- along a curve log time is a monotone cubic in log tokens; past the last row time goes with the tokens;
- a split (tp or ep) between measured ones: monotone cubic in its logarithm, at equal tokens. Both at once, which
  nobody measured: the curve of ep times the ratio of tp against none, at least the fastest split at one token;
- a model that nobody measured: the curve of the nearest one, carried over at equal utilisation of the layer's
  roofline (below). `leave_out` says what that costs; such prices are 'modelled', and never below the roofline.

Roofline of the layer on one rank with uniform routing: tokens x topk / ep rows through three matrices of an expert
(two without a gate); the weights of E (1 - (1 - topk / E)^tokens) / ep experts cross the bus. Tokens are those of the
whole group of ranks.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from simserve.perf import roofline, store
from simserve.perf.bounds import UNGATED
from simserve.perf.curves import monotone
from simserve.perf.gemm import Curve
from simserve.perf.priced import Source, worst
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec

# Smallest expert layers of the tables take 25 to 60 us on every device: routing, sorting, two GEMMs, the sum.
FLOOR_NS = 30_000.0
ROUTING = "power_law_1.2"  # share of the i-th expert ~ i^-1.2; "balanced" and "power_law_1.01" are measured too
_MODEL = ("hidden", "inter", "experts", "topk")


@dataclass(frozen=True, slots=True)
class MoeShape:
    """An expert layer: hidden and intermediate size, experts of the model, experts per token, and its split."""

    hidden: int
    inter: int
    experts: int
    topk: int
    tp: int = 1
    ep: int = 1

    @property
    def model(self) -> tuple[int, int, int, int]:
        """The layer without its split."""
        return self.hidden, self.inter, self.experts, self.topk


def moe_roofline_ns(gpu: GpuSpec, dtype: str, shape: MoeShape, tokens: Floats) -> Floats:
    """Time of the layer at full rates; see the module's text."""
    matrices = (2.0 if (shape.hidden, shape.inter) in UNGATED else 3.0) * shape.hidden * shape.inter / shape.tp
    flop = 2.0 * tokens * shape.topk / shape.ep * matrices
    active = shape.experts * (1.0 - (1.0 - shape.topk / shape.experts) ** tokens) / shape.ep
    size = active * matrices * roofline.element_bytes(dtype)
    compute, memory = flop / roofline.fastest_flops(gpu, dtype), size / gpu.memory_bandwidth_bytes_per_s
    return np.asarray(np.maximum(compute, memory) * NS, dtype=np.float64)


def roofline_moe(gpu: GpuSpec, dtype: str, shape: MoeShape, tokens: Floats) -> Curve:
    """Without a table: the roofline at the efficiencies of GEMMs, plus the floor of the layer's launches."""
    time = FLOOR_NS + moe_roofline_ns(gpu, dtype, shape, tokens) / roofline.GEMM_FLOP_EFFICIENCY
    return Curve(time, "modelled", "roofline and launch floor", frozenset(), 0)


@lru_cache(maxsize=64)
def measured_models(device: str, dtype: str) -> frozenset[tuple[int, ...]]:
    """(hidden, inter, experts, topk) of a table's rows in `dtype`."""
    columns = store.read_table(device, "moe", {"dtype": dtype})
    return frozenset(zip(*(columns[name].tolist() for name in _MODEL), strict=True))


class MoeTable:
    """The measured expert layers of `source` in one dtype and routing, on the roofline of `gpu`."""

    def __init__(
        self, gpu: GpuSpec, source: GpuSpec, dtype: str, routing: str = ROUTING, columns: store.Columns | None = None
    ) -> None:
        self.gpu, self.source = gpu, source
        self.dtype = "bf16" if dtype == "fp16" else dtype
        self.note = ""
        if columns is None:
            columns = store.read_table(source.name, "moe", {"dtype": self.dtype, "distribution": routing})
        if not len(columns["latency_ns"]):
            columns = store.read_table(source.name, "moe", {"dtype": self.dtype, "distribution": "balanced"})
            self.note = "equal loads of the experts, which alone were measured"
        self._curves: dict[tuple[int, int, int, int], dict[tuple[int, int], tuple[Floats, Floats]]] = {}
        for rows in store.groups(columns, (*_MODEL, "tp", "ep")):
            order = rows[np.argsort(columns["tokens"][rows])]
            model = tuple(int(columns[name][order[0]]) for name in _MODEL)
            split = (int(columns["tp"][order[0]]), int(columns["ep"][order[0]]))
            log_tokens = np.log(columns["tokens"][order].astype(np.float64))
            log_ns = np.log(columns["latency_ns"][order].astype(np.float64))
            self._curves.setdefault((model[0], model[1], model[2], model[3]), {})[split] = (log_tokens, log_ns)

    @property
    def models(self) -> list[tuple[int, int, int, int]]:
        """Measured (hidden, inter, experts, topk)."""
        return sorted(self._curves)

    def splits(self, model: tuple[int, int, int, int]) -> dict[tuple[int, int], tuple[Floats, Floats]]:
        """(tp, ep) -> (log tokens, log ns) of one measured model."""
        return self._curves[model]

    def without(self, model: tuple[int, int, int, int]) -> MoeTable:
        """The same table if nobody had measured `model`."""
        other = copy(self)
        other._curves = {name: curves for name, curves in self._curves.items() if name != model}
        return other

    def curve(self, shape: MoeShape, tokens: Floats) -> Curve:
        """Times of the layer at each of `tokens` (float array, of the whole group)."""
        model = shape.model if shape.model in self._curves else self.nearest(shape, self.models)
        measured = replace(shape, hidden=model[0], inter=model[1], experts=model[2], topk=model[3])
        log_ns, source, note = self._at_split(measured, np.log(tokens))
        ns = np.exp(log_ns)
        if model != shape.model:
            source, note = "modelled", f"utilisation of the layer {model}; {note}".rstrip("; ")
        if model != shape.model or self.gpu.name != self.source.name:
            wanted = FLOOR_NS + moe_roofline_ns(self.gpu, self.dtype, shape, tokens)
            ns = ns * wanted / (FLOOR_NS + moe_roofline_ns(self.source, self.dtype, measured, tokens))
        if self.gpu.name != self.source.name:
            source, note = worst(source, "transferred"), f"utilisation of {self.source.name}; {note}".rstrip("; ")
        if source == "modelled":
            ns = np.maximum(ns, moe_roofline_ns(self.gpu, self.dtype, shape, tokens))
        if self.note:
            source, note = worst(source, "modelled"), f"{self.note}; {note}".rstrip("; ")
        knots, top = self._knots(measured)
        return Curve(ns, source, note, knots, top)

    @staticmethod
    def nearest(shape: MoeShape, models: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
        """The measured model whose experts are most alike: size of an expert, share of experts per token, number."""

        def distance(model: tuple[int, int, int, int]) -> float:
            hidden, inter, experts, topk = model
            size = np.log(hidden * inter / (shape.hidden * shape.inter))
            share = np.log(topk / experts * shape.experts / shape.topk)
            return float(abs(size) + abs(share) + abs(np.log(experts / shape.experts)))

        return min(models, key=distance)

    def _at_split(self, shape: MoeShape, log_tokens: Floats) -> tuple[Floats, Source, str]:
        curves = self._curves[shape.model]
        split = (shape.tp, shape.ep)
        if split in curves:
            return _along(curves[split], log_tokens), "measured", ""
        if shape.tp == 1 or shape.ep == 1:
            return self._between(shape, log_tokens, 0 if shape.ep == 1 else 1)
        by_ep, first, _ = self._at_split(replace(shape, tp=1), log_tokens)
        by_tp, second, _ = self._at_split(replace(shape, ep=1), log_tokens)
        whole, third, _ = self._at_split(replace(shape, tp=1, ep=1), log_tokens)
        # What is split twice still launches its kernels: never below the fastest measured split at one token.
        launch = min(float(curve[1][0]) for curve in curves.values())
        note = f"times of expert parallelism {shape.ep}, gain of tensor parallelism {shape.tp}"
        return np.maximum(by_ep + by_tp - whole, launch), worst("modelled", first, second, third), note

    def _between(self, shape: MoeShape, log_tokens: Floats, axis: int) -> tuple[Floats, Source, str]:
        """Between the measured splits along tp (axis 0) or ep (axis 1)."""
        curves = self._curves[shape.model]
        line = sorted(split for split in curves if split[1 - axis] == 1)
        if not line:
            line = sorted(curves)
        wanted = float((shape.tp, shape.ep)[axis])
        x = np.log(np.array([split[axis] for split in line], dtype=np.float64))
        y = np.array([_along(curves[split], log_tokens) for split in line])
        keep = np.unique(x, return_index=True)[1]
        inside = line[0][axis] <= wanted <= line[-1][axis]
        found = monotone(x[keep], y[keep], np.array([np.log(wanted)]))[0]
        name = ("tensor", "expert")[axis]
        return found, "interpolated" if inside else "modelled", f"between measured {name} splits"

    def _knots(self, shape: MoeShape) -> tuple[frozenset[int], int]:
        curves = self._curves[shape.model]
        log_tokens = curves.get((shape.tp, shape.ep), next(iter(curves.values())))[0]
        tokens = np.rint(np.exp(log_tokens)).astype(int)
        return frozenset(tokens.tolist()), int(tokens[-1])


def _along(curve: tuple[Floats, Floats], log_tokens: Floats) -> Floats:
    """Log ns at `log_tokens`; past the last row time goes with the tokens."""
    x, y = curve
    return np.asarray(monotone(x, y, log_tokens) + np.maximum(log_tokens - x[-1], 0.0), dtype=np.float64)
