"""The prefix ledger beside a naive one that follows vLLM's rules to the letter, over random requests."""

from __future__ import annotations

from random import Random

import pytest

from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Seen

BLOCKS, SIZE = 24, 2
Token = tuple[int, int]


class Naive:
    """Blocks by number, the free list as a list, hashes as all tokens up to the end of a block, entered at once."""

    def __init__(self) -> None:
        self.queue = list(range(1, BLOCKS))
        self.hash: dict[int, tuple[Token, ...]] = {}
        self.holders = dict.fromkeys(range(1, BLOCKS), 0)
        self.held: dict[int, list[int]] = {}

    def hits(self, request: Seen) -> list[int]:
        tokens, found = tokens_of(request), []
        for end in range(SIZE, request.num_tokens, SIZE):
            same = [block for block in self.order if self.hash.get(block) == tokens[:end]]
            if not same:
                break
            found.append(same[0])
        return found

    @property
    def order(self) -> list[int]:
        """Hashed blocks in order of entry."""
        return list(self.hash)

    def reserve(self, request: Seen, tokens: int) -> bool:
        held = self.held.setdefault(request.id, [])
        more = -(-tokens // SIZE) - len(held)
        if more > len(self.queue):
            return False
        for _ in range(more):
            block = self.queue.pop(0)
            self.hash.pop(block, None)
            self.holders[block] = 1
            held.append(block)
        for index in range(min(tokens, request.num_tokens) // SIZE):
            self.hash.setdefault(held[index], tokens_of(request)[: (index + 1) * SIZE])
        return True

    def attach(self, request: Seen) -> None:
        self.held[request.id] = self.hits(request)
        for block in self.held[request.id]:
            self.holders[block] += 1
            if block in self.queue:
                self.queue.remove(block)

    def release(self, request: Seen) -> None:
        freed = []
        for block in reversed(self.held.pop(request.id, [])):
            self.holders[block] -= 1
            if not self.holders[block]:
                freed.append(block)
        blank = [block for block in freed if block not in self.hash]
        self.queue = [*reversed(blank), *self.queue, *(block for block in freed if block in self.hash)]


def tokens_of(request: Seen) -> tuple[Token, ...]:
    """(content id, place in it) of every token known so far."""
    pieces = [(name, i) for name, length in request.content for i in range(length)]
    return (*pieces, *((request.output_content, i) for i in range(request.num_tokens - request.prompt_tokens)))


def requests(chance: Random) -> list[Seen]:
    """Prompts with a common beginning; 3 and 4 are what requests generate, and what later prompts contain; from 10 on
    a prompt's own content.
    """
    found = []
    for i in range(10):
        content = [(1, chance.choice([4, 4, 4, 6]))]
        if chance.random() < 0.5:
            content.append((chance.choice([3, 4, 10 + i]), chance.randint(1, 8)))
        tokens = sum(length for _, length in content)
        found.append(Seen(i, i, tokens, content=tuple(content), output_content=chance.choice([3, 4, 5, 6])))
    return found


@pytest.mark.parametrize("seed", range(200))
def test_every_act_leaves_both_with_the_same_blocks(seed: int) -> None:
    """Free blocks, hits and the very blocks that each request holds, whenever someone asks; every other time after
    each act, so that what was found last may have become too little.
    """
    chance, ledger, naive = Random(seed), PrefixLedger(BLOCKS, SIZE), Naive()
    waiting, running = requests(chance), list[Seen]()
    for _ in range(120):
        act = chance.choice(["decode"] * 8 + ["admit"] * 2 + ["preempt", "release"])
        if act == "admit" and waiting:
            request = waiting.pop(chance.randrange(len(waiting)))
            (running if admitted(request, ledger, naive) else waiting).append(request)
        elif act != "admit" and running:
            request = chance.choice(running)
            if act != "decode" or not decoded(request, ledger, naive):
                ledger.release(request)
                naive.release(request)
                running.remove(request)
                if act == "release":
                    ledger.forget(request)
                else:
                    waiting.append(request)
        if seed % 2 and waiting:
            assert ledger.cached_tokens(waiting[0]) == len(naive.hits(waiting[0])) * SIZE
        assert ledger.free == len(naive.queue)
        assert {r.id: ledger._held[r.id] for r in running} == {r.id: naive.held[r.id] for r in running}


def admitted(request: Seen, ledger: PrefixLedger, naive: Naive) -> bool:
    """Give a request its hits and blocks for all its tokens, if they are free."""
    hits = naive.hits(request)
    assert ledger.cached_tokens(request) == len(hits) * SIZE
    needed = -(-request.num_tokens // SIZE) - len(hits) + sum(block in naive.queue for block in hits)
    assert ledger.fits(request, request.num_tokens, 0) == (needed <= len(naive.queue))
    if needed > len(naive.queue):
        return False
    ledger.attach(request)
    naive.attach(request)
    assert ledger.reserve(request, request.num_tokens)
    return naive.reserve(request, request.num_tokens)


def decoded(request: Seen, ledger: PrefixLedger, naive: Naive) -> bool:
    """One more token, if there is a block for it."""
    request.num_tokens += 1
    done = ledger.reserve(request, request.num_tokens)
    assert done == naive.reserve(request, request.num_tokens)
    return done


def test_places_that_no_longer_count_do_not_pile_up() -> None:
    """One prefix, used again and again where blocks are left that nobody ever used."""
    ledger = PrefixLedger(1000, SIZE)
    for i in range(500):
        request = Seen(i, i, 101, content=((1, 100), (10 + i, 1)), output_content=-i - 1)
        assert ledger.attach(request) == (100 if i else 0)
        assert ledger.reserve(request, 101)
        ledger.release(request)
        ledger.forget(request)

    assert sum(len(blocks) for blocks, _ in ledger._queue) <= 2 * ledger.total
    assert ledger.free == ledger.total
    assert ledger.cached_tokens(Seen(1000, 0, 101, content=((1, 100), (7, 1)))) == 100
