"""A process that encodes images, one job after another, on a GPU of its own or beside other processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simserve.sim.clock import COMMIT, Clock
from simserve.sim.images import Image
from simserve.sim.lanes import GpuLanes
from simserve.sim.plan import InstanceView, Lane, WorkKind
from simserve.sim.trace import Note

EncodeNs = Callable[[Sequence[Image]], int]


@dataclass(frozen=True)
class _Queued:
    request: int
    images: Sequence[Image]
    done: Callable[[], None]


class Encoder:
    """First come, first served; a job is the images of one request that came here, encoded in one pass.

    encode_ns: of a pass; gpu: what other processes share with it, None for a GPU of its own; note: called as
    (start_ns, end_ns, request, 0) for each pass; busy_ns: of all. `view` is what routers see; its index is among
    encoders.
    """

    def __init__(
        self, index: int, clock: Clock, encode_ns: EncodeNs, *, gpu: GpuLanes | None = None, note: Note | None = None
    ) -> None:
        self.view = InstanceView(index)
        self._clock, self._encode_ns, self._gpu, self._note = clock, encode_ns, gpu, note
        self._queue: deque[_Queued] = deque()
        self._began_ns = self.busy_ns = 0

    def submit(self, request: int, images: Sequence[Image], done: Callable[[], None]) -> None:
        """Queue images; `done` is called when they are encoded."""
        self._queue.append(_Queued(request, images, done))
        self.view.num_waiting = len(self._queue) - 1
        if len(self._queue) == 1:
            self._begin()

    def _begin(self) -> None:
        job, self._began_ns = self._queue[0], self._clock.now_ns
        self.view.num_running, self.view.num_waiting = 1, len(self._queue) - 1
        duration = max(1, self._encode_ns(job.images))
        if self._gpu is not None:
            self._gpu.start(WorkKind.ENCODE, {Lane.COMPUTE: duration}, self._end, COMMIT)
        else:
            self._clock.call_at(self._began_ns + duration, self._end, COMMIT)

    def _end(self) -> None:
        job = self._queue.popleft()
        self.busy_ns += self._clock.now_ns - self._began_ns
        if self._note is not None:
            self._note(self._began_ns, self._clock.now_ns, job.request, 0)
        self.view.num_running = 0
        if self._queue:
            self._begin()
        job.done()
