"""The simulated requests as JSON lines in Mooncake's form, which AIPerf and `vllm bench serve` (timed_trace) replay.

    timestamp      ms from the first request's time on
    input_length, output_length   tokens
    hash_ids       one id per block of `block_tokens` tokens, the last one partial; equal ids are equal tokens after an
                   equal prefix
    session_id, delay   with sessions, as AIPerf reads them: a later turn has its new tokens alone, and the ms after the
                   end of the turn before (AIPerf puts prompts and answers so far in front)

Block ids are exact to whole blocks: prompts that share n tokens share n // block_tokens ids, which is what a prefix
cache of such blocks can use.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from simserve.units import NS_PER_MS

if TYPE_CHECKING:
    from simserve.workload.requests import Content, RequestSet

MOST, MOST_BLOCKS = 200_000, 5_000_000  # requests, and ids of blocks; a file of more would be tens of megabytes
WHOLE = 1 << 20  # tokens of a block where nothing is shared: one id per prompt
_SIZES = (512, 256, 128, 64, 32)
Block = tuple[tuple[int, int, int], ...]  # (content id, offset in it, tokens) of each piece


@dataclass(frozen=True)
class Requests:
    """The file: lines, tokens of a block, whether there are sessions, requests in flight of a closed loop or None."""

    lines: list[str]
    block_tokens: int
    sessions: bool
    concurrency: int | None

    @property
    def text(self) -> str:
        """The file as it is written."""
        return "\n".join(self.lines) + "\n"


def requests_of(workload: RequestSet, block_size: int) -> Requests | None:
    """The requests as lines, None for too many; block_size: of the KV cache, the finest that matters."""
    if len(workload) > MOST:
        return None
    size = WHOLE if workload.content is None else _block_tokens(workload, block_size)
    if int(workload.prompt_tokens.sum()) // size > MOST_BLOCKS:
        return None
    rows = _rows(workload, size) if workload.after is None else _turns(workload, size)
    return Requests(
        [json.dumps(row) for row in rows], size, workload.after is not None, workload.concurrency
    )  # fmt: skip


def _block_tokens(workload: RequestSet, block_size: int) -> int:
    """The largest block that ends wherever a shared piece does; else the engine's own."""
    ends = {end for content in workload.content or () for end in list(accumulate(tokens for _, tokens in content))[:-1]}
    return next((size for size in _SIZES if size % block_size == 0 and not any(end % size for end in ends)), block_size)


def _rows(workload: RequestSet, size: int) -> Iterator[dict[str, Any]]:
    """A row per request, each with its whole prompt."""
    ids = _Blocks(size, workload.content or ())
    for index, (arrival, prompt, output) in enumerate(_columns(workload)):
        content = None if workload.content is None else workload.content[index]
        yield {
            "timestamp": 0.0 if workload.concurrency is not None else round(arrival / NS_PER_MS, 3),
            "input_length": prompt, "output_length": output,
            "hash_ids": [index] if content is None else ids.of(content),
        }  # fmt: skip


def _turns(workload: RequestSet, size: int) -> Iterator[dict[str, Any]]:
    """A row per turn; the first of a session has its time and the blocks of its prompt."""
    assert workload.after is not None
    assert workload.session is not None
    assert workload.content is not None
    ids = _Blocks(size, workload.content)
    delays = [0] * len(workload) if workload.delay_ns is None else workload.delay_ns.tolist()
    sessions, after = workload.session.tolist(), workload.after.tolist()
    for index, (arrival, prompt, output) in enumerate(_columns(workload)):
        row: dict[str, Any] = {"session_id": f"s{sessions[index]}"}
        if after[index] < 0:
            row |= {"timestamp": round(arrival / NS_PER_MS, 3), "input_length": prompt, "output_length": output,
                    "hash_ids": ids.of(workload.content[index])}  # fmt: skip
        else:
            new = workload.content[index][-1][1]
            row |= {"delay": round(delays[index] / NS_PER_MS, 3), "input_length": new, "output_length": output}
        yield row


def _columns(workload: RequestSet) -> Iterator[tuple[int, int, int]]:
    first = int(workload.arrival_ns[0])
    for arrival, prompt, output in zip(
        workload.arrival_ns.tolist(), workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True
    ):
        yield arrival - first, prompt, output


class _Blocks:
    """Ids of blocks by what is in them and before them, for the prompts `contents`."""

    def __init__(self, size: int, contents: Sequence[Content]) -> None:
        self.size = size
        self._known: dict[tuple[int, Block], int] = {}
        self._next = 0
        times = Counter(name for content in contents for name in {name for name, _ in content})
        self._own = {name for name, count in times.items() if count == 1}  # pieces of one prompt alone

    def of(self, content: Content) -> list[int]:
        """The ids of a prompt; the last block may be partial. From a piece of its own on, all blocks are new."""
        ends = list(accumulate(tokens for _, tokens in content))
        first = next((i for i, (name, _) in enumerate(content) if name in self._own), None)
        common = len(content) if first is None else first
        ids, before = [], -1
        for block in self._blocks(content[:common]):
            if first is not None and sum(tokens for *_, tokens in block) < self.size:
                break
            before = self._id((before, block))
            ids.append(before)
        fresh = -(-ends[-1] // self.size) - len(ids)
        ids.extend(range(self._next, self._next + fresh))
        self._next += fresh
        return ids

    def _id(self, chained: tuple[int, Block]) -> int:
        if chained not in self._known:
            self._known[chained] = self._next
            self._next += 1
        return self._known[chained]

    def _blocks(self, content: Content) -> Iterator[Block]:
        """Pieces (content id, offset in it, tokens) of each block in turn."""
        block: list[tuple[int, int, int]] = []
        room = self.size
        for name, tokens in content:
            offset = 0
            while offset < tokens:
                part = min(room, tokens - offset)
                block.append((name, offset, part))
                offset, room = offset + part, room - part
                if not room:
                    yield tuple(block)
                    block, room = [], self.size
        if block:
            yield tuple(block)
