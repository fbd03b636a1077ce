"""A channel over which bytes move: PCIe in one direction, NVLink, a network port.

A transfer waits `latency_ns`, costs `launch_ns` per piece, then moves its bytes; concurrent transfers share
the bandwidth equally, and each goes on faster when another ends.
"""

from __future__ import annotations

from collections.abc import Callable

from simserve.errors import SimserveError
from simserve.sim.clock import ARRIVAL, Clock
from simserve.sim.lanes import GpuLanes
from simserve.sim.plan import Lane
from simserve.sim.trace import Note
from simserve.units import NS_PER_S


class Link:
    """One direction of a channel; bandwidth in bytes/s of payload, shared by its transfers.

    moved_bytes: payload that has arrived so far. note: called as (start_ns, end_ns, request, size_bytes) when a
    transfer has arrived.
    """

    def __init__(
        self, clock: Clock, *, bandwidth_bytes_per_s: int, latency_ns: int = 0, launch_ns: int = 0,
        note: Note | None = None,
    ) -> None:  # fmt: skip
        if bandwidth_bytes_per_s < 1:
            raise SimserveError(f"a link needs bandwidth, not {bandwidth_bytes_per_s} bytes/s")
        self._clock, self._lane = clock, GpuLanes(clock)
        self.bandwidth_bytes_per_s, self.latency_ns, self.launch_ns = bandwidth_bytes_per_s, latency_ns, launch_ns
        self.moved_bytes = 0
        self._note = note

    def alone_ns(self, size_bytes: int, pieces: int = 1) -> int:
        """Duration of a transfer that has the link to itself."""
        return self.latency_ns + self._busy_ns(size_bytes, pieces)

    def transfer(self, size_bytes: int, done: Callable[[], None], *, pieces: int = 1, request: int = -1) -> None:
        """Move `size_bytes` in `pieces` pieces from now on; `done` is called when the last one has arrived."""
        start_ns = self._clock.now_ns

        def arrive() -> None:
            self.moved_bytes += size_bytes
            if self._note is not None:
                self._note(start_ns, self._clock.now_ns, request, size_bytes)
            done()

        def begin() -> None:
            self._lane.start({Lane.NETWORK: self._busy_ns(size_bytes, pieces)}, arrive, ARRIVAL)

        self._clock.call_at(self._clock.now_ns + self.latency_ns, begin, ARRIVAL)

    def _busy_ns(self, size_bytes: int, pieces: int) -> int:
        """Time that the bytes and the launches keep the whole link busy, rounded up."""
        return pieces * self.launch_ns - (-size_bytes * NS_PER_S // self.bandwidth_bytes_per_s)
