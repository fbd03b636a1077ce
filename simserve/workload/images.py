"""Images of requests: drawn, and as what a model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simserve.arch.vision import Rows, feature_bytes, image_rows, prompt_tokens_of, tokens_of
from simserve.errors import SpecError
from simserve.sim.images import Image
from simserve.sim.rng import stream
from simserve.spec.images import ImageSizeSpec, ImagesSpec
from simserve.spec.model import ModelSpec
from simserve.spec.vision import VisionSpec
from simserve.workload.lengths import lengths
from simserve.workload.requests import Content, DrawnImage, RequestSet, prompt_content

Ints = NDArray[np.int64]
IMAGE_CONTENT = 1 << 40  # content id of the image 0: beyond those of prefixes and blocks, which are below
MOST_IMAGES = 20_000_000
_LARGEST = 1 << 16  # pixels of a side


def draw_images(spec: ImagesSpec, count: int, seed: int, base_dir: Path | None) -> list[tuple[DrawnImage, ...]]:
    """The images of each of `count` requests; what is drawn comes from streams of its own.

    SpecError for more than MOST_IMAGES.
    """
    number = (stream(seed, "images:share").random(count) < spec.share).astype(np.int64)
    if spec.per_request is not None:
        number *= lengths(spec.per_request, count, stream(seed, "images:number"), base_dir)
    total = int(number.sum())
    if total > MOST_IMAGES:
        raise SpecError(f"{total} images, more than {MOST_IMAGES}", key="workload.images.per_request")
    kinds = spec.distinct or total
    ids = np.arange(total) if spec.distinct is None else _popular(spec.distinct, spec.zipf, total, seed)
    height, width = _sizes(spec.size, kinds, stream(seed, "images:size"))
    frames = np.ones(kinds, dtype=np.int64)
    if spec.frames is not None:
        frames = lengths(spec.frames, kinds, stream(seed, "images:frames"), base_dir)
    rows = zip(ids.tolist(), height[ids].tolist(), width[ids].tolist(), frames[ids].tolist(), strict=True)
    return [tuple(islice(rows, n)) for n in number.tolist()]


def _popular(distinct: int, zipf: float | None, total: int, seed: int) -> Ints:
    """Which of `distinct` images each of `total` is."""
    weights = np.arange(1, distinct + 1, dtype=np.float64) ** -(zipf or 0.0)
    return stream(seed, "images:ids").choice(distinct, total, p=weights / weights.sum())


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
    pixels = np.clip(drawn, spec.min_pixels or 1.0, spec.max_pixels or float(_LARGEST**2))
    ratio = rng.choice(np.array(spec.aspect_ratios or (1.0,)), count)
    sides = (np.clip(np.rint(np.sqrt(pixels * by)), 1, _LARGEST) for by in (1 / ratio, ratio))
    height, width = (side.astype(np.int64) for side in sides)
    return height, width


def with_image_tokens(requests: RequestSet, model: ModelSpec) -> RequestSet:
    """The requests, not yet read by a model, with what this one makes of their images; see `RequestSet`.

    Images' tokens are prompt tokens before the text of their request, of later turns too. What an encoder works on is
    that of the request's own images: those of earlier turns are taken to be kept. SpecError for a model of text alone.
    """
    if requests.images is None:
        return requests
    if model.vision is None:
        raise SpecError(f"{model.name} reads text alone; images need a model with a vision encoder, such as "
                        "Qwen/Qwen3-VL-8B-Instruct", key="workload.images")  # fmt: skip
    read = _read(requests.images, model.vision)
    tokens = [[read[image[1:]][1] for image in images] for images in requests.images]
    content = _content(requests, tokens)
    prompt = requests.prompt_tokens + np.array([sum(each) for each in tokens], dtype=np.int64)
    if content is not None:
        prompt = np.array([sum(size for _, size in pieces) for pieces in content], dtype=np.int64)
    return replace(
        requests, prompt_tokens=prompt, content=content,
        shown=[tuple(Image(image[0], *read[image[1:]]) for image in images) for images in requests.images],
        image_tokens=prompt - requests.prompt_tokens,
        provenance={**requests.provenance, "images_read_by": model.name},
    )  # fmt: skip


def _read(
    images: Sequence[tuple[DrawnImage, ...]], vision: VisionSpec
) -> dict[tuple[int, int, int], tuple[Rows, int, int]]:
    """(height, width, frames) -> (rows, prompt tokens, bytes of features)."""
    found = {}
    for size in {image[1:] for each in images for image in each}:
        rows = image_rows(vision, *size)
        found[size] = (rows, prompt_tokens_of(vision, rows), feature_bytes(vision, tokens_of(vision, rows)))
    return found


def _content(requests: RequestSet, tokens: list[list[int]]) -> list[Content] | None:
    """Each prompt with its images before the text of their request; None where nobody shares anything."""
    images = requests.images or ()
    ids = [image[0] for each in images for image in each]
    if requests.content is None and len(set(ids)) == len(ids):
        return None
    pieces = [
        tuple((IMAGE_CONTENT + image[0], size) for image, size in zip(each, sizes, strict=True))
        for each, sizes in zip(images, tokens, strict=True)
    ]
    if requests.content is None:
        own = requests.prompt_tokens.tolist()
        return [(*shown, (prompt_content(index), own[index])) for index, shown in enumerate(pieces)]
    before = {prompt_content(index): shown for index, shown in enumerate(pieces)}
    return [tuple(part for piece in told for part in (*before.get(piece[0], ()), piece)) for told in requests.content]
