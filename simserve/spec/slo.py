"""Service-level objectives: upper bounds on latency at a percentile of the requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.shapes import OrText
from simserve.units import DURATION, NS_PER_MS, parse_duration_ns


def _milliseconds(value: Any) -> Any:
    """A bare number is milliseconds; text must carry a unit of time."""
    return parse_duration_ns(value) / NS_PER_MS if isinstance(value, str) else value


Milliseconds = Annotated[float, BeforeValidator(_milliseconds), Field(gt=0), OrText(DURATION)]


class SloSpec(Spec):
    """What the service promises. Bounds in ms (`500`) or with a unit (`0.5 s`); None: no bound.

    ttft_ms: time to first token; tpot_ms: mean time per output token after the first, of one request;
    e2e_ms: arrival to last token; percentile: of the requests, in (0, 100).
    """

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None
    percentile: float = Field(default=90.0, gt=0, lt=100)

    @model_validator(mode="after")
    def _bounds_something(self) -> SloSpec:
        if self.ttft_ms is None and self.tpot_ms is None and self.e2e_ms is None:
            raise ValueError("an SLO needs at least one of ttft_ms, tpot_ms, e2e_ms")
        return self
