"""Give a simulation up as soon as what has happened makes its SLO unreachable, whatever the rest does.

An objective at percentile P of n requests is missed once more than n - ceil(n P / 100) of them are beyond its bound:
no later request can change that. So a pruned configuration is one that would have missed the SLO, never another, and
what is recommended is the same with and without pruning. Being behind the best throughput so far is no such reason,
for the front has all that is ahead in TPOT; see `simserve/DESIGN.md`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Self

from simserve.errors import Infeasible
from simserve.sim.request import Outcome, Request
from simserve.units import NS_PER_MS

if TYPE_CHECKING:
    from simserve.spec.slo import SloSpec


class GivenUp(str):
    """Why a simulation was given up, in words; missed: the objective that had become unreachable (ttft, tpot, e2e)."""

    missed: str

    def __new__(cls, words: str, missed: str) -> Self:
        found = super().__new__(cls, words)
        found.missed = missed
        return found

    def __reduce__(self) -> tuple[type[GivenUp], tuple[str, str]]:
        return type(self), (str(self), self.missed)


class Pruned(Infeasible):
    """A configuration whose simulation was given up; reason: why."""

    @property
    def reason(self) -> GivenUp:
        """Why, as words and as data."""
        found: GivenUp = self.args[0]
        return found


class Watch:
    """Counts requests beyond each bound as they end; raises Pruned when there are too many.

    total: requests of the whole run.
    """

    def __init__(self, slo: SloSpec, total: int) -> None:
        bounds = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2e": slo.e2e_ms}
        self._bounds = {name: bound * NS_PER_MS for name, bound in bounds.items() if bound is not None}
        self._late = dict.fromkeys(self._bounds, 0)
        self._allowed = total - math.ceil(total * slo.percentile / 100 - 1e-9)
        self._slo, self._total, self._ended = slo, total, 0

    def __call__(self, request: Request, outcome: Outcome) -> None:
        """A request has ended."""
        self._ended += 1
        for name, bound in self._bounds.items():
            if outcome is not Outcome.FINISHED or _taken_ns(name, request) > bound:
                self._late[name] += 1
                if self._late[name] > self._allowed:
                    raise Pruned(self._reason(name))

    def _reason(self, name: str) -> GivenUp:
        bound = getattr(self._slo, f"{name}_ms")
        words = (
            f"given up: {self._late[name]} of {self._total} requests have a {name.upper()} above {bound:g} ms, which "
            f"P{self._slo.percentile:g} cannot make good; known after {self._ended}"
        )
        return GivenUp(words, name)


def _taken_ns(name: str, request: Request) -> float:
    """The latency of a request that has finished; a single token has no TPOT."""
    if name == "ttft":
        return request.first_token_ns - request.arrival_ns
    if name == "e2e":
        return request.last_token_ns - request.arrival_ns
    after_first = request.num_tokens - request.prompt_tokens - 1
    return (request.last_token_ns - request.first_token_ns) / after_first if after_first else 0.0
