"""Sounds that requests of a drawn workload bring with them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.inputs import InputsSpec
from simserve.spec.lengths import LengthSpec, exactly, in_order
from simserve.units import MS_PER_S

Seconds = Annotated[float, Field(ge=0.001, le=1e6)]


class DurationSpec(Spec):
    """A distribution of durations in seconds, to the millisecond; kinds and keys are those of `LengthSpec`."""

    kind: Literal["fixed", "uniform", "lognormal", "empirical"]
    value: Seconds | None = None
    low: Seconds | None = None
    high: Seconds | None = None
    mean: Seconds | None = None
    std: Seconds | None = None
    min: Seconds | None = None
    max: Seconds | None = None
    values: tuple[Seconds, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> DurationSpec:
        kinds = {"fixed": ["value"], "uniform": ["low", "high"], "lognormal": ["mean", "std"], "empirical": ["values"]}
        known = [name for names in kinds.values() for name in names]
        exactly(self, self.kind, kinds[self.kind], known if self.kind == "lognormal" else [*known, "min", "max"])
        in_order(self)
        return self

    @property
    def in_ms(self) -> LengthSpec:
        """The same in whole milliseconds."""
        numbers = {name: value for name, value in self if isinstance(value, float)}
        in_ms: dict[str, object] = {name: round(value * MS_PER_S) for name, value in numbers.items()}
        if self.values is not None:
            in_ms["values"] = tuple(round(value * MS_PER_S) for value in self.values)
        return LengthSpec.model_validate({"kind": self.kind, **in_ms})


class SoundsSpec(InputsSpec):
    """Sounds of a workload, as many seconds each as `duration_s` says."""

    duration_s: DurationSpec
