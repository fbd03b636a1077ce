"""What images and sounds of requests have in common: who brings which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.sim.rng import stream
from simserve.spec.inputs import InputsSpec
from simserve.workload.lengths import lengths

Ints = NDArray[np.int64]
MOST_INPUTS = 20_000_000
Drawn = TypeVar("Drawn")


def draw_ids(key: str, spec: InputsSpec, count: int, seed: int, base_dir: Path | None) -> tuple[Ints, Ints, int]:
    """How many each of `count` requests has; the ids of all of them in order; how many different ones there are.

    key: of the workload, which names the streams too. SpecError for more than MOST_INPUTS.
    """
    number = (stream(seed, f"{key}:share").random(count) < spec.share).astype(np.int64)
    if spec.per_request is not None:
        number *= lengths(spec.per_request, count, stream(seed, f"{key}:number"), base_dir)
    total = int(number.sum())
    if total > MOST_INPUTS:
        raise SpecError(f"{total} {key}, more than {MOST_INPUTS}", key=f"workload.{key}.per_request")
    if spec.distinct is None:
        return number, np.arange(total), total
    weights = np.arange(1, spec.distinct + 1, dtype=np.float64) ** -(spec.zipf or 0.0)
    ids = stream(seed, f"{key}:ids").choice(spec.distinct, total, p=weights / weights.sum())
    return number, ids, spec.distinct


def shared_out(number: Ints, rows: Iterable[Drawn]) -> list[tuple[Drawn, ...]]:
    """So many of the rows to each request, in order."""
    left: Iterator[Drawn] = iter(rows)
    return [tuple(islice(left, n)) for n in number.tolist()]
