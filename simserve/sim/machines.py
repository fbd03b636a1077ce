"""What schedulers and gateways of a cluster see of its prefill and decode instances; values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from simserve.sim.plan import InstanceView, Role
from simserve.sim.request import Seen


@dataclass(frozen=True, slots=True)
class Machine:
    """One instance: the pool that it belongs to, and what was assigned to it.

    mixed: it does the work of both pools now; prompt_tokens: of prompts that are not computed yet; kv_tokens: in the KV
    blocks in use, and of requests that will need some; capacity_tokens: of its KV cache.
    """

    home: Role
    mixed: bool
    prompt_tokens: int
    kv_tokens: int
    capacity_tokens: int


@runtime_checkable
class Assigner(Protocol):
    """Chooses a machine for the prompt of a request and one for its tokens when it arrives."""

    @property
    def overlap_tokens(self) -> int:
        """Prompts from so many tokens on send the KV of a layer while the next ones are computed."""
        ...

    def assign(self, request: Seen, machines: Sequence[Machine]) -> tuple[int, int]:
        """(index of the prompt's machine, index of the tokens' machine), which may be one."""
        ...


@dataclass(frozen=True, slots=True)
class Loads:
    """Two pools since the last decision: instances of each, and how long a request kept a slot of one, on average."""

    prefills: int
    decodes: int
    prefill_ns: int
    decode_ns: int


@runtime_checkable
class Gateway(Protocol):
    """Keeps requests until an instance accepts them, and says how many instances shall prefill."""

    @property
    def ttft_budget_ns(self) -> int:
        """A request that nobody has accepted so long after its arrival is rejected."""
        ...

    @property
    def retry_ns(self) -> int:
        """From one round of refusals to the next."""
        ...

    @property
    def prefill_slots(self) -> int:
        """Requests that a prefill instance has at most."""
        ...

    @property
    def control_ns(self) -> int:
        """Of each piece of KV that is sent."""
        ...

    @property
    def rebalance_ns(self) -> int:
        """Between two decisions about the pools; 0: they stay."""
        ...

    @property
    def move_ns(self) -> int:
        """From the last request of an instance that changes its role to the first in the new one."""
        ...

    def candidates(self, views: Sequence[InstanceView]) -> Sequence[int]:
        """In which order prefill instances are asked."""
        ...

    def pieces(self, blocks: int) -> int:
        """In how many pieces the KV of so many blocks is sent."""
        ...

    def change(self, loads: Loads) -> Role | None:
        """The role that one instance of the other pool shall take; None for no change."""
        ...
