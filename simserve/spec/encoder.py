"""What encoders of images and of audio have in common: layers that attend both ways, and a projector."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from simserve.spec.base import Spec


class EncoderSpec(Spec):
    """Layers over the rows of an input, and what projects its tokens to the language model's width.

    gated_mlp: gate, up and down, else up and down alone; projector: widths of the layers of the MLP that makes a token,
    the last is out_hidden_size; projector_input: values that it reads for one token; small_parameters: biases, norms,
    position tables, gates and learned queries, those that the language model has for such inputs alone included.
    """

    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    gated_mlp: bool = False
    projector: tuple[PositiveInt, ...] = Field(min_length=1)
    projector_input: PositiveInt
    out_hidden_size: PositiveInt
    small_parameters: NonNegativeInt = 0

    @model_validator(mode="after")
    def _projects(self) -> EncoderSpec:
        if self.projector[-1] != self.out_hidden_size:
            raise ValueError(f"projector ends at {self.projector[-1]}, out_hidden_size is {self.out_hidden_size}")
        return self
