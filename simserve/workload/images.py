"""Images of requests, as drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simserve.sim.rng import stream
from simserve.spec.images import ImageSizeSpec, ImagesSpec
from simserve.workload.inputs import draw_ids, shared_out
from simserve.workload.lengths import lengths
from simserve.workload.requests import DrawnImage

Ints = NDArray[np.int64]
_LARGEST = 1 << 16  # pixels of a side


def draw_images(spec: ImagesSpec, count: int, seed: int, base_dir: Path | None) -> list[tuple[DrawnImage, ...]]:
    """The images of each of `count` requests; what is drawn comes from streams of its own."""
    number, ids, kinds = draw_ids("images", spec, count, seed, base_dir)
    height, width = _sizes(spec.size, kinds, stream(seed, "images:size"))
    frames = np.ones(kinds, dtype=np.int64)
    if spec.frames is not None:
        frames = lengths(spec.frames, kinds, stream(seed, "images:frames"), base_dir)
    return shared_out(number, zip(ids.tolist(), height[ids].tolist(), width[ids].tolist(), frames[ids].tolist(),
                                  strict=True))  # fmt: skip


def _sizes(spec: ImageSizeSpec, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Heights and widths in pixels."""
    if spec.kind == "fixed":
        return np.full(count, spec.height, dtype=np.int64), np.full(count, spec.width, dtype=np.int64)
    if spec.kind == "listed":
        listed = spec.sizes or ()
        weights = np.array([size.weight for size in listed])
        which = rng.choice(len(listed), count, p=weights / weights.sum())
        return np.array([s.height for s in listed])[which], np.array([s.width for s in listed])[which]
    mean, std = spec.mean_pixels or 1.0, spec.std_pixels or 1.0
    variance = np.log1p((std / mean) ** 2)
    drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), count)
    if spec.exact_mean and count:
        drawn *= mean / drawn.mean()
    pixels = np.clip(drawn, spec.min_pixels or 1.0, spec.max_pixels or float(_LARGEST**2))
    ratio = rng.choice(np.array(spec.aspect_ratios or (1.0,)), count)
    sides = (np.clip(np.rint(np.sqrt(pixels * by)), 1, _LARGEST) for by in (1 / ratio, ratio))
    height, width = (side.astype(np.int64) for side in sides)
    return height, width
