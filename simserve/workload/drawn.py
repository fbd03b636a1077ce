"""Workloads drawn from distributions, with common prefixes and multi-turn sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simserve.sim.rng import stream
from simserve.spec.workload import PrefixSpec, SessionSpec, WorkloadSpec
from simserve.units import NS_PER_S
from simserve.workload.arrivals import arrival_times_ns
from simserve.workload.images import draw_images
from simserve.workload.lengths import lengths
from simserve.workload.requests import Content, RequestSet, generated_content, prompt_content
from simserve.workload.sounds import draw_sounds

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Turns:
    """session: ids from 0, turns of a session follow one another; after, delay_ns: as in `RequestSet`."""

    session: Ints
    after: Ints
    delay_ns: Ints


def draw(spec: WorkloadSpec, *, seed: int, base_dir: Path | None) -> RequestSet:
    """The requests of a workload without a trace; each part draws from a stream of its own."""
    assert spec.arrivals is not None
    assert spec.prompt_tokens is not None
    assert spec.output_tokens is not None
    count = spec.requests or 0
    said = spec.model_dump(mode="json", exclude_none=True, exclude={"kind", "confidence"})
    prompt = lengths(spec.prompt_tokens, count, stream(seed, "lengths:prompt"), base_dir)
    output = lengths(spec.output_tokens, count, stream(seed, "lengths:output"), base_dir)
    turns = None if spec.sessions is None else _turns(spec.sessions, count, seed, base_dir)
    session = np.arange(count) if turns is None else turns.session
    sessions = int(session[-1]) + 1
    arrivals = arrival_times_ns(spec.arrivals, sessions, stream(seed, "arrivals"))[session]
    content = None
    if spec.prefixes is not None or turns is not None:
        after = np.full(count, -1) if turns is None else turns.after
        begin = _prefixes(spec.prefixes, sessions, seed, base_dir)
        content = _content(after.tolist(), prompt.tolist(), output.tolist(), [begin[s] for s in session.tolist()])
        prompt = np.array([sum(tokens for _, tokens in pieces) for pieces in content], dtype=np.int64)
    return RequestSet(
        arrival_ns=arrivals, prompt_tokens=prompt, output_tokens=output,
        priority=np.zeros(count, dtype=np.int64),
        concurrency=spec.arrivals.concurrency if spec.arrivals.kind == "closed_loop" else None,
        provenance={"kind": "drawn", "seed": seed, **said},
        content=content,
        output_content=None if turns is None else generated_content(np.arange(count)),
        session=None if turns is None else turns.session,
        after=None if turns is None else turns.after,
        delay_ns=None if turns is None else turns.delay_ns,
        images=None if spec.images is None else draw_images(spec.images, count, seed, base_dir),
        audio=None if spec.audio is None else draw_sounds(spec.audio, count, seed, base_dir),
    )  # fmt: skip


def _turns(spec: SessionSpec, count: int, seed: int, base_dir: Path | None) -> _Turns:
    """Sessions until there are `count` turns; the last one is cut."""
    turns = lengths(spec.turns, count, stream(seed, "sessions:turns"), base_dir)
    turns = np.minimum(turns[: int(np.searchsorted(np.cumsum(turns), count)) + 1], count)
    session = np.repeat(np.arange(len(turns)), turns)[:count]
    first = np.diff(session, prepend=-1) > 0
    think = stream(seed, "sessions:think").exponential(spec.think_time_s * NS_PER_S, count)
    return _Turns(
        session=session,
        after=np.where(first, -1, np.arange(count) - 1),
        delay_ns=np.where(first, 0, np.rint(think)).astype(np.int64),
    )


def _prefixes(spec: PrefixSpec | None, sessions: int, seed: int, base_dir: Path | None) -> list[Content]:
    """What each session begins with: one of the common prefixes (content ids 0, 1, ...), or nothing."""
    if spec is None:
        return [()] * sessions
    rng = stream(seed, "prefixes")
    tokens = lengths(spec.tokens, spec.count, rng, base_dir).tolist()
    which = rng.integers(0, spec.count, sessions).tolist()
    chosen = (rng.random(sessions) < spec.share).tolist()
    return [((w, tokens[w]),) if c else () for w, c in zip(which, chosen, strict=True)]


def _content(after: list[int], new: list[int], output: list[int], begin: list[Content]) -> list[Content]:
    """Each prompt: the prefix, or the turn before with what it generated, and then the new tokens."""
    content: list[Content] = []
    for index, before in enumerate(after):
        told = begin[index] if before < 0 else (*content[before], (generated_content(before), output[before]))
        content.append((*told, (prompt_content(index), new[index])))
    return content
