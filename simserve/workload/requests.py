"""The requests of a run as columns; what every arrival process and trace reader returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.units import NS_PER_S

Ints = NDArray[np.int64]
Content = tuple[tuple[int, int], ...]


def prompt_content(index: int) -> int:
    """The content id of prompt tokens that request `index` shares with nobody; never a shared id, which is >= 0."""
    return -2 * index - 1


@dataclass(frozen=True)
class RequestSet:
    """Requests in order of arrival.

    arrival_ns: int64[n], not decreasing; prompt_tokens, output_tokens: int64[n], at least 1; priority:
    int64[n], lower first. concurrency: None for an open loop, else at most so many requests are in flight
    and arrival_ns is ignored. provenance: where the requests come from, JSON-safe.
    content: each prompt as (content id, tokens) pieces, for shared prefixes; None if nothing is shared.
    """

    arrival_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    priority: Ints
    concurrency: int | None
    provenance: Mapping[str, object]
    content: Sequence[Content] | None = None

    def __post_init__(self) -> None:
        lengths = {len(c) for c in (self.arrival_ns, self.prompt_tokens, self.output_tokens, self.priority)}
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

    def __len__(self) -> int:
        return len(self.arrival_ns)

    def head(self, count: int) -> RequestSet:
        """The first `count` requests."""
        return RequestSet(
            self.arrival_ns[:count], self.prompt_tokens[:count], self.output_tokens[:count],
            self.priority[:count], self.concurrency, {**self.provenance, "head": count},
            None if self.content is None else self.content[:count],
        )  # fmt: skip

    @property
    def offered_rate_rps(self) -> float | None:
        """Requests per second over the span of arrivals; None for a closed loop or a single instant."""
        span = int(self.arrival_ns[-1] - self.arrival_ns[0])
        return None if self.concurrency is not None or span == 0 else (len(self) - 1) * NS_PER_S / span
