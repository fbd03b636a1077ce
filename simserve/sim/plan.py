"""The engine contract: a scheduler decides in `plan()`, the instance acts.

A plan is a map {request: number of tokens}; prefill, chunk, prefix hit and decode are the same thing with
other numbers. While planning, the only thing a scheduler may touch is the block ledger of its view: it
reserves and releases KV blocks in the order in which it decides, because with a shared cache each decision
changes what the next one finds. Everything else (queues, tokens, time, records) is the instance's.

A step is a list of segments. Default: one, priced by the cost model from the token map. A scheduler that
overlaps or splits work lists them itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from simserve.arch.diffusion import Traits
from simserve.sim.denoise import Pass
from simserve.sim.hybrid import Cohort, HybridStep
from simserve.sim.request import Seen


class Swap(Protocol):
    """Host memory for KV blocks as a scheduler sees it."""

    def take(self, request: Seen) -> bool:
        """Copy the request's blocks to the host; False (and no change) if they do not fit. Release them after."""
        ...

    def give_back(self, request: Seen) -> None:
        """Copy the request's blocks back, into blocks reserved before."""
        ...


class Offload(Protocol):
    """KV of prefixes in tiers beyond the GPU (host memory, SSD) as a scheduler sees it."""

    def found(self, request: Seen, tokens: int) -> int:
        """Tokens of the request's prefix that the tiers hold on from its first `tokens`, a whole number of blocks;
        the end of that prefix, at most all tokens but one, or 0 if they hold nothing of it."""
        ...

    def claim(self, request: Seen, tokens: int) -> None:
        """Keep what was found beyond the first `tokens` until it has been fetched; for a plan that fetches it."""
        ...


class Stored(Protocol):
    """What an eviction order may know of an object in a memory tier."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def placed_ns(self) -> int: ...
    @property
    def last_used_ns(self) -> int: ...


class Eviction(Protocol):
    """An order in which objects leave a full tier."""

    def key(self, item: Stored) -> tuple[int, ...]:
        """What sorts first goes first."""
        ...


class WorkKind(Enum):
    """What a segment computes; hybrids, multimodal and diffusion are other kinds, not other engines."""

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    DENOISE = "denoise"


class Lane(Enum):
    """A resource that a segment keeps busy."""

    COMPUTE = "compute"
    HBM = "hbm"
    NETWORK = "network"
    PCIE_IN = "pcie_in"
    PCIE_OUT = "pcie_out"
    CPU = "cpu"
    STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a step: `tokens` tokens through layers [first, last), with ns of demand on each lane."""

    kind: WorkKind
    layers: tuple[int, int]
    tokens: int
    demand_ns: Mapping[Lane, int]


@dataclass(slots=True)
class Plan:
    """What one step does.

    tokens: tokens scheduled per request, in scheduling order, each at least 1; admitted: requests that leave
    the waiting side; cached: tokens that an admitted request finds in the prefix cache; preempted: requests
    that lose their blocks, in order; swapped_out, swapped_in: running requests whose KV goes to the host, and
    those whose KV comes back to run on; fetched: waiting requests whose KV is to be fetched, from the instance
    that handed them over or from the offload tiers, into blocks that the plan reserved (with `delay_cache`); they
    come back in `View.loaded`, holding them; segments: empty for the default.

    to_host, to_gpu: requests whose KV changes tier, with blocks in the tier where it goes; admitted_host: requests that
    leave the waiting side and are prefilled on the GPU with blocks on the host; hybrid: the CPU's part, None for
    a plan in which nothing is on the host or changes tier.

    denoise: of a diffusion step, what it does for each request of `tokens`, which then are query tokens.

    interruptible: an arrival stops the step at the end of the segment that runs; the work done is kept and the
    plan appears in `View.suspended`. resume: go on with that suspended plan; then nothing else may be planned.

    repeats: the scheduler would plan the same tokens for every following step until a request finishes or
    the block ledger runs dry; arrival_breaks: an arrival ends that promise too. They let the instance take
    many decode steps as one event; a scheduler that never sets them is only slower.
    """

    tokens: dict[Seen, int] = field(default_factory=dict)
    admitted: list[Seen] = field(default_factory=list)
    cached: dict[Seen, int] = field(default_factory=dict)
    preempted: list[Seen] = field(default_factory=list)
    swapped_out: list[Seen] = field(default_factory=list)
    swapped_in: list[Seen] = field(default_factory=list)
    fetched: list[Seen] = field(default_factory=list)
    to_host: list[Seen] = field(default_factory=list)
    to_gpu: list[Seen] = field(default_factory=list)
    admitted_host: list[Seen] = field(default_factory=list)
    hybrid: HybridStep | None = None
    denoise: Mapping[Seen, Pass] | None = None
    segments: tuple[Segment, ...] = ()
    interruptible: bool = False
    resume: int | None = None
    repeats: bool = False
    arrival_breaks: bool = True


