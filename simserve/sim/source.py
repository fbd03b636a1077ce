"""Where requests come from: an open loop, a closed loop, or sessions whose turns wait for one another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simserve.sim.clock import ARRIVAL, Clock
from simserve.sim.images import Image
from simserve.sim.request import Request

Ints = NDArray[np.int64]
Content = tuple[tuple[int, int], ...]
Row = tuple[int, int, int, int, Content | None, int | None, int, tuple[Image, ...]]
Arrive = Callable[[Request], None]


class Load(Protocol):
    """The requests to play: columns of equal length, arrivals not decreasing.

    content: what the prompts are made of (see `Seen`), or None if no two share anything; output_content: the
    content ids of what is generated, None if no prompt contains it; session: ids, -1 for none; shown: images of each
    prompt, whose tokens count among it, None for text.
    concurrency: None for an open loop; else at most so many requests are in flight, arrivals are ignored
    and the next request is sent at the instant at which one ends.
    after: index of the earlier request that must have ended first, -1 for none; such a request is sent delay_ns
    after that end, whether it finished or was rejected, and its own arrival is ignored. None: none waits.
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
    @property
    def output_content(self) -> Ints | None: ...
    @property
    def session(self) -> Ints | None: ...
    @property
    def shown(self) -> Sequence[tuple[Image, ...]] | None: ...
    @property
    def after(self) -> Ints | None: ...
    @property
    def delay_ns(self) -> Ints | None: ...


class Source(Protocol):
    """Sends the requests of a load."""

    def start(self) -> None:
        """Schedule what comes first."""
        ...

    def ended(self, index: int) -> None:
        """Request `index` has finished or was rejected."""
        ...


def source(load: Load, clock: Clock, arrive: Arrive) -> Source:
    """The source of `load`; `arrive` is called with each request at its time."""
    if load.after is not None:
        return _Sessions(load, clock, arrive)
    return _OpenLoop(load, clock, arrive) if load.concurrency is None else _ClosedLoop(load, clock, arrive)


def _rows(load: Load) -> Iterator[Row]:
    """What a `Request` is made from, without its id."""
    count = len(load.arrival_ns)
    return zip(
        load.arrival_ns.tolist(), load.prompt_tokens.tolist(), load.output_tokens.tolist(),
        load.priority.tolist(), load.content or itertools.repeat(None, count),
        itertools.repeat(None, count) if load.output_content is None else load.output_content.tolist(),
        itertools.repeat(-1, count) if load.session is None else load.session.tolist(),
        load.shown or itertools.repeat((), count), strict=True,
    )  # fmt: skip


class _OpenLoop:
    """Sends each request at its own arrival time, whatever the cluster does."""

    def __init__(self, load: Load, clock: Clock, arrive: Arrive) -> None:
        self._clock, self._arrive, self._rows = clock, arrive, _rows(load)
        self._index = 0

    def start(self) -> None:
        self._schedule(next(self._rows, None))

    def ended(self, index: int) -> None:
        """Nothing waits for an end."""

    def _schedule(self, row: Row | None) -> None:
        if row is not None:
            self._clock.call_at(row[0], lambda: self._send(row), ARRIVAL)

    def _send(self, row: Row) -> None:
        """Send `row` and all that arrive at the same instant."""
        now = row[0]
        following: Row | None = row
        while following is not None and following[0] == now:
            self._arrive(Request(self._index, *following))
            self._index += 1
            following = next(self._rows, None)
        self._schedule(following)


class _ClosedLoop:
    """Keeps `concurrency` requests in flight; each end sends the next at the same instant."""

    def __init__(self, load: Load, clock: Clock, arrive: Arrive) -> None:
        self._clock, self._arrive, self._rows = clock, arrive, enumerate(_rows(load))
        self._free, self._sending = load.concurrency or 1, False

    def start(self) -> None:
        self._clock.call_at(0, self._fill, ARRIVAL)

    def ended(self, index: int) -> None:
        """There is room for one more."""
        self._free += 1
        self._fill()

    def _fill(self) -> None:
        """Send while there is room; a rejection inside the loop only makes more room."""
        if self._sending:
            return
        self._sending = True
        while self._free:
            following = next(self._rows, None)
            if following is None:
                break
            self._free -= 1
            index, row = following
            self._arrive(Request(index, self._clock.now_ns, *row[1:]))
        self._sending = False


class _Sessions:
    """An open loop of first turns; each later turn follows the end of the turn before."""

    def __init__(self, load: Load, clock: Clock, arrive: Arrive) -> None:
        self._clock, self._arrive, self._rows = clock, arrive, list(_rows(load))
        assert load.after is not None
        after = load.after.tolist()
        self._delay_ns = [0] * len(after) if load.delay_ns is None else load.delay_ns.tolist()
        self._first = (index for index, before in enumerate(after) if before < 0)
        self._later: dict[int, list[int]] = {}
        for index, before in enumerate(after):
            if before >= 0:
                self._later.setdefault(before, []).append(index)

    def start(self) -> None:
        self._next_session()

    def ended(self, index: int) -> None:
        """Send what waited for this request, each after its delay."""
        for later in self._later.pop(index, ()):
            self._clock.call_at(self._clock.now_ns + self._delay_ns[later], partial(self._send, later), ARRIVAL)

    def _next_session(self) -> None:
        index = next(self._first, None)
        if index is not None:
            self._clock.call_at(self._rows[index][0], lambda: self._begin(index), ARRIVAL)

    def _begin(self, index: int) -> None:
        """Send a first turn and schedule the next one."""
        self._send(index)
        self._next_session()

    def _send(self, index: int) -> None:
        self._arrive(Request(index, self._clock.now_ns, *self._rows[index][1:]))
