"""What a scheduler says and sees of steps whose decode attention is partly on the host's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from simserve.sim.request import Seen


class Predictor(Protocol):
    """What a scheduler believes of the times in ns of one of `layers` equal layers; see `simserve.perf.layers`."""

    @property
    def layers(self) -> int: ...

    def linear_ns(self, tokens: int) -> float:
        """All of a layer but attention, on the GPU."""
        ...

    def attention_ns(self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context_tokens: int) -> float:
        """Attention on the GPU."""
        ...

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        """Decode attention on the CPU."""
        ...

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        """(queries, keys, values of new tokens to the host, outputs back)."""
        ...

    def head_ns(self, sampled: int) -> float:
        """LM head, once per step."""
        ...

    def host_ns(self, requests: int) -> float:
        """What the engine adds to a step."""
        ...


class Strategy(Enum):
    """How a step and the CPU go together: not (KV may change tiers); sub-batches that join at every stage; cohorts that
    join when they can."""

    GPU = "gpu"
    PIPELINE = "pipeline"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class HybridStep:
    """The CPU's part of a plan.

    batch0, batch1: hosted requests that get a whole token in a pipelined step, by sub-batch; started: hosted requests
    that become a cohort in an overlapped one, with the slots of their newest token; joined: cohorts (keys of
    `View.cohorts`) that go on by one layer there; one that is not ready makes the GPU wait. launch_ns: per stage, where
    CPU attention shares the launching thread.
    """

    strategy: Strategy
    batch0: tuple[Seen, ...] = ()
    batch1: tuple[Seen, ...] = ()
    started: tuple[Seen, ...] = ()
    joined: tuple[int, ...] = ()
    launch_ns: int = 0

    @property
    def moves_on(self) -> bool:
        """Whether a step without tokens has something to do."""
        return bool(self.started or self.joined)


@dataclass(slots=True)
class Cohort:
    """Hosted requests on the way through the layers together.

    layer: layers whose attention has begun (1 after the first step); when they are all done, the next step in which
    the cohort joins samples its tokens. ready_ns: when what the CPU computes can be joined.
    """

    requests: tuple[Seen, ...]
    layer: int
    ready_ns: int


@dataclass(slots=True)
class HostUse:
    """What an instance did with its host, in all.

    decode_steps: steps without prompts, by strategy; one beside which the CPU attends for a cohort is overlapped, also
    if the cohort does not join in it; hosted_steps: those with requests on the host. tokens: sampled; cpu_tokens: those
    of them whose attention the CPU computed. busy_ns: of all steps; cpu_ns: of CPU attention; cpu_wait_ns,
    copy_wait_ns: by which steps are longer than the GPU's own part of them, for the CPU and for copies of KV; block_ns:
    host blocks in use x step time; blocks: there are.
    """

    blocks: int
    decode_steps: dict[Strategy, int] = field(default_factory=lambda: dict.fromkeys(Strategy, 0))
    hosted_steps: int = 0
    tokens: int = 0
    cpu_tokens: int = 0
    busy_ns: int = 0
    cpu_ns: int = 0
    cpu_wait_ns: int = 0
    copy_wait_ns: int = 0
    block_ns: int = 0
