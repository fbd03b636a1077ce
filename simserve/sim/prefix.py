"""The block ledger with prefix caching: blocks have contents, hashes and reference counts.

Rules of vLLM V1 (version 0.33.0) [known]: the hash of a full block covers its tokens and its parent's hash.
Full blocks enter the cache when slots are allocated. The free list is a queue: allocation takes its front and
evicts the hash of a cached block on the way; a hit takes a block out wherever it is. Freed blocks of a
request are handled tail first: without a hash to the front, with one to the end. Two equal blocks may exist;
the first one found serves.

Blocks of a content that one request alone has are entered late: when another asks for that content, if ever. Until then
nobody could have found them, so nothing else changes; they are freed, and taken again, as one list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence

from simserve.sim.kv import BlockLedger
from simserve.sim.request import Seen

_AHEAD = 32  # blocks that are hashed at least at a time


class _Late:
    """Full blocks of one request from its block `first` on, which are in use but not in the cache yet.

    names: the contents they are of; freed: the blocks, once the request has released them, less those taken since.
    """

    __slots__ = ("first", "freed", "names", "request")

    def __init__(self, request: Seen, first: int) -> None:
        self.request, self.first = request, first
        self.names = set[int]()
        self.freed: list[int] | None = None


class PrefixLedger(BlockLedger):
    """Implements `sim.plan.Blocks` with a shared, LRU-evicted prefix cache."""

    __slots__ = (
        "_blank", "_cached", "_chain", "_found", "_fresh", "_full", "_gone", "_hash", "_held", "_late", "_queue",
        "_queued", "_shared", "_stale", "_writers",
    )  # fmt: skip

    def __init__(self, num_gpu_blocks: int, block_size: int) -> None:
        super().__init__(num_gpu_blocks, block_size)
        # The free list from its front: freed blocks without a hash, those never used, freed ones with a hash, each list
        # of which goes from its end.
        self._blank: list[int] = []
        self._fresh = 1
        self._queue: deque[tuple[list[int], _Late | None]] = deque()
        self._queued: set[int] = set()  # the cached ones of those
        self._gone: dict[int, int] = {}  # how many of a block's places in the queue no longer count: its first ones
        self._stale = 0  # the sum of those
        self._shared: dict[int, int] = {}  # holders beyond the first of blocks that have several
        self._hash: dict[int, int] = {}
        self._cached: dict[int, int | dict[int, None]] = {}  # a block, or several in order of entry
        self._held: dict[int, list[int]] = {}
        self._full: dict[int, int] = {}
        self._late: dict[int, _Late] = {}  # of requests that hold blocks
        self._writers: dict[int, _Late] = {}  # by content, the late blocks of the one request that has it
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
        unheld = len(self._queued.intersection(hits))
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
                self._stale += 1
                self.free -= 1
            else:
                self._shared[block] = self._shared.get(block, 0) + 1
        self._found = None
        self._held[request.id] = hits
        self._full[request.id] = request.blocks = len(hits)
        return len(hits) * self.block_size

    def reserve(self, request: Seen, tokens: int, *, delay_cache: bool = False) -> bool:
        """As the plain ledger's; full blocks enter the cache at once, unless nobody could find them."""
        size = self.block_size
        if tokens > request.blocks * size:
            more = -(-tokens // size) - request.blocks
            if more > self.free:
                return False
            self._take(self._held.setdefault(request.id, []), more)
            request.blocks += more
        if not delay_cache:
            full, done = min(tokens, request.num_tokens) // size, self._full.get(request.id, 0)
            if full > done:
                self._enter(request, done, full)
        return True

    def release(self, request: Seen) -> None:
        """Drop the request's references; what nobody holds becomes free, and stays cached until taken."""
        held, full = self._held.pop(request.id, []), self._full.pop(request.id, 0)
        late = self._late.pop(request.id, None)
        filed = held[: late.first if late is not None else full]
        self._blank.extend(reversed(held[full:]))
        self.free += len(held) - len(filed)
        if late is not None:
            late.freed = held[late.first : full]
            self._queue.append((late.freed, late))
        if not self._shared.keys().isdisjoint(filed):
            filed = self._unshared(filed)
        if filed:
            self.free += len(filed)
            self._queue.append((filed, None))
            self._queued.update(filed)
        if self._stale > self.total:
            self._compact()
        request.blocks = 0

    def _unshared(self, blocks: list[int]) -> list[int]:
        """Those of the blocks that nobody else holds; of the rest a holder goes."""
        shared, alone = self._shared, list[int]()
        for block in blocks:
            if block not in shared:
                alone.append(block)
            elif shared[block] == 1:
                del shared[block]
            else:
                shared[block] -= 1
        return alone

    def forget(self, request: Seen) -> None:
        """The request has ended: its hash chain is no longer needed."""
        self._chain.pop(request.id, None)

    def advance(self, requests: Sequence[Seen], steps: int) -> bool:
        """Blocks for the `steps` decode steps that a batch has taken, in the order in which single steps take them.

        Where no two write the same, that order decides nothing.
        """
        size, full = self.block_size, self._full
        due = [
            request
            for request in requests
            if request.computed_tokens > request.blocks * size
            or request.computed_tokens // size > full.get(request.id, 0)
        ]
        if len(due) < 2 or len({request.output_content for request in due}) == len(due):
            return all(self.reserve(request, request.computed_tokens) for request in due)
        events = sorted(
            (step, index, request.computed_tokens - steps + step)
            for index, request in enumerate(due)
            for step in _steps_at_block_ends(request.computed_tokens - steps, steps, size)
        )
        return all(self.reserve(due[index], tokens) for _, index, tokens in events)

    def _take(self, held: list[int], count: int) -> None:
        """Append `count` blocks from the front of the free list, their hashes evicted."""
        blank, queue = self._blank, self._queue
        self.free -= count
        while count and blank:
            held.append(blank.pop())
            count -= 1
        if count and self._fresh <= self.total:
            first, self._fresh = self._fresh, min(self._fresh + count, self.total + 1)
            held += range(first, self._fresh)
            count -= self._fresh - first
        while count:
            blocks, late = queue[0]
            if late is not None and late.names:
                taken = blocks[-count:]
                del blocks[-count:]
                held.extend(reversed(taken))
                count -= len(taken)
            elif self._evicted(block := blocks.pop()):
                held.append(block)
                count -= 1
            if not blocks:
                queue.popleft()
                if late is not None:
                    self._unlist(late)

    def _evicted(self, block: int) -> bool:
        """Take the hash of a block at the front of the queue; False if its place no longer counts."""
        if self._is_stale(block):
            return False
        self._found = None
        self._queued.remove(block)
        value = self._hash.pop(block)
        same = self._cached[value]
        if same == block:
            del self._cached[value]
        else:
            assert isinstance(same, dict)
            del same[block]
            if len(same) == 1:
                self._cached[value] = next(iter(same))
        return True

    def _is_stale(self, block: int) -> bool:
        """Whether this place of a block, its first in the queue, does not count; from then on it is none."""
        if block not in self._gone:
            return False
        self._stale -= 1
        self._gone[block] -= 1
        if not self._gone[block]:
            del self._gone[block]
        return True

    def _compact(self) -> None:
        """Take the places that no longer count out of the queue."""
        for blocks, late in self._queue:
            if late is None or not late.names:
                blocks[:] = [block for block in reversed(blocks) if not self._is_stale(block)][::-1]
        self._queue = deque(entry for entry in self._queue if entry[0])

    def _enter(self, request: Seen, done: int, full: int) -> None:
        """The request's blocks [done, full) are full now: put them into the cache, or note that they come late."""
        late, names = self._late.get(request.id), self._names(request, done, full)
        if late is None or not late.names.issuperset(names):
            if not self._catch_up_all(names, but=late):
                self._delay(late or _Late(request, done), names)
            else:
                if late is not None:
                    self._catch_up(late)
                self._file(request, self._held[request.id][done:full], done)
        self._full[request.id] = full

    def _delay(self, late: _Late, names: Collection[int]) -> None:
        """These contents are the request's own: blocks of them are late."""
        self._late[late.request.id] = late
        late.names.update(names)
        self._writers.update(dict.fromkeys(names, late))
        if self._found is not None and not late.names.isdisjoint(self._found[3]):
            self._found = None  # it may have become longer

    def _names(self, request: Seen, done: int, full: int) -> Collection[int]:
        """The contents that the blocks [done, full) end in: who does not ask for them cannot find the blocks."""
        begin, end = (done + 1) * self.block_size - 1, full * self.block_size
        if begin >= request.prompt_tokens:
            return (request.output_content,)
        names, at = set[int](), 0
        for name, length in request.content:
            if at < end and at + length > begin:
                names.add(name)
            at += length
        return names | {request.output_content} if end > at else names

    def _catch_up_all(self, names: Collection[int], but: _Late | None = None) -> bool:
        """Put late blocks of these contents into the cache; False if there were none."""
        late = {id(late): late for name in names if (late := self._writers.get(name)) is not None and late is not but}
        for one in late.values():
            self._catch_up(one)
        return bool(late)

    def _catch_up(self, late: _Late) -> None:
        """Put late blocks into the cache."""
        request, blocks = late.request, late.freed
        self._unlist(late)
        if blocks is None:
            del self._late[request.id]
            self._file(request, self._held[request.id][late.first : self._full[request.id]], late.first)
        else:
            self._file(request, blocks, late.first)
            self._queued.update(blocks)
            self.forget(request)  # it may have ended

    def _unlist(self, late: _Late) -> None:
        """The blocks are late no more."""
        for name in late.names:
            del self._writers[name]
        late.names = set()

    def _file(self, request: Seen, blocks: Sequence[int], first: int) -> None:
        """Put the request's full blocks from its block `first` on into the cache."""
        self._found = None
        own, cached = self._hash, self._cached
        values = self._chain_to(request, first + len(blocks))[first : first + len(blocks)]
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
        self._catch_up_all(names)
        hits: list[int] = []
        while len(hits) < most:
            upto = min(most, 2 * len(hits) + _AHEAD)
            for found in map(self._cached.get, self._chain_to(request, upto)[len(hits) : upto]):
                if found is None:
                    break
                hits.append(next(iter(found)) if isinstance(found, dict) else found)
            if len(hits) < upto:
                break
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
    start, end = len(chain) * size, 0
    block: list[tuple[int, int, int]] = []
    missing = size
    for content, length in (*request.content, (request.output_content, 1 << 62)):
        begin, end = end, end + length
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
