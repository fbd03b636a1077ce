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

import simpy
from simpy.events import EventPriority

ARRIVAL = 0
COMMIT = 1
PLAN = 1 << 30


class Timer(simpy.Event):
    """One scheduled call; the only place that touches SimPy's private event state."""

    def __init__(
        self, env: simpy.Environment, call: Callable[[], None], delay_ns: int, priority: int
    ) -> None:
        self.env = env
        self._ok = True
        self._value = None
        self.callbacks = [lambda _: call()]
        env.schedule(self, EventPriority(priority), delay_ns)

    def cancel(self) -> None:
        """The call will not be made. Cancelling after the call is harmless."""
        if self.callbacks is not None:
            self.callbacks = []


class Clock:
    """Calls functions at integer nanoseconds."""

    def __init__(self) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.events = 0

    @property
    def now_ns(self) -> int:
        """The time of the event being handled."""
        return int(self.env.now)

    def call_at(self, time_ns: int, call: Callable[[], None], priority: int) -> Timer:
        """Call `call` at `time_ns` (not before now); see the tie order above. `events` counts these entries."""
        self.events += 1
        return Timer(self.env, call, time_ns - int(self.env.now), priority)

    def later(self) -> bool:
        """Whether nothing else is to happen at this instant."""
        return self.env.peek() > self.env.now

    def run(self, until_ns: int | None = None) -> None:
        """Handle all events, or those before `until_ns`."""
        self.env.run(until=until_ns)
