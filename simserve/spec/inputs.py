"""What images and sounds of a drawn workload have in common: who brings them, how many, and which come again."""

from __future__ import annotations

from pydantic import Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.lengths import LengthSpec

MOST_DISTINCT = 10_000_000


class InputsSpec(Spec):
    """A `share` of the requests has `per_request` of them, one without it.

    distinct: how many different ones there are, None where no two are the same; zipf: the i-th of them is asked for in
    proportion to i^-zipf, None for all alike. Each keeps its size. Their tokens, which depend on the model, come on top
    of `prompt_tokens`, before the text of their request.
    """

    share: float = Field(default=1.0, gt=0, le=1)
    per_request: LengthSpec | None = None
    distinct: int | None = Field(default=None, ge=1, le=MOST_DISTINCT)
    zipf: float | None = Field(default=None, gt=0, le=10)

    @model_validator(mode="after")
    def _repeats(self) -> InputsSpec:
        if self.zipf is not None and self.distinct is None:
            raise ValueError("zipf needs distinct")
        return self
