"""The screen's order, corrected by what was simulated: by how much its latencies are off, for each kind of deployment.

What the screen estimates are means, what an SLO bounds is a percentile; and arrivals, chunks and queues make the
difference larger or smaller. So once simulations are there, each latency is multiplied by the median of simulated over
estimated. A simulation that was given up says that its ratio is at least bound over estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.explore.objective import NEVER_MS, Outcome
from simserve.explore.screen import Floats, Ints, Screen, places

if TYPE_CHECKING:
    from simserve.explore.prune import GivenUp
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.slo import SloSpec

TOLERANCE = 0.02  # beyond a bound, once latencies are corrected [guessed]
_BEYOND = 1.05  # how far above its bound a latency is taken to be that was given up [guessed]
_NEVER = 20.0  # the largest ratio: what never finished is not infinitely slow under any other load


@dataclass(frozen=True)
class Learned:
    """deployments with their screen and layouts, in the screen's own order; the objective as in `screen.places`."""

    deployments: Sequence[DeploymentSpec]
    screen: Screen
    layouts: Ints
    slo: SloSpec | None
    objective: str = "throughput"

    def order(
        self, outcomes: Sequence[Outcome], pruned: Sequence[tuple[DeploymentSpec, GivenUp]]
    ) -> Sequence[DeploymentSpec]:
        """The deployments, the most promising first by what is known now."""
        slo = self.slo
        if slo is None or not (outcomes or pruned):
            return self.deployments
        index = {deployment: place for place, deployment in enumerate(self.deployments)}
        pools = np.array([bool(d.pools) for d in self.deployments])
        corrected = {}
        for name, bound in (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms)):
            column: Floats = getattr(self.screen, f"{name}_ms")
            ratios = _ratios(name, bound, column, index, outcomes, pruned)
            factor = np.where(pools, *(_factor(ratios, pools, kind) for kind in (True, False)))
            corrected[f"{name}_ms"] = column * factor
        best = places(replace(self.screen, **corrected), self.layouts, slo, self.objective, TOLERANCE)
        return [self.deployments[place] for place in best.tolist()]


def _ratios(
    name: str, bound: float | None, column: Floats, index: Mapping[DeploymentSpec, int], outcomes: Sequence[Outcome],
    pruned: Sequence[tuple[DeploymentSpec, GivenUp]],
) -> list[tuple[int, float]]:  # fmt: skip
    """(place, simulated over estimated) of what was simulated, in the order of places."""
    found: list[tuple[int, float]] = []
    for outcome in outcomes:
        value, place = _latency_ms(outcome, name), index.get(outcome.deployment)
        if place is not None and value is not None and column[place] > 0:
            found.append((place, min(_NEVER, min(value, NEVER_MS) / float(column[place]))))
    for deployment, reason in pruned:
        place = index.get(deployment)
        if place is not None and reason.missed == name and bound is not None and column[place] > 0:
            found.append((place, min(_NEVER, max(1.0, bound * _BEYOND / float(column[place])))))
    return sorted(found)


def _latency_ms(outcome: Outcome, name: str) -> float | None:
    """At the SLO's percentile; E2E is known where it has a bound."""
    if name == "e2e":
        return next((s.value_ms for s in outcome.slo if s.name == name), None)
    value: float | None = getattr(outcome, f"{name}_ms")
    return value


def _factor(ratios: Sequence[tuple[int, float]], pools: NDArray[np.bool_], kind: bool) -> float:
    """Of the deployments with pools, or of those without; of all where there is none of the kind."""
    own = [ratio for place, ratio in ratios if pools[place] == kind] or [ratio for _, ratio in ratios]
    return float(np.median(own)) if own else 1.0
