"""How long segments take: alone, one after another, or beside those of another engine on the same GPU.

A segment keeps lanes busy for some ns each; alone it lasts as long as its busiest lane (perfect overlap inside
a segment, none between the segments of one step). `GpuLanes` runs segments of several engines at once under an
interference rule: active segments -> progress rates in (0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from simserve.sim.clock import Clock, Timer
from simserve.sim.plan import Lane, Segment, WorkKind

Demand = Mapping[Lane, int]
Part = tuple[WorkKind, Demand]
Slowdowns = Mapping[tuple[WorkKind, WorkKind], Fraction]
Interference = Callable[[Sequence[Demand]], list[Fraction]]


def segment_ns(demand: Demand) -> int:
    """Duration of one segment alone: its largest lane demand."""
    return max(demand.values(), default=0)


def demands(segments: Sequence[Segment], step_ns: int) -> list[Demand]:
    """What each segment asks of the lanes.

    Segments without demands of their own share the price of the whole step by their number of layers, on the
    compute lane; the last one takes the rounding.
    """
    layers = [max(s.layers[1] - s.layers[0], 0) for s in segments]
    priced = [i for i, s in enumerate(segments) if not s.demand_ns]
    total, given = sum(layers[i] for i in priced), 0
    found: list[Demand] = [s.demand_ns for s in segments]
    for i in priced:
        share = step_ns - given if i == priced[-1] else step_ns * layers[i] // max(total, 1)
        given += share
        found[i] = {Lane.COMPUTE: share}
    return found


def proportional(active: Sequence[Demand]) -> list[Fraction]:
    """The default rule: an oversubscribed lane slows all its users by the same factor.

    A segment uses a lane for demand / duration of its time; if these shares of the active segments add up to
    more than 1 on a lane, each of them progresses at 1 / sum there, and at the pace of its slowest lane.
    """
    used: dict[Lane, Fraction] = {}
    for demand in active:
        alone = segment_ns(demand)
        for lane, busy in demand.items():
            used[lane] = used.get(lane, Fraction(0)) + Fraction(busy, alone)
    return [
        min((1 / max(Fraction(1), used[lane]) for lane, busy in demand.items() if busy), default=Fraction(1))
        for demand in active
    ]


class GpuLanes:
    """The lanes of one GPU (or of a group that works in step); segments run side by side under a rule."""

    def __init__(self, clock: Clock, rule: Interference = proportional) -> None:
        self._clock, self._rule = clock, rule
        self._jobs: list[_Job] = []
        self._updated_ns = 0

    @property
    def now_ns(self) -> int:
        """The time on the clock."""
        return self._clock.now_ns

    def start(self, kind: WorkKind, demand: Demand, done: Callable[[], None], priority: int) -> None:
        """Run a segment from now; `done` is called when it ends. One that asks for nothing takes 1 ns."""
        self._progress()
        if not any(demand.values()):
            demand = {Lane.COMPUTE: 1}
        self._jobs.append(_Job(kind, demand, done, priority))
        self._reschedule()

    def _rates(self) -> list[Fraction]:
        """How fast each active segment progresses."""
        return self._rule([job.demand for job in self._jobs])

    def _progress(self) -> None:
        """Credit each active segment with its work since the last change."""
        elapsed = self._clock.now_ns - self._updated_ns
        for job in self._jobs:
            job.left -= elapsed * job.rate
        self._updated_ns = self._clock.now_ns

    def _reschedule(self) -> None:
        """New rates, new ends; an end falls on the first whole ns at which the work is done."""
        for job, rate in zip(self._jobs, self._rates(), strict=True):
            job.rate = rate
            if job.timer is not None:
                job.timer.cancel()
            wait = max(0, -(-job.left.numerator * rate.denominator // (job.left.denominator * rate.numerator)))
            job.timer = self._clock.call_at(self._clock.now_ns + wait, job.end(self), job.priority)

    def end(self, job: _Job) -> None:
        """Take out a segment that is done, speed up the others, tell its owner."""
        self._progress()
        self._jobs.remove(job)
        self._reschedule()
        job.done()


class SharedGpu(GpuLanes):
    """A GPU that several processes share: kinds of work slow one another pair by pair.

    slowdowns: (kind, other kind) -> how many times as long work of the first takes beside work of the second, at least
    1; pairs that are not named do not slow each other. Beside several others the factors multiply.
    """

    def __init__(self, clock: Clock, slowdowns: Slowdowns) -> None:
        super().__init__(clock)
        self._slowdowns = slowdowns

    def _rates(self) -> list[Fraction]:
        rates = []
        for job in self._jobs:
            factor = Fraction(1)
            for other in self._jobs:
                if other is not job:
                    factor *= self._slowdowns.get((job.kind, other.kind), Fraction(1))
            rates.append(1 / factor)
        return rates


class _Job:
    """A segment in progress: `left` ns of its time alone are to be done, at `rate`."""

    __slots__ = ("demand", "done", "kind", "left", "priority", "rate", "timer")

    def __init__(self, kind: WorkKind, demand: Demand, done: Callable[[], None], priority: int) -> None:
        self.kind, self.demand, self.done, self.priority = kind, demand, done, priority
        self.left, self.rate = Fraction(segment_ns(demand)), Fraction(1)
        self.timer: Timer | None = None

    def end(self, lanes: GpuLanes) -> Callable[[], None]:
        return lambda: lanes.end(self)


class SegmentRun:
    """The segments of one step on a GPU's lanes, one after another; can stop at a boundary.

    note: called as (demand, start_ns, end_ns) when a segment has ended.
    """

    def __init__(
        self, lanes: GpuLanes, parts: Sequence[Part], priority: int, finished: Callable[[], None],
        stopped: Callable[[], None], note: Callable[[Demand, int, int], None],
    ) -> None:  # fmt: skip
        self._lanes, self._parts, self._priority = lanes, list(parts), priority
        self._finished, self._stopped, self._note = finished, stopped, note
        self._stop, self._began_ns = False, 0

    def start(self) -> None:
        """Begin with the first segment that has not run."""
        self._stop = False
        self._begin()

    def stop(self) -> None:
        """Stop at the end of the segment that runs; a run in its last segment just finishes."""
        self._stop = True

    def _begin(self) -> None:
        self._began_ns = self._lanes.now_ns
        self._lanes.start(*self._parts[0], self._next, self._priority)

    def _next(self) -> None:
        self._note(self._parts.pop(0)[1], self._began_ns, self._lanes.now_ns)
        if not self._parts:
            self._finished()
        elif self._stop:
            self._stopped()
        else:
            self._begin()
