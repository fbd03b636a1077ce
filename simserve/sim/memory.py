"""Typed objects in memory tiers: what lies where, in bytes, what is pinned, and what is evicted first.

Tiers are named (`hbm`, `dram`, `ssd`); each object has a kind, so that weights, KV blocks, activations,
logits and adapters compete for the same bytes under one rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    """`size_bytes` of one kind under a name.

    pinned: never evicted; expires_ns: not pinned any more from then on, whatever `pinned` says (a TTL), None
    for never; needs: names of objects that must stay in the same tier as long as this one does.
    """

    name: str
    kind: ObjectKind
    size_bytes: int
    pinned: bool = True
    expires_ns: int | None = None
    needs: tuple[str, ...] = ()
    last_used_ns: int = 0


EvictionOrder = Callable[[MemoryObject], tuple[int, ...]]


def least_recently_used(item: MemoryObject) -> tuple[int, ...]:
    """The default order: what was not used for longest goes first."""
    return (item.last_used_ns,)


def largest_first(item: MemoryObject) -> tuple[int, ...]:
    """The largest goes first, of equal ones the least recently used."""
    return -item.size_bytes, item.last_used_ns


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
        held = self.objects[tier]
        if item.name in held:
            raise SimserveError(f"{item.name!r} is in {tier} already")
        missing = [name for name in item.needs if name not in held]
        if missing:
            raise SimserveError(f"{item.name!r} needs {', '.join(missing)} in {tier}")
        free = self.free_bytes(tier)
        if item.size_bytes > free:
            raise Infeasible(
                f"{item.name} needs {format_bytes(item.size_bytes)} of {tier}, {format_bytes(free)} are free"
            )
        held[item.name] = item

    def use(self, tier: str, name: str, now_ns: int) -> None:
        """Note that an object is used now."""
        self.objects[tier][name] = replace(self.objects[tier][name], last_used_ns=now_ns)

    def remove(self, tier: str, name: str) -> MemoryObject:
        """Take an object out of a tier; refused while another one there needs it."""
        users = [o.name for o in self.objects[tier].values() if name in o.needs]
        if users:
            raise SimserveError(f"{name!r} is needed in {tier} by {', '.join(users)}")
        return self.objects[tier].pop(name)

    def move(self, name: str, source: str, target: str) -> None:
        """Move an object between tiers, or leave all as it was and raise."""
        self.place(target, self.objects[source][name])
        try:
            self.remove(source, name)
        except SimserveError:
            del self.objects[target][name]
            raise

    def evictable(self, tier: str, now_ns: int) -> list[MemoryObject]:
        """Objects that may go now: neither pinned nor needed by another one."""
        held = self.objects[tier]
        needed = {name for o in held.values() for name in o.needs}
        return [
            o
            for o in held.values()
            if o.name not in needed and (not o.pinned or (o.expires_ns is not None and o.expires_ns <= now_ns))
        ]

    def make_room(
        self, tier: str, size_bytes: int, now_ns: int, *, order: EvictionOrder = least_recently_used
    ) -> list[MemoryObject]:
        """Evict in `order` until `size_bytes` are free; returns what went. Nothing goes if it would not do."""
        free, victims = self.free_bytes(tier), list[MemoryObject]()
        before = dict(self.objects[tier])
        while free < size_bytes:
            candidates = self.evictable(tier, now_ns)
            if not candidates:
                self.objects[tier] = before
                raise Infeasible(
                    f"{format_bytes(size_bytes)} of {tier} are wanted, {format_bytes(free)} can be freed; "
                    "the rest is pinned"
                )
            victim = min(candidates, key=order)
            del self.objects[tier][victim.name]
            victims.append(victim)
            free += victim.size_bytes
        return victims
