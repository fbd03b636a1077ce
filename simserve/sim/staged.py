"""Encode, prefill and decode as stages: where a multimodal request goes, and how its features get there.

A request with images whose features are not in the store goes to the encoders, spread over several if asked; when all
are encoded their features are in the store, and the request goes to the process that prefills. That one's host
schedules it, `schedule_ns` and so much a token of images later; its features are fetched beside that, or, synchronous,
before its prompt while nothing else runs there. Who finds no features in the store by then encodes them itself. Text
alone goes straight to the prompt's process. From there on all is as in `simserve.sim.pools`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simserve.sim.clock import ARRIVAL
from simserve.sim.encoder import EncodeNs, Encoder
from simserve.sim.images import FeatureStore, Image
from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.plan import InstanceView, Router
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.request import Outcome, Request


@dataclass(frozen=True)
class Stages:
    """How features reach the prompt.

    schedule_ns, schedule_ns_per_token: from an event that features are there to the prompt's place in the queue;
    prefetch: fetched beside that; spread: images of one request go to several encoders (intra-request parallelism).
    """

    schedule_ns: int = 0
    schedule_ns_per_token: int = 0
    prefetch: bool = True
    spread: bool = False

    def scheduling_ns(self, request: Request) -> int:
        """For all images of a request."""
        return self.schedule_ns + self.schedule_ns_per_token * sum(image.tokens for image in request.images)


class StagedCluster(DisaggregatedCluster):
    """A cluster with encoders in front.

    `add` instances and name them with `prefills`, `decodes` or `serves` (prompt and decoding in one); `encodes` adds an
    encoder. features: the link over which features are fetched from `store`.
    """

    def __init__(
        self, router: Router, decode_router: Router, encode_router: Router, *, stages: Stages, store: FeatureStore,
        kv_bytes_per_token: int, snapshot_interval_ns: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(router, decode_router, kv_bytes_per_token=kv_bytes_per_token,
                         snapshot_interval_ns=snapshot_interval_ns)  # fmt: skip
        self.encode_router, self.stages, self.store = encode_router, stages, store
        self.encoders: list[Encoder] = []
        self.features: Link | None = None

    def encodes(self, encoder: Encoder) -> None:
        """One more encoder."""
        self.encoders.append(encoder)

    def serves(self, instance: Instance) -> None:
        """`instance` takes prompts and decodes them."""
        self._prefill.append(instance)

    def arrive(self, request: Request) -> None:
        """Send a request to its first stage: the encoders, if there are any and its features are not known."""
        self.in_flight[request.id] = request
        now = self.clock.now_ns
        missing = [image for image in request.images if not self.store.find(image, now)]
        if not missing or not self.encoders:
            self._to_prompt(request)
            return
        shares = self._shares(request, missing)
        left = len(shares)

        def encoded(images: Sequence[Image]) -> None:
            nonlocal left
            for image in images:
                self.store.put(image, self.clock.now_ns)
            left -= 1
            if not left:
                self._to_prompt(request)

        for encoder, images in shares:
            encoder.submit(request.id, images, lambda images=images: encoded(images))  # type: ignore[misc]

    def _shares(self, request: Request, images: list[Image]) -> list[tuple[Encoder, Sequence[Image]]]:
        """Who encodes what: one encoder all of it, or each of several an equal share."""
        views: list[InstanceView] = [encoder.view for encoder in self.encoders]
        if not self.stages.spread:
            return [(self.encoders[self.encode_router.route(request, views)], images)]
        count = min(len(images), len(self.encoders))
        least = sorted(self.encoders, key=lambda encoder: encoder.view.num_waiting + encoder.view.num_running)
        return [(least[i], images[i::count]) for i in range(count)]

    def _to_prompt(self, request: Request) -> None:
        """To the process that prefills, after its host has scheduled the images and, with prefetching, has them."""
        if not request.images or not self.encoders:
            self._route(request, self.router, self._prefill)
            return
        waits = 1

        def arrived() -> None:
            nonlocal waits
            waits -= 1
            if not waits:
                self._route(request, self.router, self._prefill)

        if self.stages.prefetch and self.features is not None:
            waits += 1
            size = sum(image.feature_bytes for image in request.images if self.store.has(image))
            self.features.transfer(size, arrived, pieces=len(request.images), request=request.id)
        self.clock.call_at(self.clock.now_ns + self.stages.scheduling_ns(request), arrived, ARRIVAL)

    def encodes_here(self, encode_ns: EncodeNs, *, always: bool) -> Callable[[Request], int]:
        """What a process that prefills encodes itself: all (it is the encoder too), or what the store has lost."""

        def before(request: Request) -> int:
            images = [image for image in request.images if not self.store.has(image)]
            if always:
                for image in images:
                    self.store.put(image, self.clock.now_ns)
            return encode_ns(images) if images else 0

        return before

    def fetches_here(self, request: Request) -> int:
        """What a process that prefills waits for features: nothing with prefetching, for it has them."""
        if self.stages.prefetch or self.features is None or not self.encoders:
            return 0
        size = sum(image.feature_bytes for image in request.images if self.store.has(image))
        return self.features.alone_ns(size, len(request.images)) if size else 0

    def _route(self, request: Request, router: Router, pool: Sequence[Instance]) -> bool:
        if not pool:
            self._end(request, Outcome.REJECTED)
            return False
        return super()._route(request, router, pool)
