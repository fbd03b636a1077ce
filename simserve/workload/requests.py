"""The requests of a run as columns; what every arrival process and trace reader returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.sim.images import Image
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.workload import ClassSpec
from simserve.units import NS_PER_S

Ints = NDArray[np.int64]
Index = TypeVar("Index", int, Ints)
Content = tuple[tuple[int, int], ...]
DrawnImage = tuple[int, int, int, int]  # id, height and width in pixels, frames (1: no video)
DrawnSound = tuple[int, int]  # id, duration in ms
COLUMNS = (
    "arrival_ns", "prompt_tokens", "output_tokens", "priority", "content", "output_content", "session", "after",
    "delay_ns", "class_id", "images", "audio", "shown", "image_tokens",
)  # fmt: skip


def prompt_content(index: int) -> int:
    """The content id of prompt tokens that request `index` shares with nobody; never a shared id, which is >= 0."""
    return -2 * index - 1


def generated_content(index: Index) -> Index:
    """The content id of what request `index` generates."""
    return -2 * index - 2


@dataclass(frozen=True)
class RequestSet:
    """Requests in order of arrival.

    arrival_ns: int64[n], not decreasing; prompt_tokens, output_tokens: int64[n], at least 1; priority:
    int64[n], lower first. concurrency: None for an open loop, else at most so many requests are in flight
    and arrival_ns is ignored. provenance: where the requests come from, JSON-safe.
    content: each prompt as (content id, tokens) pieces, for shared prefixes; None if nothing is shared.
    Columns that may be None: output_content, the content ids of what is generated; session, ids, -1 for none;
    after, the index of the earlier request that must have ended first, -1 for none, and delay_ns, how long after
    that end the request is sent. Such a request's arrival_ns is only a place in the order.
    class_id: the index into `classes` of each request's class; both None without classes.
    images, audio: what each request brings with it, () for none; equal ids are the same image, or sound. Once a model
    reads them (`simserve.workload.shown.with_shown_tokens`): shown, its own images and sounds as an encoder sees them;
    image_tokens, of prompt_tokens those that are images or sounds, earlier turns' included.
    confidence: of a diffusion language model, None for an autoregressive one; output_tokens are then canvases, masks
    to be filled in. confidence_seed: of what its requests draw.
    """

    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Ints
    concurrency: int | None
    provenance: Mapping[str, object]
    content: Sequence[Content] | None = None
    output_content: Ints | None = None
    session: Ints | None = None
    after: Ints | None = None
    delay_ns: Ints | None = None
    class_id: Ints | None = None
    classes: tuple[ClassSpec, ...] | None = None
    images: Sequence[tuple[DrawnImage, ...]] | None = None
    audio: Sequence[tuple[DrawnSound, ...]] | None = None
    shown: Sequence[tuple[Image, ...]] | None = None
    image_tokens: Ints | None = None
    confidence: ConfidenceSpec | None = None
    confidence_seed: int = 0

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns().values()}
        if len(lengths) != 1:
            raise SpecError(f"the columns of a workload have different lengths: {sorted(lengths)}")
        if len(self.arrival_ns) == 0:
            raise SpecError("the workload has no request")
        if (np.diff(self.arrival_ns) < 0).any() or self.arrival_ns[0] < 0:
            raise SpecError("arrival times must not decrease nor be negative")
        for name, column in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if (column < 1).any():
                row = int(np.flatnonzero(column < 1)[0])
                raise SpecError("every request needs at least 1 token", key=f"{name}[{row}]",
                                value=int(column[row]))  # fmt: skip
        self._check_order()

    def _check_order(self) -> None:
        """Who waits, waits for an earlier request."""
        if self.after is None:
            return
        if self.concurrency is not None:
            raise SpecError("requests that wait for others belong to an open loop", key="concurrency")
        if (self.after >= np.arange(len(self))).any() or (self.after < -1).any():
            raise SpecError("a request can only wait for an earlier one", key="after")
        if self.delay_ns is not None and (self.delay_ns < 0).any():
            raise SpecError("must not be negative", key="delay_ns")

    def columns(self) -> dict[str, Any]:
        """The columns that there are, by name."""
        return {name: column for name in COLUMNS if (column := getattr(self, name)) is not None}

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def head(self, count: int) -> RequestSet:
        """The first `count` requests."""
        columns = {name: column[:count] for name, column in self.columns().items()}
        return replace(self, provenance={**self.provenance, "head": count}, **columns)

    @property
    def offered_rate_rps(self) -> float | None:
        """Requests per second over the span of arrivals; None for a closed loop or a single instant."""
        span = int(self.arrival_ns[-1] - self.arrival_ns[0])
        return None if self.concurrency is not None or span == 0 else (len(self) - 1) * NS_PER_S / span
