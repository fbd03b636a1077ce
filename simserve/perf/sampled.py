"""A cost model that remembers a sample of the steps it priced, to say what a run's time rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simserve.perf.cost import PipelinedCost, PricedCost
from simserve.perf.priced import Priced
from simserve.perf.uncertainty import combined, family_of, half_width

Call = tuple[tuple[tuple[int, int], ...], int, int, int]
Sampled = tuple[Call, str, Priced, float]


class SampledCost:
    """Passes on to a cost model and keeps every n-th call with its ns; n grows by `thinning` when the sample is full.

    The sample is the same for the same run: no randomness. Diffusion models repeat their steps with a block, of 32 or
    another power of two, so their thinning is 3: every 32nd step would be one place of the block.
    """

    def __init__(self, inner: PricedCost, keep: int = 128, thinning: int = 2) -> None:
        self.inner, self._keep, self._thinning = inner, keep, thinning
        self._stride, self._count = 1, 0
        self._calls: list[tuple[Call, int]] = []
        self._runs: dict[int, tuple[NDArray[np.int64], int]] = {}  # by id, the durations of a kept run and its place
        self._told: tuple[int, list[Sampled]] = (0, [])  # what `sampled` said after so many calls

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        ns = self.inner.step_ns(prefill, decode_seqs, decode_context_tokens, sampled)
        self._count += 1
        if self._count % self._stride == 0:
            self._note((tuple(prefill), decode_seqs, decode_context_tokens, sampled), ns)
        return ns

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`; a run counts as its middle step, with the time of all."""
        durations = self.inner.decode_run_ns(decode_seqs, decode_context_tokens, steps)
        self._count += 1
        if self._count % self._stride == 0:
            middle = decode_context_tokens + decode_seqs * (steps // 2)
            self._runs[id(durations)] = durations, len(self._calls)
            self._note(((), decode_seqs, middle, decode_seqs), int(durations.sum()))
        return durations

    def cut(self, durations: NDArray[np.int64], steps: int) -> None:
        """The run that had these durations took only its first `steps` steps: no more of its time counts."""
        if (kept := self._runs.pop(id(durations), None)) is not None:
            (_, seqs, middle, rows), _ = self._calls[kept[1]]
            context = middle - seqs * ((len(durations) - steps) // 2)
            self._calls[kept[1]] = ((), seqs, context, rows), int(durations[:steps].sum())
            self._told = (0, [])

    def stages_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[int]:
        """See `simserve.perf.cost.PipelinedCost`; the inner cost is one."""
        times = cast(PipelinedCost, self.inner).stages_ns(prefill, decode_seqs, decode_context_tokens, sampled)
        self._count += 1
        if self._count % self._stride == 0:
            self._note((tuple(prefill), decode_seqs, decode_context_tokens, sampled), sum(times))
        return times

    def _note(self, call: Call, ns: int) -> None:
        self._calls.append((call, ns))
        if len(self._calls) >= self._keep:
            by = self._thinning
            self._calls = self._calls[by - 1 :: by]
            self._runs = {k: (run, place // by) for k, (run, place) in self._runs.items() if place % by == by - 1}
            self._stride *= by

    def sampled(self) -> list[Sampled]:
        """(call, operation, its price, ns of the sampled time that it stands for) of every sampled call."""
        if self._told[0] != self._count:
            self._told = self._count, [
                (call, name, price, ns * price.ns / total)
                for call, ns in self._calls
                for rows in [self.inner.explain(*call)]
                for total in [sum(price.ns for _, price in rows)]
                for name, price in rows
            ]
        return self._told[1]

    def half_width(self) -> float:
        """Relative half-width of the 90 % interval of the sampled time, for errors of kernels and host constant."""
        return combined(self._parts())

    def families(self) -> dict[str, tuple[float, float]]:
        """Family -> (share of the sampled time, relative half-width of its 90 % interval)."""
        times: dict[str, list[float]] = {}
        for family, ns, width in self._parts():
            own = times.setdefault(family, [0.0, 0.0])
            own[0] += ns
            own[1] += ns * width
        whole = sum(ns for ns, _ in times.values())
        return {family: (ns / whole, wide / ns) for family, (ns, wide) in sorted(times.items()) if ns}

    def _parts(self) -> Iterator[tuple[str, float, float]]:
        """(family, ns, relative half-width) of every operation of the sampled steps."""
        for _, _, price, ns in self.sampled():
            yield family_of(price), ns, half_width(price, self.inner.profile, self.inner.gpu)

    def shares(self) -> dict[str, float]:
        """Share of the sampled time by source: measured, interpolated, transferred, modelled; sums to 1."""
        by_source: dict[str, float] = {}
        for _, _, price, ns in self.sampled():
            by_source[price.source] = by_source.get(price.source, 0.0) + ns
        whole = sum(by_source.values())
        return {source: round(part / whole, 4) for source, part in sorted(by_source.items())}
