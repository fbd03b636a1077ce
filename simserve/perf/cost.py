"""What the engine asks of a cost model: the duration of one step, or of a run of decode steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
