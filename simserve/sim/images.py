"""Images and sounds of requests, and the store in which what encoders made of them waits for those who prefill."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from simserve.errors import Infeasible
from simserve.sim.memory import Memory, MemoryObject, ObjectKind

if TYPE_CHECKING:
    from simserve.sim.request import Request

Modality = Literal["vision", "audio"]  # whose encoder reads it, as `ModelSpec` calls them
_TIER = "features"
_UNLIMITED = 1 << 62


class Image(NamedTuple):
    """An image of a request, or a sound: equal ones have equal `content`; `rows` go through the encoder, by groups that
    attend to one another (`simserve.arch.vision.image_rows`), `tokens` of the prompt and bytes of features come out."""

    content: int
    rows: tuple[int, ...]
    tokens: int
    feature_bytes: int
    modality: Modality = "vision"


def unseen(request: Request) -> list[Image]:
    """Images of a prompt whose tokens are not in the prefix cache; without sessions they are what it begins with."""
    cached = request.cached_tokens if request.session < 0 else 0
    found, end = [], 0
    for image in request.images:
        end += image.tokens
        if end > cached:
            found.append(image)
    return found


class FeatureStore:
    """Features of images by content, shared by all processes; what was not used for longest leaves when it is full.

    capacity_bytes: None for as much as comes. hits, misses: of `find`.
    """

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self._memory = Memory({_TIER: _UNLIMITED if capacity_bytes is None else capacity_bytes})
        self.hits = self.misses = 0

    def has(self, image: Image) -> bool:
        """Whether the features of an image are here."""
        return image.content in self._memory.objects[_TIER]

    def find(self, image: Image, now_ns: int) -> bool:
        """As `has`, for somebody who then uses them."""
        found = self.has(image)
        self.hits, self.misses = self.hits + found, self.misses + (not found)
        if found:
            self._memory.use(_TIER, image.content, now_ns)
        return found

    def put(self, image: Image, now_ns: int) -> None:
        """Keep features; those that are here already, or larger than the store, change nothing."""
        if self.has(image):
            return
        try:
            self._memory.make_room(_TIER, image.feature_bytes, now_ns)
        except Infeasible:
            return
        self._memory.place(_TIER, MemoryObject(
            image.content, ObjectKind.FEATURES, image.feature_bytes, pinned=False, placed_ns=now_ns, last_used_ns=now_ns
        ))  # fmt: skip
