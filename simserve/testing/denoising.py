"""Diffusion requests for tests: what their steps commit, from a list, and what a run did with them step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from simserve.perf.cost import CostModel
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.confidence import Confidence
from simserve.sim.plan import Plan, Scheduler
from simserve.sim.trace import Trace
from simserve.testing.builders import load, play

Row = tuple[str, int, int, int]  # kind, query tokens, cached tokens, rows of logits


class ToyConfidence:
    """A `Confidence` whose requests find in each step with a threshold what stands in their list, then 1."""

    def __init__(self, found: Mapping[int, Sequence[int]]) -> None:
        self.found = found

    def of(self, request_id: int) -> ToyRequestConfidence:
        """That of one request."""
        return ToyRequestConfidence(list(self.found.get(request_id, ())))


class ToyRequestConfidence:
    """What one request finds; it never ends early."""

    def __init__(self, found: list[int]) -> None:
        self.found = found

    def accepted(self, threshold: float, masked: int, block_length: int) -> int:
        """The next of the list."""
        return min(masked, self.found.pop(0)) if self.found else 1

    def exits(self, progress: float, margin: float) -> bool:
        """Never."""
        return False


def denoised(
    rows: Sequence[tuple[int, int, int]], scheduler: Scheduler, cost: CostModel, *,
    confidence: Confidence | ToyConfidence | None = None, **engine: Any,
) -> tuple[list[tuple[int, int, dict[int, Row]]], Trace]:  # fmt: skip
    """(start_ns, end_ns, passes by request) of each step of one instance, and its trace, whose laws hold.

    rows, engine: as in `builders.load` and `builders.play`; without a confidence nothing passes a threshold.
    """
    steps: list[tuple[int, int, dict[int, Row]]] = []

    def note(start_ns: int, duration_ns: int, plan: Plan, free: int) -> None:
        passes = {r.id: (p.kind.value, plan.tokens[r], p.cached_tokens, p.logit_rows)
                  for r, p in (plan.denoise or {}).items()}  # fmt: skip
        steps.append((start_ns, start_ns + duration_ns, passes))

    sure = cast(Confidence, confidence or ToyConfidence({}))
    trace, cluster = play(load(rows), [scheduler], RoundRobin(), cost, observer=note, confidence=sure, **engine)
    laws.check(trace)
    assert [i.ledger.used for i in cluster.instances] == [0]
    return steps, trace
