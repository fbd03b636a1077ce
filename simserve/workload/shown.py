"""What a model makes of images and sounds of requests: rows for its encoders, and tokens of prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simserve.arch.audio import audio_rows, audio_tokens
from simserve.arch.encoder import feature_bytes
from simserve.arch.vision import image_rows, prompt_tokens_of, tokens_of
from simserve.errors import SpecError
from simserve.sim.images import Image
from simserve.spec.audio import AudioSpec
from simserve.spec.model import ModelSpec
from simserve.spec.vision import VisionSpec
from simserve.workload.requests import Content, RequestSet, prompt_content

SHOWN_CONTENT = 1 << 40  # content id of the image 0: beyond those of prefixes and blocks, which are below
_SOUND = 1 << 40  # of the sound 0 among what is shown: beyond those of images
Shown = list[tuple[Image, ...]]
_READERS = {
    "images": ("vision", "need a model with a vision encoder, such as Qwen/Qwen3-VL-8B-Instruct"),
    "audio": ("audio", "needs a model with an audio encoder, such as Qwen/Qwen2-Audio-7B-Instruct"),
}  # fmt: skip


def with_shown_tokens(requests: RequestSet, model: ModelSpec) -> RequestSet:
    """The requests, not yet read by a model, with what this one makes of their images and sounds; see `RequestSet`.

    Their tokens are prompt tokens before the text of their request, images first, of later turns too. What an encoder
    works on is the request's own: what earlier turns brought is taken to be kept. SpecError for a model that does not
    read them.
    """
    if requests.images is None and requests.audio is None:
        return requests
    shown = _shown(requests, model)
    content = _content(requests, shown)
    prompt = requests.prompt_tokens + np.array([sum(each.tokens for each in mine) for mine in shown], dtype=np.int64)
    if content is not None:
        prompt = np.array([sum(size for _, size in pieces) for pieces in content], dtype=np.int64)
    read_by = {f"{key}_read_by": model.name for key in _READERS if getattr(requests, key) is not None}
    return replace(
        requests, prompt_tokens=prompt, content=content, shown=shown, image_tokens=prompt - requests.prompt_tokens,
        provenance={**requests.provenance, **read_by},
    )  # fmt: skip


def _shown(requests: RequestSet, model: ModelSpec) -> Shown:
    """The images of each request, then its sounds."""
    for key, (name, wanted) in _READERS.items():
        if getattr(requests, key) is not None and name not in model.encoders:
            reads = " and ".join(["text", *(k for k, (own, _) in _READERS.items() if own in model.encoders)])
            raise SpecError(f"{model.name} reads {'text alone' if reads == 'text' else reads}; {key} {wanted}",
                            key=f"workload.{key}")  # fmt: skip
    nothing: Shown = [()] * len(requests)
    images = nothing if model.vision is None else _images(requests, model.vision)
    sounds = nothing if model.audio is None else _sounds(requests, model.audio)
    return [(*seen, *heard) for seen, heard in zip(images, sounds, strict=True)]


def _images(requests: RequestSet, vision: VisionSpec) -> Shown:
    drawn = requests.images or [()] * len(requests)
    read = {}
    for size in {image[1:] for each in drawn for image in each}:
        rows = image_rows(vision, *size)
        read[size] = (rows, prompt_tokens_of(vision, rows), feature_bytes(vision, tokens_of(vision, rows)))
    return [tuple(Image(image[0], *read[image[1:]]) for image in each) for each in drawn]


def _sounds(requests: RequestSet, audio: AudioSpec) -> Shown:
    drawn = requests.audio or [()] * len(requests)
    read = {}
    for duration_ms in {sound[1] for each in drawn for sound in each}:
        tokens = audio_tokens(audio, duration_ms)
        read[duration_ms] = (audio_rows(audio, duration_ms), tokens, feature_bytes(audio, tokens))
    return [tuple(Image(_SOUND + index, *read[ms], "audio") for index, ms in each) for each in drawn]


def _content(requests: RequestSet, shown: Shown) -> list[Content] | None:
    """Each prompt with what is shown before the text of their request; None where nobody shares anything."""
    ids = [each.content for mine in shown for each in mine]
    if requests.content is None and len(set(ids)) == len(ids):
        return None
    pieces = [tuple((SHOWN_CONTENT + each.content, each.tokens) for each in mine) for mine in shown]
    if requests.content is None:
        own = requests.prompt_tokens.tolist()
        return [(*first, (prompt_content(index), own[index])) for index, first in enumerate(pieces)]
    before = {prompt_content(index): first for index, first in enumerate(pieces)}
    return [tuple(part for piece in told for part in (*before.get(piece[0], ()), piece)) for told in requests.content]
