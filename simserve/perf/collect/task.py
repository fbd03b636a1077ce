"""One table to be measured: its curves, how a point is run, and the loop over both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simserve.errors import MissingData
from simserve.perf.collect.grid import Curve, Point, next_point
from simserve.perf.collect.journal import Journal
from simserve.perf.collect.timer import Call, Clock, measure

Report = Callable[[int, int, str], None]  # points done, points at most, what is being measured


@dataclass(frozen=True)
class Options:
    """What the user asked for; empty: the collector's own choice."""

    dtype: str = ""
    threads: tuple[int, ...] = ()
    heads: tuple[tuple[int, int, int], ...] = ()  # query heads, KV heads, head_dim
    ranks: int = 0


@dataclass
class Task:
    """A table of `family`: `prepare(point)` allocates and returns the call; `skip(point)` says that it cannot run.

    constants: keys that are the same in every row; kernel: what ran; settings: for the journal; close: when done.
    """

    family: str
    device: str
    curves: list[Curve]
    prepare: Callable[[dict[str, Any]], Call]
    clock: Clock
    kernel: str
    skip: Callable[[dict[str, Any]], bool] = lambda point: False
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def run(task: Task, journal: Journal, points: int, tolerance: float, report: Report) -> float:
    """Measure until `points` of the task's own are there or every gap is within `tolerance`; the largest error left."""
    curves = [fitting(curve, task.skip) for curve in task.curves]
    curves = [curve for curve in curves if curve.candidates]
    if not curves:
        raise MissingData(f"no point of {task.family} fits into the memory of this machine")
    own = {curve.at(value) for curve in curves for value in curve.candidates}
    worst = 1.0
    while True:
        ns = {point: sample.ns for point, sample in journal.samples.items() if point in own}
        point, worst = next_point(curves, ns, tolerance)
        report(len(ns), points, describe(point) if point else "done")
        if point is None or len(ns) >= points:
            return worst
        journal.add(point, measure(task.prepare(dict(point)), task.clock))


def fitting(curve: Curve, skip: Callable[[dict[str, Any]], bool]) -> Curve:
    """The curve without the candidates that cannot run."""
    kept = tuple(value for value in curve.candidates if not skip(dict(curve.at(value))))
    return Curve(curve.fixed, curve.axis, kept)


def describe(point: Point) -> str:
    """'batch=4 context=1024'."""
    return " ".join(f"{name}={value}" for name, value in point)


def powers(low: int, high: int, per_octave: int = 1) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, `per_octave` to each doubling, ascending."""
    found, step = [], 0
    while (value := round(low * 2 ** (step / per_octave))) <= high:
        found.append(value)
        step += 1
    return tuple(sorted(set(found)))


def product(**choices: Sequence[Any]) -> list[tuple[tuple[str, Any], ...]]:
    """Every combination of the choices, as the fixed keys of curves."""
    combos: list[tuple[tuple[str, Any], ...]] = [()]
    for name, values in choices.items():
        combos = [(*combo, (name, value)) for combo in combos for value in values]
    return combos
