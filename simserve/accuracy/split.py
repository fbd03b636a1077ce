"""Which scenarios constants are fitted on, and which are kept to judge the fit.

`perfdb/engines/split.csv` stores the part of every scenario (model, GPU, framework, lengths) that had a prediction when
the first constants were fitted: 70 % of them, drawn by seed 0. A scenario that it does not name goes by its own hash,
so that no scenario changes sides because others came.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from simserve.accuracy.points import Point
from simserve.errors import UnknownName
from simserve.paths import find_data

CALIBRATION_SHARE = 0.7
CALIBRATION, HELD_OUT = PARTS = ("calibration", "held-out")
Scenario = tuple[str, str, str, int, int]


def part_of(scenario: Scenario, seed: int = 0) -> str:
    """'calibration' or 'held-out'; seeds other than 0 draw another split, by hash alone."""
    stored = _stored().get(scenario) if seed == 0 else None
    if stored is not None:
        return stored
    digest = sha256(repr((seed, *scenario)).encode()).digest()
    return CALIBRATION if int.from_bytes(digest[:8], "big") < CALIBRATION_SHARE * 2**64 else HELD_OUT


def split(points: Sequence[Point], part: str, seed: int = 0) -> list[Point]:
    """The points of one part; UnknownName for a part that is none."""
    if part not in PARTS:
        raise UnknownName("split", part, PARTS)
    return [point for point in points if part_of(point.scenario, seed) == part]


@lru_cache(maxsize=1)
def _stored() -> dict[Scenario, str]:
    with find_data("perfdb", "split", ".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lengths = ((int(row["prompt_tokens"]), int(row["output_tokens"])) for row in rows)
    return {(r["model"], r["gpu"], r["framework"], *pair): r["part"] for r, pair in zip(rows, lengths, strict=True)}
