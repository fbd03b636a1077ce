"""How features reach a prompt, and how its KV leaves: what a system of stages decides, and when messages are through.

KV of a prompt goes in one message when it is computed (`SYNCHRONOUS`), in one for each layer (`LAYERWISE`), or in one
for each group of neighbouring layers (`GROUPED`), each with a handshake. Layers are computed at an even pace from the
prompt's first to its last step. A group leaves when the last of its layers has its KV, which is before the layer is
done, and when the messages before it on the same link have; what is left when the prompt is done is exposed. Layer by
layer, handshake and layer do not fit together and little is hidden: a share `window` of the time that a layer of this
prompt takes alone (EPD-Serve, arXiv 2601.11590, table 4; see `simserve.systems.epd_serve`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

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
class Switching:
    """Whole GPUs go from one stage to another, if need be every `interval_ns`; one that is drained works there
    `delay_ns` later."""

    interval_ns: int
    delay_ns: int = 0


@dataclass(frozen=True, slots=True)
class Stages:
    """How features reach the prompt, and who answers.

    proxy_ns: from a request's arrival to its first stage; schedule_ns, schedule_ns_per_token: from the event that
    features are there to the prompt's place in the queue; prefetch: fetched beside that, else while the process stands
    still, and blocking_ns longer; spread: images of one request go to several encoders (intra-request parallelism);
    decode_answers: the first token comes from the process that decodes, which computes the prompt's last token again;
    switching: None where each GPU keeps its stage.
    """

    proxy_ns: int = 0
    schedule_ns: int = 0
    schedule_ns_per_token: int = 0
    prefetch: bool = True
    blocking_ns: int = 0
    spread: bool = False
    decode_answers: bool = False
    switching: Switching | None = None

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
    """What was handed over: kv_ns, features_ns: time of all messages, each alone; *_exposed_ns: of it, not beside the
    computation or the scheduling of the prompt; encode_ns: of all encoders' jobs; encoders_ns: of all
    encoders from first arrival to last finish, while they take jobs or have some; computed_again: prompts whose
    last token the process that decodes computed again; switches: of a GPU's stage."""

    kv_ns: int = 0
    kv_exposed_ns: int = 0
    features_ns: int = 0
    features_exposed_ns: int = 0
    store_hits: int = 0
    store_misses: int = 0
    encode_ns: int = 0
    encoders: int = 0
    encoders_ns: int = 0
    computed_again: int = 0
    switches: int = 0


class Prompt(NamedTuple):
    """A prompt whose KV leaves: its tokens, and when it began and ended being computed."""

    tokens: int
    began_ns: int
    ended_ns: int


@dataclass(slots=True)
class KvSender:
    """The outgoing link of one process that prefills: one message after another, in the order in which they are ready.

    layers: of the model; bytes_per_layer: of one token and layer; use: shared by all senders; alone_ns: what the
    layers take for a prompt of so many tokens with nothing beside it.
    """

    handover: Handover
    layers: int
    bytes_per_layer: int
    use: TransferUse
    alone_ns: Callable[[int], int]
    free_ns: int = field(default=0, init=False)

    def send(self, prompts: Sequence[Prompt]) -> list[int]:
        """When the last message of each prompt is through; of all that ended together."""
        messages = sorted(m for which, prompt in enumerate(prompts) for m in self._messages(which, prompt))
        through = [prompt.ended_ns for prompt in prompts]
        for ready_ns, which, message_ns, hidden_ns in messages:
            ended_ns, start_ns = prompts[which].ended_ns, max(ready_ns, self.free_ns)
            self.free_ns = start_ns + message_ns - hidden_ns
            self.use.kv_ns += message_ns
            self.use.kv_exposed_ns += max(0, self.free_ns - max(start_ns, ended_ns))
            through[which] = max(ended_ns, self.free_ns)
        stall_ns = self.handover.stall_ns if self.handover.mode is KvMode.LAYERWISE else 0
        return [time_ns + stall_ns for time_ns in through]

    def _messages(self, which: int, prompt: Prompt) -> list[tuple[int, int, int, int]]:
        """(ready_ns, which prompt, ns of the message, ns of it that are hidden) of each message."""
        mode, left, found = self.handover.mode, self.layers, []
        window_ns = self.alone_ns(prompt.tokens) * self.handover.window // (self.layers * PARTS)
        for layers in self._sizes(prompt.tokens):
            left -= layers
            size = layers * prompt.tokens * self.bytes_per_layer
            message_ns = self.handover.handshake_ns - (-size * NS_PER_S // self.handover.bandwidth_bytes_per_s)
            before, hidden_ns = 0, 0
            if mode is KvMode.GROUPED:
                parts = left * PARTS + PARTS - self.handover.ready
                before = (prompt.ended_ns - prompt.began_ns) * parts // (self.layers * PARTS)
            elif mode is KvMode.LAYERWISE:
                hidden_ns = min(message_ns, window_ns)
            found.append((prompt.ended_ns - before, which, message_ns, hidden_ns))
        return found

    def _sizes(self, tokens: int) -> list[int]:
        """Layers in each message."""
        if self.handover.mode is KvMode.SYNCHRONOUS:
            return [self.layers]
        layer = max(tokens * self.bytes_per_layer, 1)
        most = 1 if self.handover.mode is KvMode.LAYERWISE else max(1, self.handover.group_bytes // layer)
        return [min(most, self.layers - first) for first in range(0, self.layers, most)]
