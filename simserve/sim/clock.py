"""The simulation clock: SimPy's heap with integer nanoseconds and a written tie order.

At equal times events run in this order, then in the order in which they were scheduled:

| priority | what | why |
| --- | --- | --- |
| ARRIVAL | requests and transfers arrive | an arrival at t is seen by a plan formed at t |
| COMMIT + index | a step of instance `index` ends, its tokens count | ends before plans, in order |
| PLAN | instances form their next plans | a plan formed at t sees all that arrived or ended at t |
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, cast

import simpy

ARRIVAL = 0
COMMIT = 1
PLAN = 1 << 30
_NEVER_NS = 1 << 62


def _nothing() -> None:
    """What a cancelled timer calls."""


class Timer:
    """One scheduled call: an entry of SimPy's heap that needs no list of callbacks. `Clock` alone handles it."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def cancel(self) -> None:
        """The call will not be made. Cancelling after the call is harmless."""
        self.call = _nothing


class Clock:
    """Calls functions at integer nanoseconds, in the order above; the only place that touches SimPy's private state."""

    def __init__(self) -> None:
        self.env = simpy.Environment(initial_time=0)
        self._queue = cast("list[tuple[int, int, int, Any]]", self.env._queue)
        self._ids = self.env._eid
        self.now_ns = 0  # the time of the event being handled
        self.events = 0

    def call_at(self, time_ns: int, call: Callable[[], None], priority: int) -> Timer:
        """Call `call` at `time_ns` (not before now); see the tie order above. `events` counts these entries."""
        self.events += 1
        timer = Timer(call)
        heappush(self._queue, (time_ns, priority, next(self._ids), timer))
        return timer

    def later(self) -> bool:
        """Whether nothing else is to happen at this instant."""
        return not self._queue or self._queue[0][0] > self.now_ns

    def run(self, until_ns: int | None = None) -> None:
        """Handle all events, or those before `until_ns`; SimPy's own loop, but a timer is called without detours."""
        env, queue, end = self.env, self._queue, _NEVER_NS if until_ns is None else until_ns
        while queue and (first := queue[0])[0] < end:
            self.now_ns = first[0]
            if type(first[3]) is Timer:
                heappop(queue)
                env._now = first[0]
                first[3].call()
            else:
                env.step()
        if until_ns is not None:
            self.now_ns = env._now = max(until_ns, self.now_ns)
