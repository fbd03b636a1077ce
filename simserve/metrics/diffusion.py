"""What a run made of its denoising steps, over all instances together.

    steps                           of all instances
    requests_per_step               passes in a step, mean
    query_tokens_per_step           rows of its GEMMs, mean
    refresh_tokens                  of the query tokens, the share of refreshes (full passes)
    tokens_per_step                 positions that a pass commits, mean; padded ones are in it
    tail_ratio                      p99 of E2E over its median

TTFT is the first block's; TPOT spreads the rest over all tokens but one, as for other models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.metrics.stats import Stats
from simserve.sim.denoise import DenoiseUse, PassKind


@dataclass(frozen=True)
class DiffusionMetrics:
    """See the module docstring."""

    steps: int
    requests_per_step: float
    query_tokens_per_step: float
    refresh_tokens: float
    tokens_per_step: float
    tail_ratio: float | None


def diffusion_metrics(instances: Sequence[DenoiseUse], e2e_ms: Stats) -> DiffusionMetrics | None:
    """Over all instances of a diffusion model, and of all requests' E2E; None if there is none."""
    if not instances:
        return None
    steps = sum(use.steps for use in instances)
    passes = sum(sum(use.passes.values()) for use in instances)
    tokens = sum(sum(use.query_tokens.values()) for use in instances)
    reused = sum(use.query_tokens[PassKind.REUSE] for use in instances)
    return DiffusionMetrics(
        steps, passes / max(steps, 1), tokens / max(steps, 1), (tokens - reused) / max(tokens, 1),
        sum(use.committed for use in instances) / max(passes, 1),
        e2e_ms.p99 / e2e_ms.p50 if e2e_ms.p99 is not None and e2e_ms.p50 else None,
    )  # fmt: skip
