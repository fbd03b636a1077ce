"""What the engine asks of a cost model: the duration of one step, or of a run of decode steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simserve.perf.compile import Formats
    from simserve.perf.host import EngineProfile
    from simserve.perf.priced import Priced
    from simserve.spec.hardware import GpuSpec


class CostModel(Protocol):
    """Prices steps in integer nanoseconds, at least 1."""

    def step_ns(
        self,
        prefill: Sequence[tuple[int, int]],
        decode_seqs: int,
        decode_context_tokens: int,
        sampled: int,
    ) -> int:
        """Duration of one step.

        prefill: (chunk tokens, context tokens before the chunk) per request with more than one token;
        decode_seqs: requests with one token; decode_context_tokens: sum over them of the KV tokens attended,
        the new one included; sampled: rows through the LM head.
        """
        ...

    def decode_run_ns(
        self, decode_seqs: int, decode_context_tokens: int, steps: int
    ) -> NDArray[np.int64]:
        """Durations of `steps` successive pure-decode steps, each adding one token to every context.

        Equal to `step_ns((), b, S + i * b, b)` for i in range(steps), bit for bit.
        """
        ...


class PipelinedCost(CostModel, Protocol):
    """Prices the stages of a step one by one."""

    def stages_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[int]:
        """Durations of the pipeline stages of one step, in order, each at least 1."""
        ...


class PricedCost(CostModel, Protocol):
    """A cost model that says what its prices rest on. formats, profile, gpu: those of one rank."""

    gpu: GpuSpec
    profile: EngineProfile
    formats: Formats

    def explain(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Every operation of a step with its price; they add up to `step_ns` but for rounding."""
        ...

    def under(self, profile: EngineProfile) -> PricedCost:
        """The same tables under another engine profile."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Tables with versions and licence, and the engine profile."""
        ...
