"""Orders in which objects leave a full memory tier."""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies import eviction
from simserve.sim.plan import Stored


@eviction("lru")
@dataclass
class Lru:
    """What was not used for longest goes first."""

    def key(self, item: Stored) -> tuple[int, ...]:
        """By last use."""
        return (item.last_used_ns,)


@eviction("fifo")
@dataclass
class Fifo:
    """What came first goes first, used or not."""

    def key(self, item: Stored) -> tuple[int, ...]:
        """By placement."""
        return (item.placed_ns,)


@eviction("largest_first")
@dataclass
class LargestFirst:
    """The largest goes first, of equal ones the least recently used."""

    def key(self, item: Stored) -> tuple[int, ...]:
        """By size, then by last use."""
        return -item.size_bytes, item.last_used_ns
