"""What a controller of GPU shares sees and says; values only, so that it can be tested without a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Window:
    """What happened since the last decision.

    ttft_ns: of requests that got their first token; gaps_ns: between the ends of successive decode steps of a busy
    decode worker; prefill_busy: share of the time in which the prefill worker had a step in flight.
    """

    ttft_ns: Sequence[int]
    gaps_ns: Sequence[int]
    prefill_busy: float


class ShareController(Protocol):
    """Decides what per cent of the SMs prefill and decode get; together they may exceed 100."""

    @property
    def window_size(self) -> int:
        """Decode steps between two decisions; 0: the shares stay."""
        ...

    @property
    def shares(self) -> tuple[int, int]:
        """(prefill, decode) in force."""
        ...

    def adjust(self, window: Window) -> tuple[int, int]:
        """The shares from now on."""
        ...


@runtime_checkable
class SharedSystem(Protocol):
    """A system whose prefill and decode workers share GPUs, weights and KV pool."""

    def controller(self) -> ShareController:
        """A fresh one for each GPU (or group of GPUs)."""
        ...
