"""Sounds of requests, as drawn."""

from __future__ import annotations

from pathlib import Path

from simserve.sim.rng import stream
from simserve.spec.sounds import SoundsSpec
from simserve.workload.inputs import draw_ids, shared_out
from simserve.workload.lengths import lengths
from simserve.workload.requests import DrawnSound


def draw_sounds(spec: SoundsSpec, count: int, seed: int, base_dir: Path | None) -> list[tuple[DrawnSound, ...]]:
    """The sounds of each of `count` requests; what is drawn comes from streams of its own."""
    number, ids, kinds = draw_ids("audio", spec, count, seed, base_dir)
    duration_ms = lengths(spec.duration_s.in_ms, kinds, stream(seed, "audio:duration"), base_dir)
    return shared_out(number, zip(ids.tolist(), duration_ms[ids].tolist(), strict=True))