class Blocks(Protocol):
    """The block ledger as a scheduler sees it; a request holds ceil(tokens / block_size) blocks."""

    @property
    def block_size(self) -> int: ...

    @property
    def total(self) -> int: ...

    @property
    def free(self) -> int: ...

    def count(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        ...

    def cached_tokens(self, request: Seen) -> int:
        """Tokens of a waiting request that need not be computed: its longest cached prefix, in whole blocks, at most
        all tokens but one; of one that holds blocks, what was fetched into them."""
        ...

    def fits(self, request: Seen, tokens: int, headroom: int) -> bool:
        """Whether a waiting request's first `tokens` tokens, hits included, fit beside `headroom` blocks.

        One that holds blocks already, for its KV was fetched, needs no headroom.
        """
        ...

    def attach(self, request: Seen) -> int:
        """Give a request that is admitted its cached prefix, if it holds none; returns its `cached_tokens`."""
        ...

    def reserve(self, request: Seen, tokens: int, *, delay_cache: bool = False) -> bool:
        """Give `request` slots for its first `tokens` tokens; False (and no change) if they are not free.

        delay_cache: what comes into them is not there yet; a later `reserve` enters it into the prefix cache.
        """
        ...

    def release(self, request: Seen) -> None:
        """Take all blocks from `request`."""
        ...


@dataclass(slots=True)
class View:
    """What a scheduler sees of its instance. Mappings are in order of admission, preemption and arrival.

    suspended: plans that were interrupted, by the key that resumes them; their requests have their tokens
    scheduled already. loading: requests whose KV is on the way into blocks that they hold. loaded: those whose KV has
    been fetched, with their blocks. swapped: requests whose KV lies on the host, in `swap` (None: no swap space).
    offload: tiers with the KV of prefixes (None: there are none).
    hosted: running requests whose KV is on the host, in `host_blocks` (None: KV is on the GPU alone), which count in
    `Seen.blocks` likewise; cohorts: those of them that are between layers.
    preempted: requests to resume, the last one preempted last (vLLM resumes that one first).
    """

    now_ns: int
    running: Mapping[int, Seen]
    waiting: Mapping[int, Seen]
    preempted: Mapping[int, Seen]
    blocks: Blocks
    suspended: Mapping[int, Plan] = field(default_factory=dict)
    loading: Mapping[int, Seen] = field(default_factory=dict)
    loaded: Mapping[int, Seen] = field(default_factory=dict)
    swapped: Mapping[int, Seen] = field(default_factory=dict)
    swap: Swap | None = None
    offload: Offload | None = None
    hosted: Mapping[int, Seen] = field(default_factory=dict)
    host_blocks: Blocks | None = None
    cohorts: Mapping[int, Cohort] = field(default_factory=dict)


class Scheduler(Protocol):
    """Forms the batches of one instance. Its dataclass fields are its knobs (see `knob`)."""

    @property
    def max_num_batched_tokens(self) -> int: ...

    @property
    def max_num_seqs(self) -> int: ...

    def plan(self, view: View) -> Plan:
        """The next step; a plan without tokens means that nothing can run until a request arrives."""
        ...


@dataclass(slots=True)
class InstanceView:
    """What a router sees of an instance: counts at `taken_at_ns`, which may lie in the past."""

    index: int
    taken_at_ns: int = 0
    num_running: int = 0
    num_waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0


class Denoiser(Scheduler, Protocol):
    """Forms the denoising steps of diffusion requests."""

    @property
    def traits(self) -> Traits: ...

    @property
    def step_tokens(self) -> int:
        """Query tokens of a step, mean at most while many wait; the screen of a search goes by it."""
        ...

    def slots(self, tokens: int) -> int:
        """KV tokens that are held, from admission on, for a request of so many tokens of prompt and canvas.

        All of them are queries in its largest pass.
        """
        ...


class Router(Protocol):
    """Chooses an instance for each request.

    A router that reads `free_blocks` has a class attribute `reads_blocks = True`: inside a leap they are worked out
    only for such a router. Others must not read them.
    """

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The index into `views` of the instance that shall take `request`."""
        ...


class Role(Enum):
    """What the instances of a pool do with a request."""

    SERVE = "serve"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Pool:
    """A group of equal instances with one role; scheduler and router are those of its system unless a study says
    otherwise."""

    name: str
    role: Role
    scheduler: str
    router: str


class System(Protocol):
    """A serving system with pools; one that has none is a scheduler only."""

    def pools(self) -> Sequence[Pool]:
        """Its pools: one that serves, or one that prefills and one that decodes."""
        ...


def knob(default: Any, doc: str, *, low: float | None = None, high: float | None = None,
         choices: tuple[object, ...] = ()) -> Any:  # fmt: skip
    """A dataclass field that is also a search dimension: its range or choices, and one line of help."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


def knobs(part: type) -> dict[str, Mapping[str, Any]]:
    """Name -> {doc, low, high, choices, default} of every knob of a scheduler or router class."""
    return {f.name: {**f.metadata, "default": f.default} for f in dataclasses.fields(part) if "doc" in f.metadata}
