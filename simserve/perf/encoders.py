"""What the encoders of a model take together: inputs of either kind go through their own, one pass after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from simserve.arch.bidirectional import Rows
from simserve.perf.vision import EncoderCost
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec


class Encoded(Protocol):
    """An input: rows for the encoder of this name."""

    @property
    def modality(self) -> str:
        """As in `ModelSpec.encoders`."""

    @property
    def rows(self) -> Rows:
        """In the groups that attend to one another."""


class Encoders:
    """Prices of all encoders of a model, `by_name`. Keywords are those of `EncoderCost`."""

    def __init__(self, gpu: GpuSpec, model: ModelSpec, *, tensor_parallel_size: int, eager_ns_per_op: int) -> None:
        self.by_name = {
            name: EncoderCost(
                gpu, encoder, tensor_parallel_size=tensor_parallel_size, eager_ns_per_op=eager_ns_per_op
            )
            for name, encoder in model.encoders.items()
        }

    def encode_ns(self, inputs: Sequence[Encoded]) -> int:
        """A pass over those of each encoder; 0 for none."""
        return sum(
            cost.encode_ns([each.rows for each in inputs if each.modality == name])
            for name, cost in self.by_name.items()
        )

    def provenance(self) -> dict[str, Any]:
        """The tables behind the prices, with what their provenance says."""
        return {table: said for cost in self.by_name.values() for table, said in cost.provenance().items()}
