"""The block ledger with prefix caching: blocks have contents, hashes and reference counts.

Rules of vLLM V1 (version 0.33.0) [known]: the hash of a full block covers its tokens and its parent's hash.
Full blocks enter the cache when slots are allocated. The free list is a queue: allocation takes its front and
evicts the hash of a cached block on the way; a hit takes a block out wherever it is. Freed blocks of a
request are handled tail first: without a hash to the front, with one to the end. Two equal blocks may exist;
the first one found serves.

Blocks of what a request generates are entered late: when it releases them, or when another asks for their content.
Until then nobody could have found them, so nothing else changes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from simserve.sim.kv import BlockLedger
from simserve.sim.request import Seen

_AHEAD = 32  # blocks that are hashed with those that are asked for: what comes is what the request will generate


class PrefixLedger(BlockLedger):
    """Implements `sim.plan.Blocks` with a shared, LRU-evicted prefix cache."""

    __slots__ = (
        "_blank", "_cached", "_chain", "_found", "_fresh", "_full", "_gone", "_hash", "_held", "_late", "_queue",
        "_queued", "_several", "_shared", "_writers",
    )  # fmt: skip

    def __init__(self, num_gpu_blocks: int, block_size: int) -> None:
        super().__init__(num_gpu_blocks, block_size)
        # The free list from its front: freed blocks without a hash, those never used, freed ones with a hash.
        self._blank: list[int] = []
        self._fresh = 1
        self._queue: deque[int] = deque()
        self._queued: set[int] = set()
        self._gone: dict[int, int] = {}  # how many of a block's places in the queue no longer count: its first ones
        self._shared: dict[int, int] = {}  # holders beyond the first of blocks that have several
        self._hash: dict[int, int] = {}
        self._cached: dict[int, int | dict[int, None]] = {}  # a block, or several in order of entry
        self._held: dict[int, list[int]] = {}
        self._full: dict[int, int] = {}
        self._late: dict[int, int] = {}  # of the full blocks, how many have entered, where it is not all
        self._writers: dict[int, Seen] = {}  # by the content that it generates, the one request with late blocks
        self._several: set[int] = set()  # contents that several requests generate: their blocks enter at once
        self._chain: dict[int, list[int]] = {}
        # What `_hits` found last: request, blocks asked for, blocks found, the contents they could be of.
        self._found: tuple[int, int, list[int], tuple[int, ...]] | None = None

    def cached_tokens(self, request: Seen) -> int:
        """Tokens of the longest cached prefix: whole blocks, at most all tokens but one; or what was fetched."""
        if request.blocks:
            return request.computed_tokens
        return len(self._hits(request)) * self.block_size

    def fits(self, request: Seen, tokens: int, headroom: int) -> bool:
        """Whether `tokens` tokens fit beside `headroom` blocks; hits that nobody holds cost a free block."""
        if request.blocks:
            return self.count(tokens) - request.blocks <= self.free
        hits = self._hits(request)
        unheld = sum(1 for block in hits if block in self._queued)
        return self.count(tokens) - len(hits) + unheld + headroom <= self.free

    def attach(self, request: Seen) -> int:
        """Give `request` the blocks of its cached prefix, if it holds none; returns its `cached_tokens`."""
        if request.blocks:
            return request.computed_tokens
        hits = self._hits(request)
        for block in hits:
            if block in self._queued:
                self._queued.remove(block)
                self._gone[block] = self._gone.get(block, 0) + 1
                self.free -= 1
            else:
                self._shared[block] = self._shared.get(block, 0) + 1
        self._found = None
        self._held[request.id] = hits
        self._full[request.id] = request.blocks = len(hits)
        return len(hits) * self.block_size

    def reserve(self, request: Seen, tokens: int, *, delay_cache: bool = False) -> bool:
        """As the plain ledger's; full blocks enter the cache at once, unless their content is yet to come."""
        full = min(tokens, request.num_tokens) // self.block_size
        if tokens <= request.blocks * self.block_size and (delay_cache or full <= self._full.get(request.id, 0)):
            return True
        held = self._held.setdefault(request.id, [])
        more = self.count(tokens) - len(held)
        if more > self.free:
            return False
        if more > 0:
            self._take(held, more)
            request.blocks = len(held)
        if not delay_cache:
            self._enter(request, held, full)
        return True

    def release(self, request: Seen) -> None:
        """Drop the request's references; what nobody holds becomes free, and stays cached until taken."""
        self._catch_up(request)
        held, full, shared = self._held.pop(request.id, []), self._full.get(request.id, 0), self._shared
        if not shared.keys().isdisjoint(held):
            kept = [block for block in held[:full] if block in shared]
            for block in kept:
                shared[block] -= 1
                if not shared[block]:
                    del shared[block]
            full -= len(kept)
            gone = set(kept)
            held = [block for block in held if block not in gone]
        self.free += len(held)
        self._blank.extend(reversed(held[full:]))
        self._queue.extend(reversed(held[:full]))
        self._queued.update(held[:full])
        self._full.pop(request.id, None)
        request.blocks = 0

    def forget(self, request: Seen) -> None:
        """The request has ended: its hash chain is no longer needed."""
        self._chain.pop(request.id, None)

    def advance(self, requests: Sequence[Seen], steps: int) -> bool:
        """Blocks for the `steps` decode steps that a batch has taken, in the order in which single steps take them.

        Where no cached block need be evicted and no two write the same, that order decides nothing.
        """
        size = self.block_size
        needed = sum(-(-request.computed_tokens // size) - request.blocks for request in requests)
        apart = len({request.output_content for request in requests}) == len(requests)
        if apart and needed <= len(self._blank) + self.total + 1 - self._fresh:
            full = self._full
            return all(
                self.reserve(request, request.computed_tokens)
                for request in requests
                if request.computed_tokens // size > full.get(request.id, 0)
                or request.computed_tokens > request.blocks * size
            )
        events = sorted(
            (step, index, request.computed_tokens - steps + step)
            for index, request in enumerate(requests)
            for step in _steps_at_block_ends(request.computed_tokens - steps, steps, size)
        )
        return all(self.reserve(requests[index], tokens) for _, index, tokens in events)

    def _take(self, held: list[int], count: int) -> None:
        """Append `count` blocks from the front of the queue, their hashes evicted."""
        blank, hashes, cached = self._blank, self._hash, self._cached
        self.free -= count
        while count and blank:
            held.append(blank.pop())
            count -= 1
        fresh = min(count, self.total + 1 - self._fresh)
        if fresh > 0:
            held.extend(range(self._fresh, self._fresh + fresh))
            self._fresh += fresh
        if count > fresh:
            self._found = None
        for _ in range(count - fresh):
            block = self._first_queued()
            old = hashes.pop(block)
            if cached[old] == block:
                del cached[old]
            else:
                self._forget_twin(old, block)
            held.append(block)

    def _first_queued(self) -> int:
        """Take the front of the queue."""
        block = self._queue.popleft()
        while block in self._gone:
            self._gone[block] -= 1
            if not self._gone[block]:
                del self._gone[block]
            block = self._queue.popleft()
        self._queued.remove(block)
        return block

    def _forget_twin(self, value: int, block: int) -> None:
        """One of several equal blocks goes."""
        same = self._cached[value]
        assert isinstance(same, dict)
        del same[block]
        if len(same) == 1:
            self._cached[value] = next(iter(same))

    def _enter(self, request: Seen, held: list[int], full: int) -> None:
        """The request's first `full` blocks are full: put them into the cache, or note that they come late."""
        done = self._full.get(request.id, 0)
        if full <= done:
            return
        self._full[request.id] = full
        if done * self.block_size < request.prompt_tokens or not self._writes_alone(request):
            self._file(request, held, done, full)
        else:
            self._late.setdefault(request.id, done)

    def _writes_alone(self, request: Seen) -> bool:
        """Whether no other request generates the same content."""
        if request.output_content not in self._several:
            other = self._writers.setdefault(request.output_content, request)
            if other is request:
                found = self._found
                if found is not None and request.id not in self._late and request.output_content in found[3]:
                    self._found = None  # the first late block since: it may lengthen what was found
                return True
            self._several.add(request.output_content)
            self._catch_up(other)
        return False

    def _catch_up(self, request: Seen) -> None:
        """Put the request's late blocks into the cache."""
        done = self._late.pop(request.id, None)
        if done is not None:
            self._file(request, self._held[request.id], done, self._full[request.id])
            self._writers.pop(request.output_content, None)

    def _file(self, request: Seen, held: list[int], done: int, full: int) -> None:
        """Put the request's blocks [done, full) into the cache."""
        self._found = None
        own, cached = self._hash, self._cached
        blocks, values = held[done:full], self._chain_to(request, full)[done:full]
        own.update(zip(blocks, values, strict=True))
        if cached.keys().isdisjoint(values):
            cached.update(zip(values, blocks, strict=True))
        else:
            for block, value in zip(blocks, values, strict=True):
                same = cached.setdefault(value, block)
                if same != block:
                    if isinstance(same, dict):
                        same[block] = None
                    else:
                        cached[value] = {same: None, block: None}

    def _hits(self, request: Seen) -> list[int]:
        """Cached blocks of the longest prefix. A plan asks several times in a row."""
        most = (request.num_tokens - 1) // self.block_size
        if self._found is not None and self._found[:2] == (request.id, most):
            return self._found[2]
        names = (request.output_content, *(name for name, _ in request.content))
        if not self._writers.keys().isdisjoint(names):
            for name in self._writers.keys() & names:
                self._catch_up(self._writers[name])
        hits: list[int] = []
        for value in itertools.islice(self._chain_to(request, most), most):
            found = self._cached.get(value)
            if found is None:
                break
            hits.append(next(iter(found)) if isinstance(found, dict) else found)
        self._found = request.id, most, hits, names
        return hits

    def hashes(self, request: Seen, count: int) -> list[int]:
        """The first `count` hashes of the request's chain, extended as needed."""
        chain = self._chain_to(request, count)
        return chain[:count] if len(chain) > count else chain

    def _chain_to(self, request: Seen, count: int) -> list[int]:
        """The request's chain with at least `count` hashes."""
        chain = self._chain.setdefault(request.id, [])
        if len(chain) < count:
            _extend(chain, request, count + _AHEAD, self.block_size)
        return chain


def _extend(chain: list[int], request: Seen, count: int, size: int) -> None:
    """Append hashes up to `count` blocks: of the parent's hash and the block's (content id, offset, length) pieces.

    Whole blocks of one piece follow the hash of the block before the piece and the piece's id, numbered by their place
    in it: the same for the same prefix, however much of it was hashed before.
    """
    start = len(chain) * size
    begins = itertools.accumulate((length for _, length in request.content), initial=0)
    pieces = zip((*request.content, (request.output_content, 1 << 62)), begins, strict=True)
    block: list[tuple[int, int, int]] = []
    missing = size
    for (content, length), begin in pieces:
        offset = max(start - begin, 0)
        if block and offset < length:
            taken = min(missing, length - offset)
            block.append((content, offset, taken))
            offset, missing = offset + taken, missing - taken
            if missing:
                continue
            chain.append(hash((chain[-1] if chain else 0, *block)))
            block, missing = [], size
        whole = min(count - len(chain), (length - offset) // size)
        if whole > 0:
            before = -(-begin // size)
            first = hash((chain[before - 1] if before else 0, content)) + offset
            chain.extend(range(first, first + whole * size, size))
            offset += whole * size
        if len(chain) == count:
            return
        if offset < length:
            block, missing = [(content, offset, length - offset)], size - (length - offset)


def _steps_at_block_ends(tokens: int, steps: int, size: int) -> Iterator[int]:
    """Steps in [1, steps] after which a block is new or full, for a request with `tokens` tokens."""
    for residue in sorted({0, 1 % size}):
        yield from range((residue - tokens - 1) % size + 1, steps + 1, size)
