"""A run reduced to what a page draws: distributions of latencies, queue and KV cache over time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simserve.explore.executors import InProcess
from simserve.explore.objective import Outcome, latencies_ms
from simserve.explore.result import SearchResult, best_of_layouts
from simserve.metrics import token_gaps_ms
from simserve.sim.request import Outcome as Ending
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.engines import Engine
    from simserve.explore.executors import Executor
    from simserve.explore.runner import Inputs
    from simserve.run import RunResult
    from simserve.sim.trace import Trace

SHOWN = 4  # configurations whose runs a page draws: more lines cannot be told apart
_BINS = 240
_TAIL = 4  # decades of 1 - share that a distribution shows

Ints = NDArray[np.int64]
Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class PoolSeries:
    """One pool over time, per interval of equal length that begins at time_s.

    waiting, running: most requests that waited for their first step (or for their KV, in a decode pool), and that were
    in progress, preempted ones included; kv_mean, kv_peak: share of the KV blocks in use, the mean over the instances
    when the interval begins and the most that any had in it.
    """

    name: str
    instances: int
    time_s: list[float]
    waiting: list[int]
    running: list[int]
    kv_mean: list[float]
    kv_peak: list[float]


@dataclass(frozen=True)
class Series:
    """One configuration of a result.

    half_width: of the 90 % interval of its step times, relative; cdf: name of a latency -> (ms, share of all that do
    not exceed it); tables: what its prices rest on, as in `simserve.run.RunResult.cost_provenance`.
    """

    outcome: Outcome
    half_width: float
    cdf: dict[str, Curve]
    pools: tuple[PoolSeries, ...]
    tables: dict[str, Any]


def top_series(inputs: Inputs, result: SearchResult, executor: Executor | None = None) -> list[Series]:
    """The best run of each of the best layouts, played once more; the first one with its prediction interval.

    executor: who plays them (`runner.executor_for`), None for this process.
    """
    shown = [outcome for _, outcome in best_of_layouts(result.runs)[:SHOWN]]
    tasks = [(outcome, place == 0 and outcome.interval is None) for place, outcome in enumerate(shown)]
    found = dict((executor or InProcess(_drawn, inputs)).run(tasks, _drawn))
    return [found[place] for place in range(len(shown)) if isinstance(found[place], Series)]


def _drawn(inputs: Inputs, task: tuple[Outcome, bool]) -> Series:
    """A run played once more, with its interval if asked for."""
    from simserve.explore.runner import replay, with_interval

    outcome, asked = task
    run = replay(inputs, outcome)
    if asked:
        outcome = replace(outcome, interval=with_interval(inputs, run, outcome.deployment))
    return series(run, outcome)


def series(run: RunResult, outcome: Outcome) -> Series:
    """What a page draws of `run`, which is the run of `outcome`."""
    from simserve.run import half_width

    late = latencies_ms(run.trace)
    curves = {name: _distribution(late[name]) for name in ("ttft", "tpot")}
    curves["itl"] = _weighted(*token_gaps_ms(run.trace))
    curves["e2e"] = _distribution(late["e2e"])
    pools = tuple(_pool(engine, run.trace) for engine in run.engines)
    return Series(
        outcome, half_width(run), {name: c for name, c in curves.items() if c[0]}, pools, run.cost_provenance
    )


def _distribution(values: NDArray[np.float64]) -> Curve:
    """The share of all values that do not exceed x, where x is finite."""
    return _weighted(values, np.ones(len(values), dtype=np.int64))


def _weighted(values: NDArray[np.float64], weights: Ints) -> Curve:
    """The same for values that each stand for several; evenly spread shares, and more towards 1."""
    kept = weights > 0
    order = np.argsort(values[kept], kind="stable")
    ordered, reached = values[kept][order], np.cumsum(weights[kept][order])
    if not len(ordered):
        return [], []
    shares = np.unique(np.concatenate([np.linspace(0, 1, 101), 1 - np.logspace(-2, -_TAIL, 31)]))
    places = np.unique(np.searchsorted(reached, shares * reached[-1]).clip(max=len(ordered) - 1))
    places = places[np.isfinite(ordered[places])]
    return _short(ordered[places]), _short(reached[places] / reached[-1], 5)


def _pool(engine: Engine, trace: Trace) -> PoolSeries:
    edges = np.linspace(0, max(trace.end_ns, 1), _BINS + 1).astype(np.int64)
    waits, runs = (list(spans) for spans in (_waiting(engine, trace), _running(engine, trace)))
    mean, peak = _kv(engine, trace, edges)
    return PoolSeries(
        engine.name, len(engine.instances), _short(edges[:-1] / NS_PER_S), _most(waits, edges), _most(runs, edges),
        _short(mean), _short(peak),
    )  # fmt: skip


def _waiting(engine: Engine, trace: Trace) -> Iterator[tuple[Ints, Ints]]:
    """(begin, end) of waiting for the first step here, and for KV that is handed over to here."""
    r = trace.requests
    here, handed_here, handed_over = _where(engine, trace)
    yield _spans(r["arrival_ns"], r["first_scheduled_ns"], here | handed_over, trace)
    yield _spans(r["first_token_ns"], r["kv_arrived_ns"], handed_here, trace)


def _running(engine: Engine, trace: Trace) -> Iterator[tuple[Ints, Ints]]:
    """(begin, end) of being in progress here."""
    r = trace.requests
    here, handed_here, handed_over = _where(engine, trace)
    yield _spans(r["first_scheduled_ns"], r["finish_ns"], here, trace)
    yield _spans(r["kv_arrived_ns"], r["finish_ns"], handed_here, trace)
    yield _spans(r["first_scheduled_ns"], r["first_token_ns"], handed_over, trace)


def _where(engine: Engine, trace: Trace) -> tuple[Any, Any, Any]:
    """Which requests were served here from the start, came from another pool, went to another pool."""
    r, own = trace.requests, engine.instances
    served = (r["outcome"] != Ending.REJECTED) & (r["arrival_ns"] >= 0)
    here = served & (r["instance"] >= own.start) & (r["instance"] < own.stop)
    handed = r["prefill_instance"] >= 0
    over = served & (r["prefill_instance"] >= own.start) & (r["prefill_instance"] < own.stop)
    return here & ~handed, here & handed, over


def _spans(begin: Ints, end: Ints, which: Any, trace: Trace) -> tuple[Ints, Ints]:
    """The times of `which`; what never began is left out, what never ended goes to the end of the trace."""
    which = which & (begin >= 0)
    return begin[which], np.where(end[which] >= 0, end[which], trace.end_ns)


def _most(spans: list[tuple[Ints, Ints]], edges: Ints) -> list[int]:
    """The largest number of spans at one time, for every interval between two edges; spans of no length are none."""
    begin, end = (np.concatenate([pair[i] for pair in spans]) for i in (0, 1))
    lasting = end > begin
    begin, end = np.sort(begin[lasting]), np.sort(end[lasting])
    changes = np.unique(np.concatenate([edges[:-1], begin]))
    level = np.searchsorted(begin, changes, side="right") - np.searchsorted(end, changes, side="right")
    first = np.searchsorted(changes, edges[:-1])
    return [int(value) for value in np.maximum.reduceat(level, first)]


def _kv(engine: Engine, trace: Trace, edges: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean over the instances when each interval begins, most of any instance in it), shares of the blocks."""
    total, peak = np.zeros(_BINS), np.zeros(_BINS)
    for index in engine.instances:
        own = trace.steps["instance"] == index
        names = ("start_ns", "end_ns", "used_blocks", "last_used_blocks")
        begin, end, used, last = (trace.steps[name][own] for name in names)
        if not len(begin):
            continue
        blocks = trace.total_blocks[index]
        place = np.maximum(np.searchsorted(begin, edges[:-1], side="right") - 1, 0)
        inside = (begin[place] <= edges[:-1]) & (end[place] > edges[:-1])
        part = (edges[:-1] - begin[place]) / np.maximum(end[place] - begin[place], 1)
        now = np.where(inside, used[place] + (last[place] - used[place]) * part, 0) / blocks
        total += now
        np.maximum(peak, now, out=peak)
        np.maximum.at(peak, np.searchsorted(edges, begin, side="right").clip(1, _BINS) - 1, used / blocks)
        np.maximum.at(peak, np.searchsorted(edges, end, side="left").clip(1, _BINS) - 1, last / blocks)
    return total / max(len(engine.instances), 1), peak


def _short(values: NDArray[np.float64], digits: int = 4) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.tolist()]
