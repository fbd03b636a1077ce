"""The time of one operation: warmed up, on data that no cache holds, as the median of repeats.

`call(i)` starts the operation on its i-th set of buffers; the sets rotate, and together they are larger than twice the
last cache, so that operands come from memory as in serving; on a GPU the cache is overwritten before each sample, for a
replayed graph starts with the same set again. A sample is as many calls in a row as last long enough for
the clock. Outliers are samples farther from the median than three scaled median absolute deviations and 2 %.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

Call = Callable[[int], None]
LEAST_SAMPLE_NS = 300_000.0
MOST_NS = 3e9  # of all samples of one point
_WARM_CALLS, _WARM_TOLERANCE = 12, 0.05
_MAD_TO_SIGMA, _FAR = 1.4826, 0.02
_MOST_SETS = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """ns: median of one call; repeats: samples taken; outliers: how many of them lay far off."""

    ns: int
    repeats: int
    outliers: int


class Clock(Protocol):
    """Measures calls in a row."""

    def elapsed_ns(self, call: Call, times: int) -> float:
        """Mean time of one of `times` calls, when all of them are done."""
        ...


class HostClock:
    """Calls that return when they are done."""

    def __init__(self) -> None:
        self._next = 0

    def elapsed_ns(self, call: Call, times: int) -> float:
        """See Clock."""
        first = self._next
        self._next += times
        start = time.perf_counter_ns()
        for i in range(first, first + times):
            call(i)
        return (time.perf_counter_ns() - start) / times


class CudaClock:
    """Kernels on the current CUDA device, between two events; replayed as a CUDA graph where they can be captured.

    A graph leaves out the host's launches, as a serving engine's captured steps do. `torch` is the imported module.
    """

    def __init__(self, torch: Any, cache_bytes: int = 0) -> None:
        self.torch, self.captured = torch, True
        self._graphs: dict[tuple[int, int], tuple[Callable[[], None], Call]] = {}
        self._cache = torch.empty(2 * cache_bytes, dtype=torch.uint8, device="cuda") if cache_bytes else None

    def elapsed_ns(self, call: Call, times: int) -> float:
        """See Clock; the graph is captured once per call and number of times."""
        cuda = self.torch.cuda
        run = self._captured(call, times)
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        if self._cache is not None:
            self._cache.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e6 / times

    def _captured(self, call: Call, times: int) -> Callable[[], None]:
        def plain() -> None:
            for i in range(times):
                call(i)

        key = (id(call), times)
        if key not in self._graphs:
            call(0)  # libraries allocate their workspace outside the graph
            self.torch.cuda.synchronize()
            self._graphs = {key: (self._graph(plain), call)}  # the call is kept, so that its id stays its own
        return self._graphs[key][0]

    def _graph(self, plain: Callable[[], None]) -> Callable[[], None]:
        """The calls as one graph, or as they are where they cannot be captured; `captured` tells of the last one."""
        graph = self.torch.cuda.CUDAGraph()
        self.captured = True
        try:
            with self.torch.cuda.graph(graph):
                plain()
        except self.torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation that synchronises
            self.captured = False
            return plain
        replay: Callable[[], None] = graph.replay
        return replay


def measure(call: Call, clock: Clock, repeats: int = 15) -> Sample:
    """The time of one call; fewer samples, at least three, where they would take longer than MOST_NS together."""
    once = _warm(call, clock)
    times = max(1, round(LEAST_SAMPLE_NS / max(once, 1.0)))
    count = max(3, min(repeats, int(MOST_NS / (times * max(once, 1.0)))))
    samples = [clock.elapsed_ns(call, times) for _ in range(count)]
    middle = median(samples)
    far = max(3 * _MAD_TO_SIGMA * median(abs(s - middle) for s in samples), _FAR * middle)
    return Sample(round(middle), count, sum(abs(s - middle) > far for s in samples))


def _warm(call: Call, clock: Clock) -> float:
    """Calls until two in a row agree; the last one's time."""
    before = clock.elapsed_ns(call, 1)
    for _ in range(_WARM_CALLS):
        now = clock.elapsed_ns(call, 1)
        if abs(now - before) <= _WARM_TOLERANCE * before:
            return now
        before = now
    return before


def buffer_sets(set_bytes: int, cache_bytes: int) -> int:
    """How many sets of buffers of `set_bytes` each it takes to exceed twice the cache, with none left in it."""
    return min(_MOST_SETS, 2 + 2 * cache_bytes // max(set_bytes, 1))
