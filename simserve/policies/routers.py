"""Routers that need nothing but the instance views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from simserve.policies import router
from simserve.policies.hashing import mix
from simserve.sim.plan import InstanceView, knob
from simserve.sim.request import Seen


def least_loaded(views: Sequence[InstanceView]) -> int:
    """The instance with the fewest requests waiting and running; the first among equals."""
    best, least = 0, views[0].num_waiting + views[0].num_running
    for index, view in enumerate(views):
        load = view.num_waiting + view.num_running
        if load < least:
            best, least = index, load
    return best


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


@router("random")
@dataclass
class Random:
    """Any instance, all equally likely."""

    seed: int = knob(0, "which draws", low=0, high=1 << 32)

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """A draw from the seed and the request's id."""
        return mix(self.seed, request.id) % len(views)


@router("least_loaded")
@dataclass
class LeastLoaded:
    """The instance with the fewest requests waiting and running; the first among equals."""

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The instance with the fewest requests."""
        return least_loaded(views)


@router("least_kv")
@dataclass
class LeastKv:
    """The instance with the fewest KV blocks in use; among equals the one with fewer requests, then the first."""

    reads_blocks: ClassVar[bool] = True

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The instance with the fewest blocks in use."""
        return min(range(len(views)), key=lambda i: (
            views[i].total_blocks - views[i].free_blocks, views[i].num_waiting + views[i].num_running
        ))  # fmt: skip


@router("power_of_two")
@dataclass
class PowerOfTwo:
    """The less loaded of two instances drawn at random (Mitzenmacher, 2001); the first drawn among equals."""

    seed: int = knob(0, "which draws", low=0, high=1 << 32)

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """One of two different instances."""
        if len(views) == 1:
            return 0
        draw = mix(self.seed, request.id)
        first = draw % len(views)
        second = (first + 1 + (draw >> 32) % (len(views) - 1)) % len(views)
        return (first, second)[least_loaded((views[first], views[second]))]
