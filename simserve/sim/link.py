"""A channel over which bytes move: PCIe in one direction, NVLink, a network port.

A transfer waits `latency_ns`, costs `launch_ns` per piece, then moves its bytes; concurrent transfers share
the bandwidth equally, and each goes on faster when another ends. An end falls on the first whole ns at which the
work is done. `_work` is what each transfer that was here all the time has got so far, so that only the next end needs
a timer, however many there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from fractions import Fraction
from math import ceil

from simserve.errors import SimserveError
from simserve.sim.clock import ARRIVAL, Clock, Timer
from simserve.sim.trace import Note
from simserve.units import NS_PER_S


class Link:
    """One direction of a channel; bandwidth in bytes/s of payload, shared by its transfers.

    moved_bytes: payload that has arrived so far; transfers: under way. note: called as (start_ns, end_ns, request,
    size_bytes) when a transfer has arrived.
    """

    def __init__(
        self, clock: Clock, *, bandwidth_bytes_per_s: int, latency_ns: int = 0, launch_ns: int = 0,
        note: Note | None = None,
    ) -> None:  # fmt: skip
        if bandwidth_bytes_per_s < 1:
            raise SimserveError(f"a link needs bandwidth, not {bandwidth_bytes_per_s} bytes/s")
        self._clock = clock
        self._work, self._since_ns = Fraction(0), 0
        self._under_way: list[tuple[Fraction, int, Callable[[], None]]] = []
        self._turn = 0
        self._timer: Timer | None = None
        self.bandwidth_bytes_per_s, self.latency_ns, self.launch_ns = bandwidth_bytes_per_s, latency_ns, launch_ns
        self.moved_bytes = self.transfers = 0
        self._note = note

    def alone_ns(self, size_bytes: int, pieces: int = 1) -> int:
        """Duration of a transfer that has the link to itself."""
        return self.latency_ns + self._busy_ns(size_bytes, pieces)

    def transfer(self, size_bytes: int, done: Callable[[], None], *, pieces: int = 1, request: int = -1) -> None:
        """Move `size_bytes` in `pieces` pieces from now on; `done` is called when the last one has arrived."""
        start_ns = self._clock.now_ns
        self.transfers += 1

        def arrive() -> None:
            self.moved_bytes += size_bytes
            self.transfers -= 1
            if self._note is not None:
                self._note(start_ns, self._clock.now_ns, request, size_bytes)
            done()

        def begin() -> None:
            self._progress()
            heapq.heappush(self._under_way, (self._work + self._busy_ns(size_bytes, pieces), self._turn, arrive))
            self._turn += 1
            self._schedule()

        self._clock.call_at(self._clock.now_ns + self.latency_ns, begin, ARRIVAL)

    def _progress(self) -> None:
        """Give each transfer under way its share of the time since the last change."""
        now = self._clock.now_ns
        if self._under_way:
            self._work += Fraction(now - self._since_ns, len(self._under_way))
        else:
            self._work = Fraction(0)
        self._since_ns = now

    def _schedule(self) -> None:
        """Wake at the next end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._under_way:
            left = (self._under_way[0][0] - self._work) * len(self._under_way)
            self._timer = self._clock.call_at(self._clock.now_ns + max(0, ceil(left)), self._end, ARRIVAL)

    def _end(self) -> None:
        """Take out the transfer that is done, speed up the others, tell its owner."""
        self._timer = None
        self._progress()
        _, _, arrive = heapq.heappop(self._under_way)
        self._schedule()
        arrive()

    def _busy_ns(self, size_bytes: int, pieces: int) -> int:
        """Time that the bytes and the launches keep the whole link busy, rounded up."""
        return pieces * self.launch_ns - (-size_bytes * NS_PER_S // self.bandwidth_bytes_per_s)
