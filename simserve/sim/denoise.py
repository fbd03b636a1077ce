"""What a scheduler says and sees of denoising steps: a request's canvas, and a pass over it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simserve.sim.confidence import RequestConfidence


class Canvas:
    """The response of a diffusion request, masked at first; the instance alone writes it.

    tokens: its length, known at admission; committed: positions decided, block after block from the left; steps:
    denoising steps done; block_steps: those of the block that is being decoded.
    """

    __slots__ = ("block_steps", "committed", "steps", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.committed = self.steps = self.block_steps = 0

    def masked(self, block_length: int, tokens: int = 0) -> int:
        """Masked positions of the current block; tokens: of a canvas that is padded to so many."""
        return min(block_length - self.committed % block_length, max(tokens, self.tokens) - self.committed)


class PassKind(Enum):
    """What a pass does with cached keys and values: nothing, write some for later passes, read them."""

    FULL = "full"
    BUILD = "build"
    REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class Pass:
    """One request's part of a denoising step; its query tokens are in `Plan.tokens`.

    cached_tokens: keys that the queries attend beside one another; logit_rows: rows of the LM head. The step commits at
    least `least` positions and as many as pass the confidence `threshold` (0: only `least`), no more than `masked`; of
    a block of block_length. exit_margin: the request ends here if its logits are so far apart (SchED) at `progress`,
    the share of its steps that are then done. canvas_tokens: of a canvas that is padded to so many; the request ends
    when they are all committed, or, `together`, when those of all requests in the step are.
    """

    kind: PassKind
    cached_tokens: int
    logit_rows: int
    masked: int
    least: int
    block_length: int
    threshold: float = 0.0
    exit_margin: float = inf
    progress: float = 0.0
    canvas_tokens: int = 0
    together: bool = False


def commit(canvas: Canvas, work: Pass, confidence: RequestConfidence, whole: int) -> tuple[int, bool]:
    """What one pass adds to a canvas of `whole` positions: (positions committed, whether that ends the block)."""
    canvas.steps += 1
    if not work.masked:
        return 0, False
    taken = work.least
    if work.threshold:
        taken = max(taken, confidence.accepted(work.threshold, work.masked, work.block_length))
    left = canvas.masked(work.block_length, whole) - taken
    if work.exit_margin < inf and confidence.exits(work.progress, work.exit_margin):
        taken, left = whole - canvas.committed, 0
    canvas.committed += taken
    canvas.block_steps = canvas.block_steps + 1 if left else 0
    return taken, not left


@dataclass(slots=True)
class DenoiseUse:
    """What an instance did with its denoising steps, in all: passes and query tokens by kind, positions committed
    (padded ones too), steps."""

    passes: dict[PassKind, int] = field(default_factory=lambda: dict.fromkeys(PassKind, 0))
    query_tokens: dict[PassKind, int] = field(default_factory=lambda: dict.fromkeys(PassKind, 0))
    committed: int = 0
    steps: int = 0
