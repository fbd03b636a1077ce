"""How features reach a prompt, and how its KV leaves: what a system of stages decides, and when messages are through.

KV of a prompt goes in one message when it is computed (`SYNCHRONOUS`), in one for each layer (`LAYERWISE`), or in one
for each group of neighbouring layers (`GROUPED`), each with a handshake. Layers are computed at an even pace from the
prompt's first to its last step. A group leaves when the last of its layers has its KV, which is before the layer is
done, and when the messages before it on the same link have; what is left when the prompt is done is exposed. Layer by
layer, handshake and layer do not fit together and little is hidden: a share `window` of the time that a layer of this
prompt takes alone (EPD-Serve, arXiv 2601.11590, table 4; see `simserve.systems.epd_serve`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from simserve.sim.plan import WorkKind
from simserve.sim.request import Seen
from simserve.units import NS_PER_S

PARTS = 1000  # in which shares of a layer are given, to stay with integers


class KvMode(Enum):
    """In what messages the KV of a prompt leaves."""

    SYNCHRONOUS = "synchronous"
    LAYERWISE = "layerwise"
    GROUPED = "grouped"


@dataclass(frozen=True, slots=True)
class Handover:
    """How the KV of a prompt leaves the process that computed it.

    handshake_ns: of a message; bandwidth_bytes_per_s: of one process's link, 0 for what its GPUs have; group_bytes: a
    group has as many layers as stay below, at least one; ready: at so many thousandths of its time a layer has its KV;
    window: thousandths of a layer's time that hide its message, layer by layer; stall_ns: what a request waits for
    beside these, layer by layer.
    """

    mode: KvMode
    bandwidth_bytes_per_s: int
    handshake_ns: int = 0
    group_bytes: int = 1 << 24
    ready: int = 0
    window: int = 0
    stall_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stages:
    """How features reach the prompt, and who answers.

    proxy_ns: from a request's arrival to its first stage; schedule_ns, schedule_ns_per_token: from the event that
    features are there to the prompt's place in the queue; prefetch: fetched beside that, else while the process stands
    still, and blocking_ns longer; spread: images of one request go to several encoders (intra-request parallelism);
    decode_answers: the first token comes from the process that decodes, which computes the prompt's last token again.
    """

    proxy_ns: int = 0
    schedule_ns: int = 0
    schedule_ns_per_token: int = 0
    prefetch: bool = True
    blocking_ns: int = 0
    spread: bool = False
    decode_answers: bool = False

    def scheduling_ns(self, request: Seen) -> int:
        """For all images of a request."""
        return self.schedule_ns + self.schedule_ns_per_token * sum(image.tokens for image in request.images)


class StagedSystem(Protocol):
    """A system whose pools are the processes of a layout of stages (`DeploymentSpec.stages`).

    scheduler, router: of every process, unless a study says otherwise; feature_link: (latency ns, bytes/s) of the link
    over which one process that prefills fetches features, 0 bytes/s for no wait; store_bytes: of features that are
    kept, None for all; slowdowns: see `SharedGpu`, in thousandths.
    """

    scheduler: str
    router: str

    def stages(self) -> Stages: ...

    def handover(self) -> Handover: ...

    def slowdowns(self) -> Mapping[tuple[WorkKind, WorkKind], int]: ...

    @property
    def feature_link(self) -> tuple[int, int]: ...

    @property
    def store_bytes(self) -> int | None: ...


@dataclass(slots=True)
class TransferUse:
    """What was handed over: kv_ns, features_ns: time of all messages, each alone; *_exposed_ns: of it, what a request
    waited for when it had nothing else to wait for; encode_ns: of all encoders' jobs; computed_again: prompts whose
    last token the process that decodes computed again."""

    kv_ns: int = 0
    kv_exposed_ns: int = 0
    features_ns: int = 0
    features_exposed_ns: int = 0
    store_hits: int = 0
    store_misses: int = 0
    encode_ns: int = 0
    encoders: int = 0
    computed_again: int = 0


@dataclass(slots=True)
class KvSender:
    """The outgoing link of one process that prefills: messages in the order in which prompts end.

    layers: of the model; bytes_per_layer: of one token and layer; use: shared by all senders; alone_ns: what a prompt
    of so many tokens takes with nothing beside it.
    """

    handover: Handover
    layers: int
    bytes_per_layer: int
    use: TransferUse
    alone_ns: Callable[[int], int]
    free_ns: int = field(default=0, init=False)

    def send(self, tokens: int, began_ns: int, ended_ns: int) -> int:
        """When the last message of a prompt of `tokens` is through, which was computed from began_ns to ended_ns."""
        sizes = self._messages(tokens)
        each = [self._message_ns(layers * tokens * self.bytes_per_layer) for layers in sizes]
        if self.handover.mode is KvMode.GROUPED:
            arrival = self._pipelined(sizes, each, began_ns, ended_ns)
        else:
            arrival = max(ended_ns, self.free_ns) + sum(each) - self._hidden_ns(each, tokens)
        self.free_ns = arrival
        self.use.kv_ns += sum(each)
        self.use.kv_exposed_ns += max(0, arrival - ended_ns)
        return max(arrival, ended_ns) + (self.handover.stall_ns if self.handover.mode is KvMode.LAYERWISE else 0)

    def _messages(self, tokens: int) -> list[int]:
        """Layers in each message."""
        if self.handover.mode is KvMode.SYNCHRONOUS:
            return [self.layers]
        layer = max(tokens * self.bytes_per_layer, 1)
        most = 1 if self.handover.mode is KvMode.LAYERWISE else max(1, self.handover.group_bytes // layer)
        return [min(most, self.layers - first) for first in range(0, self.layers, most)]

    def _message_ns(self, size_bytes: int) -> int:
        return self.handover.handshake_ns - (-size_bytes * NS_PER_S // self.handover.bandwidth_bytes_per_s)

    def _pipelined(self, sizes: list[int], each: list[int], began_ns: int, ended_ns: int) -> int:
        """Each group leaves when its last layer has its KV and the link is free."""
        time, left, free = ended_ns - began_ns, self.layers, self.free_ns
        for layers, message_ns in zip(sizes, each, strict=True):
            left -= layers
            before = time * (left * PARTS + PARTS - self.handover.ready) // (self.layers * PARTS)
            free = max(free, ended_ns - before) + message_ns
        return free

    def _hidden_ns(self, each: list[int], tokens: int) -> int:
        """What of messages layer by layer goes beside the computation."""
        if self.handover.mode is not KvMode.LAYERWISE:
            return 0
        window = self.alone_ns(tokens) * self.handover.window // (self.layers * PARTS)
        return sum(min(message_ns, window) for message_ns in each)
