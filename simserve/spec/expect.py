"""What a study expects of its result, for `simserve check`; `search` and `simulate` leave it alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, create_model, model_validator
from pydantic.fields import FieldInfo

from simserve.spec.base import Spec
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.shapes import OnlyText

_PERCENTAGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def _share(value: Any) -> Any:
    """'2%' is 0.02; a bare number would leave open whether 2 is 2 % or twice as much."""
    found = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a percentage such as 2%")
    return float(found[1]) / 100


Share = Annotated[float, BeforeValidator(_share), OnlyText(rf"^{_PERCENTAGE.pattern}$")]


class BoundSpec(Spec):
    """The range that a metric must lie in, ends included, in the metric's own unit; None: no bound on that side."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _bounds(cls, value: Any) -> Any:
        """A metric may have any name, so what is no metric shows here first."""
        if not isinstance(value, Mapping):
            raise ValueError(f"must be bounds such as {{max: 5}}; other than metrics there are {', '.join(FIELDS)}")
        for key in value:
            if key not in cls.model_fields:
                raise ValueError(f"unknown bound {key!r}; there are min and max")
        return value

    @model_validator(mode="after")
    def _has_room(self) -> BoundSpec:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is larger than max {self.max:g}")
        return self


class ToleranceSpec(Spec):
    """By name of a metric, how much worse than the baseline it may be, as a share of it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Share] = Field(init=False)

    @property
    def metrics(self) -> dict[str, float]:
        """By name, in the order of the file."""
        return dict(self.__pydantic_extra__)


def _or_absent(field: FieldInfo) -> Any:
    """The type of a key with its limits, or None."""
    kind: Any = field.annotation
    for limit in field.metadata:
        kind = Annotated[kind, limit]
    return kind | None


# Every key of a deployment with its own type, none of them needed: a winner is stated in part.
_KEYS: dict[str, Any] = {name: (_or_absent(field), None) for name, field in DeploymentSpec.model_fields.items()}
WinnerSpec = create_model("WinnerSpec", __base__=Spec, **_KEYS)


class ExpectSpec(Spec):
    """Expectations of the winner of a search, or of the one deployment that is simulated.

    slo_met: whether it meets the SLO; winner: the keys of its deployment that must be as stated; ties: a configuration
    that ties with the winner may stand for it; baseline: file with an earlier result, relative to the study; tolerance:
    which metrics may be how much worse than there. Every other key is a metric, with bounds.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, BoundSpec] = Field(init=False)

    slo_met: bool | None = None
    winner: WinnerSpec | None = None  # type: ignore[valid-type]
    ties: bool = False
    baseline: str | None = Field(default=None, min_length=1)
    tolerance: ToleranceSpec | None = None

    @property
    def bounds(self) -> dict[str, BoundSpec]:
        """By name of a metric, in the order of the file."""
        return dict(self.__pydantic_extra__)

    @model_validator(mode="after")
    def _expects_something(self) -> ExpectSpec:
        if self.slo_met is None and self.winner is None and self.baseline is None and not self.bounds:
            raise ValueError(f"expects nothing; give bounds on a metric, or one of {', '.join(FIELDS)}")
        if (self.baseline is None) != (self.tolerance is None or not self.tolerance.metrics):
            raise ValueError("baseline and tolerance go together: which metrics may be how much worse than there")
        if self.winner is not None and not self.winner.model_fields_set:
            raise ValueError("winner names no key of a deployment")
        if self.ties and self.winner is None:
            raise ValueError("ties is for winner")
        return self


FIELDS = tuple(ExpectSpec.model_fields)
