"""A workload in a few numbers, for the analytic screen and for checks before any simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.sim.images import Image
    from simserve.spec.confidence import ConfidenceSpec
    from simserve.workload.requests import RequestSet

_QUANTILES = 64
_JOBS = 64  # requests whose images are looked at


@dataclass(frozen=True)
class Canvases:
    """What the screen of a diffusion workload knows beyond means: quantiles of both lengths, in the middle of equal
    shares and ascending, and how many positions a step commits."""

    prompts: tuple[int, ...]
    tokens: tuple[int, ...]
    confidence: ConfidenceSpec

    def longest_of(self, requests: int) -> tuple[int, int]:
        """Mean over draws of so many requests of the longest prompt, and of the longest canvas."""
        return _longest(self.prompts, requests), _longest(self.tokens, requests)


def _longest(quantiles: tuple[int, ...], requests: int) -> int:
    edges = np.linspace(0.0, 1.0, len(quantiles) + 1) ** requests
    return round(float(np.diff(edges) @ np.array(quantiles)))


@dataclass(frozen=True)
class ShownLoad:
    """What the screen of stages knows of images and sounds.

    share: of the requests, those that bring any; every: what a sample of these brings; new_share, new: likewise what
    no earlier request brought. image_tokens, feature_bytes, tiles (what can be encoded apart): of all that a request
    with any brings, mean.
    """

    share: float
    every: tuple[tuple[Image, ...], ...]
    new_share: float
    new: tuple[tuple[Image, ...], ...]
    image_tokens: float
    feature_bytes: float
    tiles: float = 1.0


@dataclass(frozen=True)
class Load:
    """Means over the requests of a workload.

    rate_rps: offered rate; inf for a closed loop, whose `concurrency` is its size. arrival_cv: coefficient
    of variation of the gaps between arrivals. longest_tokens: prompt + output of the longest request. reused_tokens: of
    a prompt that an earlier one had, in whole pieces of content. canvases: of a diffusion workload; shown: of one
    with images or sounds.
    """

    requests: int
    rate_rps: float
    concurrency: int | None
    prompt_tokens: float
    output_tokens: float
    arrival_cv: float
    duration_s: float
    longest_tokens: int
    shortest_tokens: int
    reused_tokens: float = 0.0
    canvases: Canvases | None = None
    shown: ShownLoad | None = None


def summarise(workload: RequestSet) -> Load:
    """The Load of a workload with at least one request."""
    total = workload.prompt_tokens + workload.output_tokens
    gaps = np.diff(workload.arrival_ns)
    span_s = float(workload.arrival_ns[-1] - workload.arrival_ns[0]) / NS_PER_S
    mean_gap = float(gaps.mean()) if len(gaps) else 0.0
    return Load(
        requests=len(workload),
        rate_rps=workload.offered_rate_rps or float("inf"),
        concurrency=workload.concurrency,
        prompt_tokens=float(workload.prompt_tokens.mean()),
        output_tokens=float(workload.output_tokens.mean()),
        arrival_cv=float(gaps.std()) / mean_gap if mean_gap > 0 else 0.0,
        duration_s=span_s,
        longest_tokens=int(total.max()),
        shortest_tokens=int(total.min()),
        reused_tokens=_reused(workload) / len(workload),
        canvases=_canvases(workload),
        shown=_shown(workload),
    )


def _shown(workload: RequestSet) -> ShownLoad | None:
    every = [images for images in workload.shown or () if images]
    if not every:
        return None
    seen: set[int] = set()
    new: list[tuple[Image, ...]] = []
    for images in every:
        new.append(tuple(image for image in images if image.content not in seen))
        seen.update(image.content for image in images)
    new = [images for images in new if images]
    count = len(workload)
    tokens, size = (
        sum(getattr(image, name) for images in every for image in images) / len(every)
        for name in ("tokens", "feature_bytes")
    )
    tiles = sum(len(image.rows) for images in every for image in images) / len(every)
    return ShownLoad(len(every) / count, _some(every), len(new) / count, _some(new), tokens, size, tiles)


def _some(jobs: list[tuple[Image, ...]]) -> tuple[tuple[Image, ...], ...]:
    """At most _JOBS of them, evenly spread."""
    stride = -(-len(jobs) // _JOBS)
    return tuple(jobs[::stride])


def _canvases(workload: RequestSet) -> Canvases | None:
    if workload.confidence is None:
        return None
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    prompts, tokens = (
        tuple(np.quantile(column, at, method="inverted_cdf").astype(int).tolist())
        for column in (workload.prompt_tokens, workload.output_tokens)
    )
    return Canvases(prompts, tokens, workload.confidence)


def _reused(workload: RequestSet) -> int:
    """Tokens of all prompts that lie in a prefix of pieces which an earlier request began with too."""
    seen: set[int] = set()
    total = 0
    for pieces in workload.content or ():
        parent, known = 0, True
        for piece in pieces:
            parent = hash((parent, piece))
            known = known and parent in seen
            total += piece[1] if known else 0
            seen.add(parent)
    return total
