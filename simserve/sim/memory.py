"""Typed objects in memory tiers: what lies where, in bytes, and what may be evicted.

Tiers are named (`hbm`, `dram`, `ssd`); each object has a kind, so that weights, KV blocks, activations,
logits and adapters compete for the same bytes under one rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from simserve.errors import Infeasible, SimserveError
from simserve.units import format_bytes


class ObjectKind(Enum):
    """What an object in memory is."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """`size_bytes` of one kind under a name; a pinned object is never evicted."""

    name: str
    kind: ObjectKind
    size_bytes: int
    pinned: bool = True


class Memory:
    """The tiers of one instance and the objects in them, in order of placement."""

    def __init__(self, capacity_bytes: dict[str, int]) -> None:
        self.capacity_bytes = dict(capacity_bytes)
        self.objects: dict[str, dict[str, MemoryObject]] = {tier: {} for tier in capacity_bytes}

    def free_bytes(self, tier: str) -> int:
        """Bytes of `tier` that nothing occupies."""
        return self.capacity_bytes[tier] - sum(o.size_bytes for o in self.objects[tier].values())

    def place(self, tier: str, item: MemoryObject) -> None:
        """Put `item` into `tier`; Infeasible with the byte counts if it does not fit."""
        if item.name in self.objects[tier]:
            raise SimserveError(f"{item.name!r} is in {tier} already")
        free = self.free_bytes(tier)
        if item.size_bytes > free:
            raise Infeasible(
                f"{item.name} needs {format_bytes(item.size_bytes)} of {tier}, {format_bytes(free)} are free"
            )
        self.objects[tier][item.name] = item

    def remove(self, tier: str, name: str) -> MemoryObject:
        """Take an object out of a tier."""
        return self.objects[tier].pop(name)

    def move(self, name: str, source: str, target: str) -> None:
        """Move an object between tiers, or leave all as it was and raise Infeasible."""
        self.place(target, self.objects[source][name])
        self.remove(source, name)
