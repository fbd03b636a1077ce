"""How many masked positions a denoising step commits, and when a request's answer stands: drawn per request.

Above its first token a step commits a geometric number more, whose mean is the request's ease times one number per
threshold. A step ends after each of a block's tokens but the last with probability 1 / (1 + that mean), whatever came
before, so a block of b tokens takes 1 + (b - 1) / (1 + mean) steps on average; the last step, cut by the block's end,
is in this count.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache

from simserve.spec.confidence import ConfidenceSpec

_GRID = 4096  # quantiles of the ease
_LEAST_EASE = 1e-9


class Confidence:
    """The confidence of all requests of a run: each has draws of its own, whoever asks first."""

    def __init__(self, spec: ConfidenceSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self._more: dict[float, float] = {}

    def of(self, request_id: int) -> RequestConfidence:
        """That of one request, from its first draw on: the same for the same seed."""
        return RequestConfidence(self, random.Random((self.seed << 64) | request_id))

    def typical(self, requests: int = 1) -> TypicalConfidence:
        """That of a request without chance, the slowest of so many."""
        return TypicalConfidence(self, requests)

    def block_steps(self, threshold: float, block_length: int, requests: int = 1) -> float:
        """Steps of a block, mean over requests; of the slowest by ease of so many."""
        return _block_steps(self.more_tokens(threshold), block_length, self.spec.cv, requests)

    def more_tokens(self, threshold: float) -> float:
        """Tokens beyond the first that a step commits at ease 1, were a block endless."""
        found = self._more.get(threshold)
        if found is None:
            mean = 1.0 if threshold >= 1 else self.spec.mean_tokens(threshold)
            found = self._more[threshold] = solved(mean, self.spec.block_length, self.spec.cv)
        return found


class RequestConfidence:
    """ease: how many more tokens than others a step of this request commits, gamma distributed about 1; midpoint: the
    progress at which half of its final margin is reached."""

    __slots__ = ("_of", "_rng", "ease", "midpoint")

    def __init__(self, of: Confidence, rng: random.Random) -> None:
        spec = of.spec
        self._of, self._rng = of, rng
        shape = math.inf if spec.cv == 0 else spec.cv**-2
        self.ease = 1.0 if spec.cv == 0 else max(_LEAST_EASE, rng.gammavariate(shape, 1 / shape))
        self.midpoint = min(1.0, max(0.0, rng.gauss(spec.margin_midpoint, spec.margin_midpoint_std)))

    def accepted(self, threshold: float, masked: int, block_length: int) -> int:
        """Of the `masked` positions of a block, those that a step commits: at least 1, exactly 1 at threshold 1."""
        most = min(masked, block_length)
        mean = self.ease * self._of.more_tokens(threshold)
        if most <= 1 or mean == 0:
            return 1
        further = math.log(1 - self._rng.random()) / -math.log1p(1 / mean)
        return most if further >= most - 1 else 1 + int(further)

    def exits(self, progress: float, margin: float) -> bool:
        """Whether its margin, in logits, has reached `margin` at `progress`, steps over all steps."""
        spec = self._of.spec
        return spec.margin_top >= margin * (1 + math.exp((self.midpoint - progress) / spec.margin_width))


class TypicalConfidence(RequestConfidence):
    """A request whose steps commit what they do on average, in whole positions; its margin is that of the mean."""

    __slots__ = ("_credit", "_requests")

    def __init__(self, of: Confidence, requests: int) -> None:
        self._of, self._rng = of, random.Random(0)
        self.ease, self.midpoint = 1.0, of.spec.margin_midpoint
        self._credit, self._requests = 0.0, requests

    def accepted(self, threshold: float, masked: int, block_length: int) -> int:
        """The mean, with what rounding left over from the steps before."""
        self._credit += block_length / self._of.block_steps(threshold, block_length, self._requests)
        taken = min(masked, max(1, int(self._credit + 1e-9)))
        self._credit -= taken
        return taken


@lru_cache(maxsize=4096)
def _block_steps(more: float, block_length: int, cv: float, requests: int) -> float:
    """1 + (b - 1) / (1 + more x ease), with the weight of each quantile as the lowest ease of so many requests."""
    ease = _quantiles(cv)
    count = len(ease)
    shares = (((count - i) / count) ** requests - ((count - i - 1) / count) ** requests for i in range(count))
    return 1 + (block_length - 1) * math.fsum(s / (1 + more * e) for s, e in zip(shares, ease, strict=True))


@lru_cache(maxsize=4096)
def solved(mean: float, block_length: int, cv: float) -> float:
    """Mean of tokens beyond a step's first, at ease 1, for which steps commit `mean` tokens: all tokens over all steps.

    The ease varies by cv; bisection over its logarithm, the mean over the ease on a grid of its quantiles.
    """
    if mean <= 1:
        return 0.0
    ends = (block_length / mean - 1) / (block_length - 1)  # probability that a token is its step's last
    ease = _quantiles(cv)
    low, high = -40.0, 40.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        more = math.exp(middle)
        if math.fsum(1 / (1 + more * e) for e in ease) > ends * len(ease):
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2)


@lru_cache(maxsize=64)
def _quantiles(cv: float) -> tuple[float, ...]:
    """Of a gamma distribution of mean 1, each in the middle of an equal share."""
    if cv == 0:
        return (1.0,)
    import numpy as np
    from scipy.special import gammaincinv

    shape = cv**-2
    return tuple((gammaincinv(shape, (np.arange(_GRID) + 0.5) / _GRID) / shape).tolist())
