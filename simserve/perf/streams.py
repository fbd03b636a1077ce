"""Operations that run side by side on two streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simserve.perf.compile import TokenOp

ROUTED, SHARED = "experts", "shared_"


def beside_experts(ops: Sequence[TokenOp], most_tokens: int) -> list[TokenOp]:
    """In steps of at most so many tokens shared experts cost only what outlasts the routed ones [derived].

    Both are taken to run at full speed: at small batches neither fills the GPU, and larger ones are not overlapped.
    """
    routed = [op.ns for op in ops if op.name == ROUTED]
    shared = [op.ns for op in ops if op.name.startswith(SHARED)]
    if not routed or not shared or not most_tokens:
        return list(ops)
    alone, beside = np.sum(shared, axis=0), routed[0]
    left = np.where(alone > beside, 1.0 - beside / np.maximum(alone, 1.0), 0.0)
    left[most_tokens + 1 :] = 1.0
    note = f"beside the routed experts in steps of up to {most_tokens} tokens"
    return [
        replace(op, ns=op.ns * left, note=f"{op.note}; {note}".lstrip("; ")) if op.name.startswith(SHARED) else op
        for op in ops
    ]
