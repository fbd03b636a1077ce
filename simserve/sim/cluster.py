"""Source, router and instances on one clock: plays a request set and returns the trace."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simserve.errors import LawBroken
from simserve.perf.cost import CostModel
from simserve.sim.clock import ARRIVAL, Clock
from simserve.sim.instance import Instance, Observer
from simserve.sim.kv import BlockLedger
from simserve.sim.lanes import GpuLanes
from simserve.sim.plan import InstanceView, Router, Scheduler
from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Outcome, Request
from simserve.sim.swap import SwapSpace
from simserve.sim.trace import REQUEST_COLUMNS, Trace, columns, step_columns

Ints = NDArray[np.int64]
Content = tuple[tuple[int, int], ...]
Row = tuple[int, int, int, int, Content | None]


class Load(Protocol):
    """The requests to play: columns of equal length, arrivals not decreasing.

    content: what the prompts are made of (see `Seen`), or None if no two share anything.
    concurrency: None for an open loop; else at most so many requests are in flight, arrivals are ignored
    and the next request is sent at the instant at which one ends.
    """

    @property
    def arrival_ns(self) -> Ints: ...
    @property
    def prompt_tokens(self) -> Ints: ...
    @property
    def output_tokens(self) -> Ints: ...
    @property
    def priority(self) -> Ints: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def content(self) -> Sequence[Content] | None: ...


class Cluster:
    """Instances behind one router.

    Build it, `add` instances, `play` a load. snapshot_interval_ns: the router reads instance views that are
    refreshed at most that often (0: always fresh).
    """

    def __init__(self, router: Router, *, snapshot_interval_ns: int = 0, leap: bool = True) -> None:
        self.clock = Clock()
        self.router = router
        self.instances: list[Instance] = []
        self.request_log = array("q")
        self.in_flight: dict[int, Request] = {}
        self._interval, self._leap = snapshot_interval_ns, leap
        self._views: list[InstanceView] = []
        self._refreshed_ns = -1
        self._next: Callable[[], None] = lambda: None

    def add(
        self, scheduler: Scheduler, cost: CostModel, *, num_gpu_blocks: int, block_size: int,
        enable_prefix_caching: bool = False, max_model_len: int | None = None,
        observer: Observer | None = None, gpu: GpuLanes | None = None, swap: SwapSpace | None = None,
    ) -> Instance:  # fmt: skip
        """One more instance; its index is the order of adding."""
        ledger = (PrefixLedger if enable_prefix_caching else BlockLedger)(num_gpu_blocks, block_size)
        instance = Instance(
            len(self.instances), self.clock, scheduler, ledger, cost,
            on_end=self._end, max_model_len=max_model_len, leap=self._leap, observer=observer,
            gpu=gpu, swap=swap,
        )  # fmt: skip
        self.instances.append(instance)
        self._views.append(instance.view)
        return instance

    def play(self, load: Load, *, until_ns: int | None = None) -> Trace:
        """Run `load` to its end, or up to `until_ns`; what is then in flight is UNFINISHED."""
        total = len(load.arrival_ns)
        source = _OpenLoop(self, load) if load.concurrency is None else _ClosedLoop(self, load)
        source.start()
        self.clock.run(until_ns)
        for request in list(self.in_flight.values()):
            self._end(request, Outcome.UNFINISHED)
        steps = step_columns([i.step_log for i in self.instances])
        requests = columns(self.request_log, REQUEST_COLUMNS)
        order = np.argsort(requests["id"])
        trace = Trace(
            requests={name: column[order] for name, column in requests.items()},
            steps=steps,
            itl_gaps_ns=np.concatenate([np.array(i.itl_gaps, dtype=np.int64) for i in self.instances]),
            total_blocks=[i.ledger.total for i in self.instances],
            end_ns=max(int(steps["end_ns"].max(initial=0)), until_ns or 0),
            truncated=sum(i.truncated for i in self.instances),
        )
        if until_ns is None and len(trace.requests["id"]) != total:
            raise LawBroken("conservation", f"{len(trace.requests['id'])} of {total} requests ended")
        return trace

    def arrive(self, request: Request) -> None:
        """Route a request that arrives now; REJECTED when every instance refuses it."""
        self.in_flight[request.id] = request
        first = self.router.route(request, self._snapshot())
        if self.instances[first].submit(request):
            return
        for index, instance in enumerate(self.instances):
            if index != first and instance.submit(request):
                return
        self._end(request, Outcome.REJECTED)

    def _snapshot(self) -> Sequence[InstanceView]:
        if self._interval and (
            self._refreshed_ns < 0 or self.clock.now_ns - self._refreshed_ns >= self._interval
        ):
            self._refreshed_ns = now = self.clock.now_ns
            self._views = [
                InstanceView(v.index, now, v.num_running, v.num_waiting, v.free_blocks, v.total_blocks)
                for v in (i.view for i in self.instances)
            ]
        return self._views

    def _end(self, request: Request, outcome: Outcome) -> None:
        finished = outcome is Outcome.FINISHED
        self.request_log.extend((
            request.id, request.arrival_ns, request.first_scheduled_ns, request.first_token_ns,
            request.last_token_ns if finished else -1, request.prompt_tokens,
            request.num_tokens - request.prompt_tokens, request.instance, request.preemptions, int(outcome),
            request.cached_tokens,
        ))  # fmt: skip
        del self.in_flight[request.id]
        if outcome is not Outcome.UNFINISHED:
            self._next()

    def on_each_end(self, call: Callable[[], None]) -> None:
        """Call `call` whenever a request finishes or is rejected (closed loops)."""
        self._next = call


def _rows(load: Load) -> Iterator[Row]:
    """(arrival_ns, prompt tokens, output tokens, priority, content) per request."""
    return zip(
        load.arrival_ns.tolist(), load.prompt_tokens.tolist(), load.output_tokens.tolist(),
        load.priority.tolist(), load.content or itertools.repeat(None, len(load.arrival_ns)), strict=True,
    )  # fmt: skip


class _OpenLoop:
    """Sends each request at its own arrival time, whatever the cluster does."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster, self._rows = cluster, _rows(load)
        self._index = 0

    def start(self) -> None:
        self._schedule(next(self._rows, None))

    def _schedule(self, row: Row | None) -> None:
        if row is not None:
            self._cluster.clock.call_at(row[0], lambda: self._send(row), ARRIVAL)

    def _send(self, row: Row) -> None:
        """Send `row` and all that arrive at the same instant."""
        now = row[0]
        following: Row | None = row
        while following is not None and following[0] == now:
            self._cluster.arrive(Request(self._index, *following))
            self._index += 1
            following = next(self._rows, None)
        self._schedule(following)


class _ClosedLoop:
    """Keeps `concurrency` requests in flight; each end sends the next at the same instant."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        self._cluster, self._rows = cluster, enumerate(_rows(load))
        self._free, self._sending = load.concurrency or 1, False

    def start(self) -> None:
        self._cluster.on_each_end(self._one_ended)
        self._cluster.clock.call_at(0, self._fill, ARRIVAL)

    def _one_ended(self) -> None:
        self._free += 1
        self._fill()

    def _fill(self) -> None:
        """Send while there is room; a rejection inside the loop only makes more room."""
        if self._sending:
            return
        self._sending = True
        while self._free:
            row = next(self._rows, None)
            if row is None:
                break
            self._free -= 1
            index, (_, prompt, output, priority, content) = row
            now = self._cluster.clock.now_ns
            self._cluster.arrive(Request(index, now, prompt, output, priority, content))
        self._sending = False
