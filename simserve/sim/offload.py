"""Prefix offload: KV blocks of prompts in host memory and on an SSD, copied over PCIe beside the computation.

When prompt tokens have been computed, their full blocks are copied to the host (once; the copy takes the PCIe channel
out of the GPU and delays no step). A request whose prefix lies there, beyond what the GPU's own prefix cache holds,
fetches it before it is admitted. What the host has no room for is evicted in the order of a policy, to the SSD if there
is one. Rules after vLLM's CPU offloading connector and LMCache, which stores prompts only by default [known]; a block
on its way in cannot be found yet; one that is claimed stays until fetched. Simplified: a tier is one pool for all
ranks of an instance, whose shards move side by side: bytes are those of one rank; SSD to host and host to GPU follow
one another; blocks leave the SSD only by eviction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from simserve.errors import Infeasible
from simserve.sim.clock import Clock
from simserve.sim.link import Link
from simserve.sim.memory import Memory, MemoryObject, ObjectKind
from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Request, Seen

DRAM, SSD = "dram", "ssd"


@dataclass(frozen=True)
class Channels:
    """The links of one instance's offload tiers; without an SSD its two are None."""

    to_host: Link
    from_host: Link
    to_ssd: Link | None = None
    from_ssd: Link | None = None


class OffloadTiers:
    """Implements `sim.plan.Offload`, and moves the blocks.

    memory: tiers `dram` and, if there is one, `ssd`; block_bytes: of one rank; pieces_per_block: copies that a block
    takes; retention_ns: a block that was stored or used is pinned in host memory for so long; changed: called when
    blocks have arrived in the host, which may change what a plan finds.
    """

    def __init__(
        self, clock: Clock, ledger: PrefixLedger, memory: Memory, channels: Channels, *, block_bytes: int,
        pieces_per_block: int = 1, retention_ns: int = 0,
    ) -> None:  # fmt: skip
        self._clock, self._ledger, self._memory, self._channels = clock, ledger, memory, channels
        self._block_bytes, self._pieces, self._retention_ns = block_bytes, pieces_per_block, retention_ns
        self._arriving: set[int] = set()
        self._claims: dict[int, tuple[int, list[int]]] = {}
        self._claimed: Counter[int] = Counter()
        self._evicted: list[MemoryObject] = []
        self.changed: Callable[[], None] = lambda: None

    def found(self, request: Seen, tokens: int) -> int:
        """See `sim.plan.Offload`."""
        blocks = self._blocks(request, tokens)
        return tokens + len(blocks) * self._ledger.block_size if blocks else 0

    def claim(self, request: Seen, tokens: int) -> None:
        """See `sim.plan.Offload`."""
        blocks = self._blocks(request, tokens)
        self._claims[request.id] = tokens + len(blocks) * self._ledger.block_size, blocks
        self._claimed.update(blocks)
        for block in blocks:
            self._pin(block, keep=True)

    def claimed_tokens(self, request: Seen) -> int:
        """Tokens that the request will have when what it claimed has arrived; 0 without a claim."""
        return self._claims[request.id][0] if request.id in self._claims else 0

    def fetch(self, request: Request, done: Callable[[], None]) -> None:
        """Move what the request claimed to the GPU: from the SSD to the host first, then all of it to the GPU."""
        _, blocks = self._claims.pop(request.id)
        far = [b for b in blocks if b not in self._memory.objects[DRAM]]

        def arrived() -> None:
            self._claimed.subtract(blocks)
            for block in blocks:
                self._pin(block, keep=self._claimed[block] > 0)
            done()

        def to_gpu() -> None:
            self._promote(far)
            if far:
                self.changed()  # what had to make room cannot be fetched now
            self._move(self._channels.from_host, len(blocks), arrived, request.id)

        if far and self._channels.from_ssd is not None:
            self._move(self._channels.from_ssd, len(far), to_gpu, request.id)
        else:
            to_gpu()

    def store(self, request: Request, tokens: int) -> None:
        """Copy the full blocks of the request's first `tokens` tokens to the host, but for those that are there."""
        hashes = self._ledger.hashes(request, tokens // self._ledger.block_size)
        fresh = [h for h in hashes if not self._renew(h)]
        room = list(takewhile(self._place, fresh))
        self._demote()
        if not room:
            return
        self._arriving.update(room)

        def arrived() -> None:
            self._arriving.difference_update(room)
            for block in room:
                self._pin(block, keep=False)
            self.changed()

        self._move(self._channels.to_host, len(room), arrived, request.id)

    def _blocks(self, request: Seen, tokens: int) -> list[int]:
        """The blocks of the request's prefix from its first `tokens` tokens on that can be fetched now."""
        size = self._ledger.block_size
        hashes = self._ledger.hashes(request, (request.num_tokens - 1) // size)
        return list(takewhile(self._ready, hashes[tokens // size :]))

    def _ready(self, block: int) -> bool:
        return self._tier(block) is not None and block not in self._arriving

    def _tier(self, block: int) -> str | None:
        """Where a block lies, the host first."""
        return next((tier for tier, held in self._memory.objects.items() if block in held), None)

    def _renew(self, block: int) -> bool:
        """Note that a block is used; False if it lies nowhere."""
        tier = self._tier(block)
        if tier is None:
            return False
        self._memory.use(tier, block, self._clock.now_ns)
        return True

    def _place(self, block: int) -> bool:
        """Make a place for a block in the host, pinned until it has arrived; False if all is pinned."""
        if not self._make_room():
            return False
        now = self._clock.now_ns
        item = MemoryObject(block, ObjectKind.KV_CACHE, self._block_bytes, placed_ns=now, last_used_ns=now)
        self._memory.place(DRAM, item)
        return True

    def _make_room(self) -> bool:
        """Room for one block in the host; what goes is to be demoted. False if all is pinned."""
        try:
            victims = self._memory.make_room(DRAM, self._block_bytes, self._clock.now_ns)
        except Infeasible:
            return False
        self._evicted += victims
        return True

    def _pin(self, block: int, *, keep: bool) -> None:
        """Pin a block without end, or from now on for the retention time only."""
        tier = self._tier(block)
        if tier is not None:
            now = self._clock.now_ns
            until = None if keep else now + self._retention_ns
            pinned = keep or self._retention_ns > 0
            self._memory.change(tier, block, pinned=pinned, expires_ns=until, last_used_ns=now)

    def _demote(self) -> None:
        """Move what was evicted from the host to the SSD, if there is one, as far as that has room."""
        victims, self._evicted = self._evicted, []
        to_ssd, moved = self._channels.to_ssd, list[int]()
        for victim in victims if to_ssd is not None else ():
            try:
                self._memory.make_room(SSD, victim.size_bytes, self._clock.now_ns)
            except Infeasible:
                continue
            self._memory.place(SSD, replace(victim, pinned=True, expires_ns=None))
            moved.append(int(victim.name))

        def arrived() -> None:
            self._arriving.difference_update(moved)
            for block in moved:
                self._memory.change(SSD, block, pinned=False)

        if moved and to_ssd is not None:
            self._arriving.update(moved)
            self._move(to_ssd, len(moved), arrived, -1)

    def _promote(self, blocks: Sequence[int]) -> None:
        """Blocks that came from the SSD move to the host, as far as others can go from there."""
        for block in blocks:
            if block in self._memory.objects[SSD] and self._make_room():
                self._memory.move(block, SSD, DRAM)
        self._demote()

    def _move(self, link: Link, blocks: int, done: Callable[[], None], request: int) -> None:
        """One transfer of whole blocks."""
        link.transfer(blocks * self._block_bytes, done, pieces=blocks * self._pieces, request=request)
