"""Distributions of token counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from simserve.spec.base import Spec

LONGEST = 1 << 30  # tokens of one request, far beyond any context window


class LengthSpec(Spec):
    """A distribution of token counts, at least 1.

    fixed: value; uniform: low..high inclusive, or value and on both sides of it as far as its share `spread`;
    lognormal: mean and std of the variable itself, clipped to [min, max]; empirical: drawn with replacement from
    values, or from a column of the CSV file at path. A path that ends in .json or .json.gz is a list of numbers, or of
    objects whose key `column` has them.
    """

    kind: Literal["fixed", "uniform", "lognormal", "empirical"]
    value: int | None = Field(default=None, ge=1, le=LONGEST)
    low: int | None = Field(default=None, ge=1, le=LONGEST)
    high: int | None = Field(default=None, ge=1, le=LONGEST)
    spread: float | None = Field(default=None, gt=0, lt=1)
    mean: float | None = Field(default=None, ge=1, le=LONGEST)
    std: float | None = Field(default=None, gt=0, le=LONGEST)
    min: int | None = Field(default=None, ge=1, le=LONGEST)
    max: int | None = Field(default=None, ge=1, le=LONGEST)
    values: tuple[Annotated[int, Field(ge=1, le=LONGEST)], ...] | None = Field(default=None, min_length=1)
    path: str | None = None
    column: str | None = None

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> LengthSpec:
        if self.kind == "empirical":
            needed = ["values"] if self.path is None else ["path", "column"]
            if self.path is not None and self.column is None and is_json(self.path):
                needed = ["path"]
        else:
            needed = {"fixed": ["value"], "uniform": ["low", "high"], "lognormal": ["mean", "std"]}[self.kind]
            if self.kind == "uniform" and self.spread is not None:
                needed = ["value", "spread"]
        known = ["value", "low", "high", "spread", "mean", "std", "values", "path", "column"]
        if self.kind != "lognormal":
            known += ["min", "max"]
        exactly(self, self.kind, needed, known)
        in_order(self)
        return self

    @property
    def ends(self) -> tuple[int, int]:
        """Of a uniform one, both included."""
        if self.spread is None:
            return self.low or 1, self.high or 1
        aside = int((self.value or 1) * self.spread)
        return max(1, (self.value or 1) - aside), (self.value or 1) + aside


def is_json(path: str) -> bool:
    """Whether a file of lengths is read as JSON, not as CSV."""
    return path.lower().endswith((".json", ".json.gz"))


def exactly(spec: Spec, kind: str, needed: list[str], known: list[str]) -> None:
    """ValueError unless all of `needed` and nothing else of `known` is set."""
    missing = [name for name in needed if getattr(spec, name) is None]
    if missing:
        raise ValueError(f"{kind} needs {' and '.join(missing)}")
    extra = [name for name in known if name not in needed and getattr(spec, name) is not None]
    if extra:
        raise ValueError(f"{kind} has no {' nor '.join(extra)}")


def in_order(spec: Spec) -> None:
    """ValueError for a low end above the high one, or a min above max."""
    for low, high in (("low", "high"), ("min", "max")):
        first, second = getattr(spec, low), getattr(spec, high)
        if first is not None and second is not None and first > second:
            raise ValueError(f"{low} {first} is larger than {high} {second}")
