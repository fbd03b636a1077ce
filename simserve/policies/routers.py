"""Routers that need nothing but the instance views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from simserve.policies import router
from simserve.sim.plan import InstanceView
from simserve.sim.request import Seen


@router("round_robin")
@dataclass
class RoundRobin:
    """Instance 0, 1, 2, ... in turn."""

    _next: int = field(default=0, init=False)

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The next instance in turn."""
        chosen = self._next % len(views)
        self._next = chosen + 1
        return chosen


@router("least_loaded")
@dataclass
class LeastLoaded:
    """The instance with the fewest requests waiting and running; the first among equals."""

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The instance with the fewest requests."""
        best, least = 0, views[0].num_waiting + views[0].num_running
        for index, view in enumerate(views):
            load = view.num_waiting + view.num_running
            if load < least:
                best, least = index, load
        return best
