"""A cost model with three integers, so that a timeline can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ToyCost:
    """A step lasts base_ns + per_token_ns * tokens + per_context_ns * tokens computed after the step."""

    base_ns: int = 1_000_000
    per_token_ns: int = 0
    per_context_ns: int = 0

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        tokens = decode_seqs + sum(chunk for chunk, _ in prefill)
        context = decode_context_tokens + sum(chunk + before for chunk, before in prefill)
        return self.base_ns + self.per_token_ns * tokens + self.per_context_ns * context

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        context = decode_context_tokens + decode_seqs * np.arange(steps, dtype=np.int64)
        return self.base_ns + self.per_token_ns * decode_seqs + self.per_context_ns * context


@dataclass(frozen=True)
class ToyPipeline:
    """A pipeline whose stages cost what `stages` say."""

    stages: tuple[ToyCost, ...]

    def stages_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[int]:
        """See `simserve.perf.cost.PipelinedCost`."""
        return [stage.step_ns(prefill, decode_seqs, decode_context_tokens, sampled) for stage in self.stages]

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        return sum(self.stages_ns(prefill, decode_seqs, decode_context_tokens, sampled))

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        runs = [stage.decode_run_ns(decode_seqs, decode_context_tokens, steps) for stage in self.stages]
        return np.asarray(np.sum(runs, axis=0), dtype=np.int64)


@dataclass(frozen=True)
class ToyLayers:
    """`simserve.perf.layers.LayerTimes` in integers: each a base for anything at all, and a price per piece."""

    layers: int = 2
    linear_base_ns: int = 10
    linear_token_ns: int = 0
    gpu_context_ns: int = 1
    cpu_base_ns: int = 0
    cpu_context_ns: int = 1
    down_ns: int = 0
    up_ns: int = 0

    def linear_ns(self, tokens: int) -> float:
        """See `LayerTimes`."""
        return self.linear_base_ns + self.linear_token_ns * tokens if tokens else 0

    def attention_ns(self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`; prompts count their tokens, and those before."""
        return self.gpu_context_ns * (context_tokens + sum(chunk + before for chunk, before in prefill))

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`."""
        return self.cpu_base_ns + self.cpu_context_ns * context_tokens if decode_seqs else 0

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        """See `LayerTimes`."""
        return (self.down_ns * decode_seqs, self.up_ns * decode_seqs)

    def head_ns(self, sampled: int) -> float:
        """See `LayerTimes`: nothing."""
        return 0

    def host_ns(self, requests: int) -> float:
        """See `LayerTimes`: nothing."""
        return 0

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`; a step with nothing in it takes 1 ns."""
        tokens = decode_seqs + sum(chunk for chunk, _ in prefill)
        layer = self.linear_ns(tokens) + self.attention_ns(prefill, decode_seqs, decode_context_tokens)
        return max(1, round(self.layers * layer))

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        contexts = range(decode_context_tokens, decode_context_tokens + decode_seqs * steps, decode_seqs)
        return np.array([self.step_ns((), decode_seqs, context, decode_seqs) for context in contexts], dtype=np.int64)
