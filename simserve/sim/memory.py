"""Typed objects in memory tiers: what lies where, in bytes, what is pinned, and what is evicted first.

Tiers are named (`hbm`, `dram`, `ssd`); each object has a kind, so that weights, KV blocks, activations,
logits and adapters compete for the same bytes under one rule.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from simserve.errors import Infeasible, SimserveError
from simserve.sim.plan import Stored
from simserve.units import format_bytes


class ObjectKind(Enum):
    """What an object in memory is."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    ADAPTER = "adapter"
    FEATURES = "features"


Name = str | int


@dataclass(frozen=True, slots=True)
class MemoryObject:
    """`size_bytes` of one kind under a name.

    pinned: never evicted; expires_ns: not pinned any more from then on, whatever `pinned` says (a TTL), None
    for never; needs: names of objects that must stay in the same tier as long as this one does. placed_ns: when it
    came into its tier first.
    """

    name: Name
    kind: ObjectKind
    size_bytes: int
    pinned: bool = True
    expires_ns: int | None = None
    needs: tuple[Name, ...] = ()
    placed_ns: int = 0
    last_used_ns: int = 0


EvictionOrder = Callable[[Stored], tuple[int, ...]]
Entry = tuple[tuple[int, ...], int, MemoryObject]


def least_recently_used(item: Stored) -> tuple[int, ...]:
    """The default order: what was not used for longest goes first."""
    return (item.last_used_ns,)


class Memory:
    """The tiers of one instance and the objects in them, in order of placement.

    order: what is evicted first; of equal objects the one that was placed or used last (the end of a prefix whose
    blocks were used together).
    """

    def __init__(self, capacity_bytes: dict[str, int], order: EvictionOrder = least_recently_used) -> None:
        self.capacity_bytes = dict(capacity_bytes)
        self.objects: dict[str, dict[Name, MemoryObject]] = {tier: {} for tier in capacity_bytes}
        self._order, self._turn = order, itertools.count(0, -1)
        self._used = dict.fromkeys(capacity_bytes, 0)
        self._users: dict[str, Counter[Name]] = {tier: Counter() for tier in capacity_bytes}
        self._heaps: dict[str, list[Entry]] = {t: [] for t in capacity_bytes}

    def free_bytes(self, tier: str) -> int:
        """Bytes of `tier` that nothing occupies."""
        return self.capacity_bytes[tier] - self._used[tier]

    def place(self, tier: str, item: MemoryObject) -> None:
        """Put `item` into `tier`; Infeasible with the byte counts if it does not fit."""
        held = self.objects[tier]
        if item.name in held:
            raise SimserveError(f"{item.name!r} is in {tier} already")
        missing = [str(name) for name in item.needs if name not in held]
        if missing:
            raise SimserveError(f"{item.name!r} needs {', '.join(missing)} in {tier}")
        free = self.free_bytes(tier)
        if item.size_bytes > free:
            raise Infeasible(
                f"{item.name} needs {format_bytes(item.size_bytes)} of {tier}, {format_bytes(free)} are free"
            )
        self._put(tier, item)

    def use(self, tier: str, name: Name, now_ns: int) -> None:
        """Note that an object is used now."""
        self.change(tier, name, last_used_ns=now_ns)

    def change(self, tier: str, name: Name, **fields: Any) -> None:
        """Replace fields of an object (`pinned`, `expires_ns`, `last_used_ns`); its bytes and needs stay."""
        item = self.objects[tier][name] = replace(self.objects[tier][name], **fields)
        self._enqueue(tier, item)

    def remove(self, tier: str, name: Name) -> MemoryObject:
        """Take an object out of a tier; refused while another one there needs it."""
        if self._users[tier][name]:
            users = [str(o.name) for o in self.objects[tier].values() if name in o.needs]
            raise SimserveError(f"{name!r} is needed in {tier} by {', '.join(users)}")
        item = self.objects[tier].pop(name)
        self._used[tier] -= item.size_bytes
        self._users[tier].subtract(item.needs)
        return item

    def move(self, name: Name, source: str, target: str) -> None:
        """Move an object between tiers, or leave all as it was and raise."""
        self.place(target, self.objects[source][name])
        try:
            self.remove(source, name)
        except SimserveError:
            self.remove(target, name)
            raise

    def make_room(self, tier: str, size_bytes: int, now_ns: int) -> list[MemoryObject]:
        """Evict until `size_bytes` are free; returns what went, in order. Nothing goes if it would not do."""
        heap, victims, kept = self._heaps[tier], list[MemoryObject](), list[Entry]()
        while self.free_bytes(tier) < size_bytes:
            if not heap:
                free = self.free_bytes(tier)
                for item in (entry[-1] for entry in kept):
                    self._enqueue(tier, item)
                for item in reversed(victims):
                    self._put(tier, item)
                raise Infeasible(
                    f"{format_bytes(size_bytes)} of {tier} are wanted, {format_bytes(free)} can be freed; "
                    "the rest is pinned"
                )
            entry = heapq.heappop(heap)
            item = entry[-1]
            if self.objects[tier].get(item.name) is not item:
                continue
            if self._stays(tier, item, now_ns):
                kept.append(entry)
                continue
            victims.append(self.remove(tier, item.name))
            if item.needs:
                heap, kept = self._restored(tier, kept), list[Entry]()
        self._restored(tier, kept)
        return victims

    def _restored(self, tier: str, kept: list[Entry]) -> list[Entry]:
        """The heap of a tier with what was set aside."""
        for entry in kept:
            heapq.heappush(self._heaps[tier], entry)
        return self._heaps[tier]

    def _stays(self, tier: str, item: MemoryObject, now_ns: int) -> bool:
        """Whether an object may not go now: pinned, or needed by another one."""
        held_by_pin = item.pinned and (item.expires_ns is None or item.expires_ns > now_ns)
        return held_by_pin or self._users[tier][item.name] > 0

    def _put(self, tier: str, item: MemoryObject) -> None:
        self.objects[tier][item.name] = item
        self._used[tier] += item.size_bytes
        self._users[tier].update(item.needs)
        self._enqueue(tier, item)

    def _enqueue(self, tier: str, item: MemoryObject) -> None:
        """Note the place of an object in the order; entries of its past are skipped when they come up."""
        heap = self._heaps[tier]
        heapq.heappush(heap, (self._order(item), next(self._turn), item))
        if len(heap) > 4 * len(self.objects[tier]) + 64:
            heap[:] = [e for e in heap if self.objects[tier].get(e[-1].name) is e[-1]]
            heapq.heapify(heap)
