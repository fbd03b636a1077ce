"""The step in flight of one instance."""

from __future__ import annotations

from array import array
from itertools import pairwise

import numpy as np

from simserve.sim.lanes import SegmentRun
from simserve.sim.plan import Plan
from simserve.sim.request import Request
from simserve.sim.trace import pack_step


class Step:
    """A step (or leap) in flight: its plan, what its price depends on, and its time."""

    __slots__ = (
        "arrival_breaks", "batch", "context", "count", "cpu_decode", "decode", "duration_ns", "durations", "ends",
        "first_ns", "last_ns", "last_used", "left", "plan", "preempted", "prefill", "regular", "run", "running",
        "sampled", "start_ns", "tokens", "used", "waiting",
    )  # fmt: skip

    arrival_breaks: bool
    batch: list[Request]
    context: int
    count: int
    cpu_decode: int
    decode: int
    duration_ns: int
    durations: np.ndarray[tuple[int], np.dtype[np.int64]]
    ends: np.ndarray[tuple[int], np.dtype[np.int64]]
    first_ns: int
    last_ns: int
    last_used: int
    left: int
    prefill: list[tuple[int, int]]
    regular: int
    running: int
    sampled: int
    tokens: int
    used: int
    waiting: int

    def __init__(self, start_ns: int, plan: Plan) -> None:
        self.start_ns, self.plan = start_ns, plan
        self.run: SegmentRun | None = None
        self.count = 1
        self.cpu_decode = 0
        self.preempted = len(plan.preempted)
        self.arrival_breaks = False

    def steps_that_fit(self, block_size: int, free_blocks: int) -> int:
        """The most steps of this batch before a request finishes or the free blocks could run out."""
        if -(-(self.left - 1) // block_size) * self.decode <= free_blocks:
            return self.left
        held = np.array([r.computed_tokens for r in self.plan.tokens], dtype=np.int64)
        have = np.array([r.blocks for r in self.plan.tokens], dtype=np.int64)
        low, high = 1, self.left
        while low < high:
            middle = (low + high + 1) // 2
            need = -(-(held + middle - 1) // block_size) - have
            fits = int(np.maximum(need, 0).sum()) <= free_blocks
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def log_to(self, log: array[int]) -> None:
        """Append rows of `trace.STEP_COLUMNS`: one, unless the durations of a leap bend."""
        if self.count > 2 and not self._straight():
            self._log_pieces(log)
            return
        log.frombytes(pack_step(
            self.start_ns, self.start_ns + self.duration_ns, self.count, self.first_ns, self.last_ns, self.tokens,
            self.regular, self.running, self.waiting, self.used, self.last_used, self.preempted,
        ))  # fmt: skip

    def _log_pieces(self, log: array[int]) -> None:
        """One row for each stretch on a line."""
        preempted = self.preempted
        for begin, end in self._pieces():
            log.frombytes(pack_step(
                self.start_ns + (int(self.ends[begin - 1]) if begin else 0), self.start_ns + int(self.ends[end - 1]),
                end - begin, int(self.durations[begin]), int(self.durations[end - 1]), self.tokens, self.regular,
                self.running, self.waiting, self._used_at(begin), self._used_at(end - 1), preempted,
            ))  # fmt: skip
            preempted = 0

    def _used_at(self, index: int) -> int:
        """Blocks in use when a step of the row starts: a leap takes them on a line, up to one per request."""
        return self.used + (self.last_used - self.used) * index // max(self.count - 1, 1)

    def _straight(self) -> bool:
        """Whether the durations lie on a line, up to rounding: their sum is that of first and last."""
        return abs(2 * self.duration_ns - self.count * (self.first_ns + self.last_ns)) <= self.count

    def _pieces(self) -> list[tuple[int, int]]:
        """[begin, end) of stretches on a line: cut where the slope changes by more than rounding."""
        bends = np.flatnonzero(np.abs(np.diff(self.durations[: self.count], 2)) > 2) + 1
        cuts = [0, *(int(b) for b in bends), self.count]
        return [(a, b) for a, b in pairwise(cuts) if b > a]

    def unbooked_blocks(self, now_ns: int, block_size: int) -> int:
        """Blocks that the steps of a leap up to now have taken and the ledger learns of at its end."""
        if self.count == 1:
            return 0
        done = min(int(np.searchsorted(self.ends, now_ns - self.start_ns)), self.count - 1)
        return sum(max(-(-(r.computed_tokens + done) // block_size) - r.blocks, 0) for r in self.plan.tokens)
