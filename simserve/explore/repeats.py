"""The same workload again under other seeds, and the same requests at another load.

Configurations that are compared play the same repeats, and a repeat at another load has the same requests in the same
order, sent faster or slower: common random numbers, so that a difference is not one of luck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simserve.errors import SpecError
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

    from simserve.spec.study import StudySpec
    from simserve.workload.requests import RequestSet

T = TypeVar("T")
_ROWS = ("prompt_tokens", "output_tokens", "priority", "output_content", "session", "class_id", "image_tokens")


@dataclass(frozen=True)
class Repeat:
    """The requests of one seed; for a trace the same requests from another one of them on."""

    seed: int
    workload: RequestSet


def repeats(study: StudySpec, count: int, *, base_dir: Path | None, requests: int | None = None) -> list[Repeat]:
    """`count` repeats, of the study's seed and those after it; the first is what `simserve simulate` plays.

    A drawn workload is drawn anew. A trace begins at another request, drawn from the seed, and wraps around, one mean
    gap between its end and its beginning. SpecError where turns of sessions forbid that.
    """
    from simserve.sim.rng import stream
    from simserve.workload.build import study_requests

    found = []
    for seed in range(study.seed, study.seed + count):
        workload = study_requests(study, seed=seed, base_dir=base_dir)
        if requests is not None and requests < len(workload):
            workload = workload.head(requests)
        if study.workload.trace is not None and seed > study.seed:
            if workload.after is not None:
                raise SpecError("a trace of sessions cannot be repeated from elsewhere; ask for 1 seed", key="workload")
            workload = rotated(workload, int(stream(seed, "repeats").integers(len(workload))))
        found.append(Repeat(seed, workload))
    return found


def rotated(workload: RequestSet, first: int) -> RequestSet:
    """The same requests with the same gaps, beginning with request `first`."""
    count = len(workload)
    if not first:
        return workload
    gaps = np.diff(workload.arrival_ns)
    wrap = round(float(gaps.mean())) if count > 1 else 0
    around = np.concatenate([gaps[first:], [wrap], gaps[: first - 1]])
    arrivals = np.concatenate([[0], np.cumsum(around)]).astype(np.int64)
    given = {name: column for name in _ROWS if (column := getattr(workload, name)) is not None}
    columns: dict[str, Any] = {name: np.roll(column, -first) for name, column in given.items()}
    for name in ("content", "images", "audio", "shown"):
        if (rows := getattr(workload, name)) is not None:
            columns[name] = [*rows[first:], *rows[:first]]
    return replace(
        workload, arrival_ns=arrivals, provenance={**workload.provenance, "begins_with_request": first}, **columns
    )


def load_of(workload: RequestSet, asked: float | None = None) -> float:
    """Requests per second, `asked` where the study says them, or the concurrency of a closed loop.

    SpecError for a workload that has neither.
    """
    if workload.concurrency is not None:
        return float(workload.concurrency)
    rate = asked or workload.offered_rate_rps
    if rate is None:
        raise SpecError("all requests arrive at once, so there is no load to change", key="workload")
    return rate


def at_load(workload: RequestSet, load: float, own: float) -> RequestSet:
    """The same requests at another load than their `own` (both as `load_of` counts).

    An open loop has its arrivals stretched or pressed together, a closed loop another concurrency.
    """
    if workload.concurrency is not None:
        return replace(workload, concurrency=max(1, round(load)))
    times = np.rint(workload.arrival_ns * (own / load)).astype(np.int64)
    return replace(workload, arrival_ns=times, provenance={**workload.provenance, "at_load_rps": load})


def keeps_up(arrival_ns: Sequence[int], finish_ns: Sequence[int], share: float = 0.9) -> bool:
    """Whether requests finish at `share` of the rate at least at which they arrive, the first and last 5 % aside."""
    if len(finish_ns) < 2:
        return True
    came, left = np.sort(np.asarray(arrival_ns)), np.sort(np.asarray(finish_ns))
    edges = [int(len(left) * 0.05), int((len(left) - 1) * 0.95)]
    return float(np.ptp(left[edges])) * share <= max(float(np.ptp(came[edges])), NS_PER_S / 1e6)


def mapped(work: Callable[..., T], arguments: Sequence[tuple[Any, ...]], jobs: int) -> list[T]:
    """`work(*a)` for each a, in order; in so many processes."""
    if jobs <= 1 or len(arguments) < 2:
        return [work(*a) for a in arguments]
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=jobs)(delayed(work)(*a) for a in arguments))
