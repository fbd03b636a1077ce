"""A cost model whose every step takes a constant factor of another's; for what-if runs and prediction intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simserve.perf.cost import CostModel, PipelinedCost


class ScaledCost:
    """Each step of `inner` times `factor`, rounded once, at least 1 ns."""

    def __init__(self, inner: CostModel, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        ns = self.inner.step_ns(prefill, decode_seqs, decode_context_tokens, sampled)
        return max(1, int(ns * self.factor + 0.5))

    def stages_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[int]:
        """See `simserve.perf.cost.PipelinedCost`; the inner cost is one."""
        times = cast(PipelinedCost, self.inner).stages_ns(prefill, decode_seqs, decode_context_tokens, sampled)
        return [max(1, int(ns * self.factor + 0.5)) for ns in times]

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`; rounds as `step_ns` does."""
        durations = self.inner.decode_run_ns(decode_seqs, decode_context_tokens, steps)
        return np.maximum(1, (durations * self.factor + 0.5).astype(np.int64))
