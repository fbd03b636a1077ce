"""The step in flight of one instance."""

from __future__ import annotations

import numpy as np

from simserve.sim.lanes import SegmentRun
from simserve.sim.plan import Plan


class Step:
    """A step (or leap) in flight: its plan, what its price depends on, and its time."""

    __slots__ = (
        "arrival_breaks", "context", "count", "decode", "duration_ns", "durations", "ends", "first_ns",
        "last_ns", "left", "plan", "preempted", "prefill", "regular", "run", "running", "sampled", "start_ns", "tokens",
        "used", "waiting",
    )  # fmt: skip

    arrival_breaks: bool
    context: int
    count: int
    decode: int
    duration_ns: int
    durations: np.ndarray[tuple[int], np.dtype[np.int64]]
    ends: np.ndarray[tuple[int], np.dtype[np.int64]]
    first_ns: int
    last_ns: int
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
        self.preempted = len(plan.preempted)
        self.arrival_breaks = False

    def row(self) -> tuple[int, ...]:
        """The step as a row of `trace.STEP_COLUMNS`."""
        return (
            self.start_ns, self.start_ns + self.duration_ns, self.count, self.first_ns, self.last_ns, self.tokens,
            self.regular, self.running, self.waiting, self.used, self.preempted,
        )  # fmt: skip
