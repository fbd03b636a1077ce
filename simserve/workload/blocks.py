"""Traces that say which blocks a prompt is made of: JSON lines, gzipped or not.

| format | time | prompt, output | block ids | tokens per block |
| --- | --- | --- | --- | --- |
| mooncake | timestamp, ms | input_length, output_length | hash_ids | 512, the last one partial |
| blocks_jsonl | arrival_ns | input_toks, output_toks | hash16 | 16, full blocks only |

Two equal ids are the same tokens after the same prefix. Tokens that no block covers belong to their request alone.
Other keys (blocks_jsonl's running number `req`) are not read. Mooncake: https://github.com/kvcache-ai/Mooncake
(Apache-2.0); blocks_jsonl is what ShareGPT replays tokenised for one model look like. Neither names sessions: a later
turn is a request of its own whose prompt begins with the blocks of the turn before.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import SpecError
from simserve.units import NS_PER_MS
from simserve.workload.arrivals import scaled_ns
from simserve.workload.requests import Content, RequestSet, prompt_content

LATEST_NS = 1 << 62
MOST_TOKENS = 1 << 31


@dataclass(frozen=True)
class BlockFormat:
    """The keys of one format; tick_ns: what one unit of its time is."""

    time: str
    prompt: str
    output: str
    blocks: str
    block_tokens: int
    tick_ns: int


FORMATS = {
    "mooncake": BlockFormat("timestamp", "input_length", "output_length", "hash_ids", 512, NS_PER_MS),
    "blocks_jsonl": BlockFormat("arrival_ns", "input_toks", "output_toks", "hash16", 16, 1),
}


def read_blocks(path: Path, format: str, *, rate_scale: float = 1.0, limit: int | None = None) -> RequestSet:
    """The requests of a trace; times are divided by `rate_scale`."""
    keys = FORMATS[format]
    times: list[int] = []
    prompts: list[int] = []
    outputs: list[int] = []
    content: list[Content] = []
    for row, record in _records(path):
        if len(times) == limit:
            break
        time = _whole(record, keys.time, 0, LATEST_NS // keys.tick_ns, row)
        prompt, output = (_whole(record, key, 1, MOST_TOKENS, row) for key in (keys.prompt, keys.output))
        if times and time < times[-1]:
            raise SpecError("times go backwards; sort the trace", file=row, key=keys.time)
        content.append(_pieces(record, keys, prompt, len(times), row))
        times.append(time)
        prompts.append(prompt)
        outputs.append(output)
    if not times:
        raise SpecError("the file has no rows", file=str(path))
    return RequestSet(
        arrival_ns=scaled_ns(np.array(times, dtype=np.int64) * keys.tick_ns, rate_scale),
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        priority=np.zeros(len(times), dtype=np.int64),
        concurrency=None,
        provenance={"kind": "trace", "format": format, "file": path.name, "rate_scale": rate_scale, "limit": limit},
        content=content,
    )


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, row n", object) per line that is not blank."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = f"{path}, row {number}"
                    yield row, _object(line, row)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read ({' '.join(str(error).split())})", file=str(path)) from None


def _object(line: str, row: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise SpecError("not a line of JSON", file=row) from None
    if not isinstance(record, dict):
        raise SpecError("not a JSON object", file=row)
    return record


def _whole(record: dict[str, Any], key: str, least: int, most: int, row: str) -> int:
    """An integer in [least, most]."""
    if key not in record:
        raise SpecError(f"the key is missing; the row has {', '.join(record) or 'none'}", file=row, key=key)
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise SpecError(f"not a whole number from {least} to {most}", file=row, key=key, value=value)
    return value


def _pieces(record: dict[str, Any], keys: BlockFormat, prompt: int, index: int, row: str) -> Content:
    """The prompt as (block id, tokens), and what is left as the request's own."""
    ids = record.get(keys.blocks)
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        raise SpecError("must be a list of block ids, whole numbers of at least 0", file=row, key=keys.blocks)
    size, count = keys.block_tokens, len(ids)
    if count > -(-prompt // size):
        raise SpecError(f"{count} blocks of {size} tokens are more than a prompt of {prompt} tokens", file=row,
                        key=keys.blocks)  # fmt: skip
    covered = min(prompt, count * size)
    pieces = [(i, size) for i in ids]
    if covered < count * size:
        pieces[-1] = (ids[-1], covered - (count - 1) * size)
    if covered < prompt:
        pieces.append((prompt_content(index), prompt - covered))
    return tuple(pieces)
