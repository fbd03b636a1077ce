"""How sure a diffusion language model is of what it fills in: tokens that a step commits, and when an answer stands."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.shapes import AsMapping

Threshold = Annotated[float, Field(gt=0, le=1)]
Mean = Annotated[float, Field(ge=1, le=1 << 20)]
# LLaDA-8B on GSM8K with 5 shots and blocks of 32, labels of a figure [known: Fast-dLLM, arXiv 2505.22618].
FAST_DLLM = ((0.5, 7.01), (0.6, 6.17), (0.7, 5.12), (0.8, 4.24), (0.9, 3.25), (1.0, 1.0))


def _pairs(value: Any) -> Any:
    """A mapping in YAML; kept as pairs, so that a workload is hashable."""
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _falling(pairs: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """By threshold; who asks for more confidence commits fewer tokens."""
    ordered = tuple(sorted(pairs))
    for (low, more), (high, fewer) in pairwise(ordered):
        if low == high:
            raise ValueError(f"tokens_per_step has the threshold {low:g} twice")
        if more <= fewer:
            pair = f"{more:g} at {low:g}, {fewer:g} at {high:g}"
            raise ValueError(f"tokens_per_step must fall with the threshold, not {pair}")
    if ordered[-1][0] == 1 and ordered[-1][1] != 1:
        raise ValueError(f"tokens_per_step must be 1 at the threshold 1, not {ordered[-1][1]:g}")
    return ordered


class ConfidenceSpec(Spec):
    """Steps of requests whose masked positions are committed by confidence, and their early exit.

    tokens_per_step: {threshold: tokens that a step commits, mean of all steps}, as measured in blocks of block_length;
    the logarithm is interpolated between thresholds. cv: of the ease of requests, by which what a step commits beyond
    its first token is multiplied; 0.5 makes the steps of a request at 512 tokens and threshold 0.9 vary by 0.345,
    where D2F on an H200 has 0.27 to 0.45 [known: secondary, arXiv 2608.23807].
    margin_*: SchED's early exit [known: arXiv 2512.02892, by notes on it]. A request's margin (top-1 less top-2 logit,
    mean over the answer) is margin_top / (1 + exp((midpoint - progress) / margin_width)), progress being steps over all
    steps and midpoint normal about margin_midpoint, cut to [0, 1]. All four are [guessed], fitted to the published
    speed-up of instruct models, 3.8 to 4.0 (steps over steps executed, mean of requests): with a margin asked for that
    falls from 7.5 to 0 it is 3.91 at 256 steps, from 7.5 to 2.5 it is 3.73, below what was published.
    """

    tokens_per_step: Annotated[
        tuple[tuple[Threshold, Mean], ...], Field(min_length=1), BeforeValidator(_pairs), AfterValidator(_falling),
        AsMapping(),
    ] = FAST_DLLM
    block_length: int = Field(default=32, ge=2, le=1 << 20)
    cv: float = Field(default=0.5, ge=0, le=1)
    margin_top: float = Field(default=10.0, gt=0, le=1000)
    margin_midpoint: float = Field(default=0.28, ge=0, le=1)
    margin_midpoint_std: float = Field(default=0.1, ge=0, le=1)
    margin_width: float = Field(default=0.05, ge=0.01, le=10)

    @model_validator(mode="after")
    def _fits_in_a_block(self) -> ConfidenceSpec:
        threshold, most = self.tokens_per_step[0]
        if most >= self.block_length:
            problem = f"must be below block_length {self.block_length}"
            raise ValueError(f"tokens_per_step {most:g} at {threshold:g} {problem}")
        return self

    def mean_tokens(self, threshold: float) -> float:
        """Tokens that a step commits, mean in blocks of block_length; beyond the listed thresholds as at their ends."""
        known = [t for t, _ in self.tokens_per_step]
        right = bisect_left(known, threshold)
        if right == len(known) or right == 0:
            return self.tokens_per_step[min(right, len(known) - 1)][1]
        (low, more), (high, fewer) = self.tokens_per_step[right - 1 : right + 1]
        share = (threshold - low) / (high - low)
        return math.exp((1 - share) * math.log(more) + share * math.log(fewer))
