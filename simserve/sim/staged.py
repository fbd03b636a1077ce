"""Encode, prefill and decode as stages: where a multimodal request goes, and how its features and KV get there.

A request with images whose features are not in the store goes to the encoders, spread over several if asked; when all
are encoded their features are in the store, and the request goes to the process that prefills. That one's host
schedules it, `schedule_ns` and so much a token of images later; its features are fetched beside that, or, synchronous,
before its prompt while nothing else runs there. Who finds no features in the store by then encodes them itself. Text
alone goes straight to the prompt's process. KV is pushed to the process that decodes as `simserve.sim.handover` says;
one whose blocks are taken asks for it later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from simserve.sim.clock import ARRIVAL
from simserve.sim.encoder import EncodeNs, Encoder
from simserve.sim.handover import KvSender, Prompt, Stages, TransferUse
from simserve.sim.images import FeatureStore, Image, unseen
from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.plan import InstanceView, Router
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.request import Outcome, Request
from simserve.sim.source import Load
from simserve.sim.trace import REQUEST_COLUMNS, Note, Trace
from simserve.spec.stages import Stage


class StagedCluster(DisaggregatedCluster):
    """A cluster with encoders in front.

    `add` instances, say with `takes` which stages they do, with `links` over what they send KV that they compute for
    others; `encodes` adds an encoder. features: the links over which features are fetched from `store`, one for
    each process that prefills, of which a request takes the one with the fewest transfers; starting: called
    when a load begins.
    """

    def __init__(
        self, router: Router, decode_router: Router, encode_router: Router, *, stages: Stages, store: FeatureStore,
        snapshot_interval_ns: int = 0, leap: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(
            router, decode_router, kv_bytes_per_token=0, snapshot_interval_ns=snapshot_interval_ns, leap=leap
        )
        self.encode_router, self.stages, self.store = encode_router, stages, store
        self.encoders: list[Encoder] = []
        self._every_encoder: list[Encoder] = []
        self.features: list[Link] = []
        self.use = TransferUse()
        self._encoding: list[tuple[int, int, int]] = []  # (encoder, since, until) of those that were withdrawn
        self._since_ns: dict[int, int] = {}
        self.starting: Callable[[], None] | None = None
        self._expected = 0
        self._senders: dict[int, tuple[KvSender, Note]] = {}
        self._arrivals: dict[int, int] = {}
        self._leaving: dict[int, list[Request]] = {}

    def encodes(self, encoder: Encoder, *, idle: bool = False) -> None:
        """One more encoder, for as long as it is not withdrawn; idle: it does not begin yet."""
        self._every_encoder.append(encoder)
        self.use.encoders += 1
        if not idle:
            self.begins(encoder)

    def begins(self, encoder: Encoder) -> None:
        """It takes jobs from now on."""
        self.encoders.append(encoder)
        self._since_ns[encoder.view.index] = self.clock.now_ns

    def links(self, instance: Instance, sender: KvSender) -> None:
        """`instance`, when it prefills, pushes KV over the link of `sender`."""
        index = instance.view.index
        self._senders[index] = (sender, self.spans.of(f"instance {index} kv"))

    def takes(self, instance: Instance, *stages: Stage) -> None:
        """`instance` prefills, decodes, or both, from now on."""
        instance.hand_over = instance.fetch = None
        if Stage.PREFILL in stages:
            self._prefill.append(instance)
            if Stage.DECODE not in stages:
                instance.hand_over = partial(self._hand_over, instance)
        if Stage.DECODE in stages:
            instance.fetch = self._fetch
            self._decode.append(instance)

    def withdraw(self, encoder: Encoder, instance: Instance) -> None:
        """Neither takes new requests."""
        if encoder in self.encoders:
            index = encoder.view.index
            self._encoding.append((index, self._since_ns.pop(index), self.clock.now_ns))
        for kind, part in ((self.encoders, encoder), (self._prefill, instance), (self._decode, instance)):
            if part in kind:
                kind.remove(part)  # type: ignore[arg-type]

    @property
    def is_over(self) -> bool:
        """Whether every request of the load has ended."""
        return len(self.request_log) >= self._expected

    def play(self, load: Load, *, until_ns: int | None = None) -> Trace:
        """As every cluster, with what was moved between stages."""
        self._expected = len(load.arrival_ns) * len(REQUEST_COLUMNS)
        if self.starting is not None:
            self.starting()
        trace = super().play(load, until_ns=until_ns)
        self.use.store_hits, self.use.store_misses = self.store.hits, self.store.misses
        self.use.encode_ns = sum(encoder.busy_ns for encoder in self._every_encoder)
        self.use.encoders_ns = self.use.encode_ns + self._unused_ns(trace)
        return replace(trace, transfers=self.use)

    def _unused_ns(self, trace: Trace) -> int:
        """Time without a job of all encoders that take some, from the first arrival to the last finish."""
        if not len(trace.requests["id"]):
            return 0
        first, last = int(trace.requests["arrival_ns"].min()), int(trace.requests["finish_ns"].max())
        last = last if last >= 0 else trace.end_ns
        terms = [*self._encoding, *((index, since_ns, last) for index, since_ns in self._since_ns.items())]
        start, end, unused = trace.spans["start_ns"], trace.spans["end_ns"], 0
        for index, since_ns, until_ns in terms:
            since_ns, until_ns = max(since_ns, first), min(until_ns, last)
            own = trace.spans["resource"] == trace.resources.index(f"encoder {index}")
            busy = np.clip(np.minimum(end, until_ns) - np.maximum(start, since_ns), 0, None)[own]
            unused += max(0, until_ns - since_ns) - int(busy.sum())
        return unused

    def arrive(self, request: Request) -> None:
        """A request has come to the proxy, which sends it to its first stage."""
        self.in_flight[request.id] = request
        if self.stages.proxy_ns:
            self.clock.call_at(self.clock.now_ns + self.stages.proxy_ns, lambda: self._dispatch(request), ARRIVAL)
        else:
            self._dispatch(request)

    def _dispatch(self, request: Request) -> None:
        """To the encoders, if there are any and features are not known."""
        if not request.images or not self.encoders:
            self._to_prompt(request)
            return
        different = {image.content: image for image in request.images}.values()
        missing = [image for image in different if not self.store.find(image, self.clock.now_ns)]
        if not missing:
            self._to_prompt(request)
            return
        shares = self._shares(request, missing)
        left = len(shares)

        def encoded() -> None:
            nonlocal left
            left -= 1
            if not left:
                for image in missing:
                    self.store.put(image, self.clock.now_ns)
                self._to_prompt(request)

        for encoder, images in shares:
            encoder.submit(request.id, images, encoded)

    def _shares(self, request: Request, images: list[Image]) -> list[tuple[Encoder, Sequence[Image]]]:
        """Who encodes what: one encoder all of it, or each of several an equal share of its tiles."""
        views: list[InstanceView] = [encoder.view for encoder in self.encoders]
        if not self.stages.spread:
            return [(self.encoders[self.encode_router.route(request, views)], images)]
        tiles = [image._replace(rows=(group,)) for image in images for group in image.rows]
        count = min(len(tiles), len(self.encoders))
        least = sorted(self.encoders, key=lambda encoder: encoder.view.num_waiting + encoder.view.num_running)
        return [(least[i], tiles[i::count]) for i in range(count)]

    def _to_prompt(self, request: Request) -> None:
        """To the process that prefills, after its host has scheduled the images and, with prefetching, has them."""
        if not request.images or not self.encoders:
            self._route(request, self.router, self._prefill)
            return
        waits, alone_ns, scheduled_ns = 1, 0, self.clock.now_ns + self.stages.scheduling_ns(request)

        def arrived() -> None:
            nonlocal waits
            waits -= 1
            if not waits:
                self.use.features_exposed_ns += min(self.clock.now_ns - scheduled_ns, alone_ns)
                self._route(request, self.router, self._prefill)

        if self.stages.prefetch and self.features:
            waits += 1
            size, link = self._feature_bytes(request), min(self.features, key=lambda link: link.transfers)
            alone_ns = link.alone_ns(size)
            self.use.features_ns += alone_ns
            link.transfer(size, arrived, request=request.id)
        self.clock.call_at(scheduled_ns, arrived, ARRIVAL)

    def encodes_here(self, encode_ns: EncodeNs, *, always: bool) -> Callable[[Request], int]:
        """What a process that prefills encodes itself: all (it is the encoder too), or what the store has lost."""

        def before(request: Request) -> int:
            images = [image for image in unseen(request) if not self.store.has(image)]
            if always:
                for image in images:
                    self.store.put(image, self.clock.now_ns)
            return encode_ns(images) if images else 0

        return before

    def fetches_here(self, request: Request) -> int:
        """What a process that prefills waits for features: nothing with prefetching, for it has them."""
        if self.stages.prefetch or not self.features or not self.encoders:
            return 0
        size = self._feature_bytes(request)
        if not size:
            return 0
        fetch_ns = self.features[0].alone_ns(size)
        self.use.features_ns += fetch_ns
        self.use.features_exposed_ns += fetch_ns
        return fetch_ns + self.stages.blocking_ns

    def _feature_bytes(self, request: Request) -> int:
        """Of its different images whose features are in the store."""
        different = {image.content: image for image in request.images}.values()
        return sum(image.feature_bytes for image in different if self.store.has(image))

    def _route(self, request: Request, router: Router, pool: Sequence[Instance]) -> bool:
        if not pool:
            self._end(request, Outcome.REJECTED)
            return False
        return super()._route(request, router, pool)

    def _hand_over(self, source: Instance, request: Request) -> None:
        """A prompt is done: its KV leaves together with that of others which end now."""
        self.in_flight[request.id] = request
        leaving = self._leaving.setdefault(source.view.index, [])
        leaving.append(request)
        if len(leaving) == 1:
            self.clock.call_at(self.clock.now_ns, lambda: self._send(source), ARRIVAL)

    def _send(self, source: Instance) -> None:
        """KV of all prompts that ended now goes to processes that decode, or to the queues in front of them."""
        requests, now = self._leaving.pop(source.view.index), self.clock.now_ns
        sender, note = self._senders[source.view.index]
        began = source.computing_ns if isinstance(source, MultimodalInstance) else {}
        times = sender.send([
            Prompt(r.computed_tokens, began.pop(r.id, r.first_scheduled_ns), now) for r in requests
        ])  # fmt: skip
        for request, arrival in zip(requests, times, strict=True):
            note(now, arrival, request.id, request.computed_tokens * sender.layers * sender.bytes_per_layer)
            successor = request.successor(silent=self.stages.decode_answers)
            self.use.computed_again += self.stages.decode_answers
            self.in_flight[request.id] = successor
            self._left_behind[request.id], self._arrivals[request.id] = (source, request), arrival
            taker = self._taker(successor) if successor.remote_tokens else None
            if taker is not None:
                self.clock.call_at(arrival, partial(self._pushed, taker, successor), ARRIVAL)
            elif not self._route(successor, self.decode_router, self._decode) or not successor.remote_tokens:
                self._fetched(request.id)  # refused, or of a single token, which is computed again

    def _taker(self, request: Request) -> MultimodalInstance | None:
        """Who decodes and has blocks for a request now, the router's choice before others."""
        if not self._decode:
            return None
        views = self._snapshot()
        chosen = self._decode[self.decode_router.route(request, [views[i.view.index] for i in self._decode])]
        for instance in (chosen, *(i for i in self._decode if i is not chosen)):
            if isinstance(instance, MultimodalInstance) and instance.receive(request):
                return instance
        return None

    def _pushed(self, taker: MultimodalInstance, request: Request) -> None:
        self._fetched(request.id)
        taker.received(request)

    def _fetch(self, request: Request, done: Callable[[], None]) -> None:
        """KV that was not pushed, for there was no room: there when asked for, but not before its last message."""

        def arrived() -> None:
            self._fetched(request.id)
            done()

        self.clock.call_at(max(self.clock.now_ns, self._arrivals[request.id]), arrived, ARRIVAL)

    def _fetched(self, key: int) -> None:
        del self._arrivals[key]
        super()._fetched(key)
