"""Layers that attend both ways: the operations that encoders of images and of audio share.

A pass runs its layers on rows, and a projector on the tokens that they become; attention is within groups of rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.ops import AllReduce, Attention, Elementwise, Gemm
from simserve.errors import Infeasible
from simserve.spec.encoder import EncoderSpec

Rows = tuple[int, ...]  # of one input: how many rows attend to one another, for each such group


@dataclass(frozen=True, slots=True)
class EncoderOps:
    """One pass on one rank. rows: what runs on patches or positions; tokens: on the tokens that they become.

    attentions: `window` is the number of rows that attend to one another, 0 for all of a group.
    """

    rows: tuple[Gemm, ...]
    tokens: tuple[Gemm, ...]
    attentions: tuple[Attention, ...]
    row_passes: tuple[Elementwise, ...]
    row_reduces: tuple[AllReduce, ...] = ()
    token_reduces: tuple[AllReduce, ...] = ()

    @property
    def launches(self) -> int:
        """Operations that the host launches."""
        parts = (self.rows, self.tokens, self.attentions, self.row_passes, self.row_reduces, self.token_reduces)
        return sum(op.count for ops in parts for op in ops)


@dataclass(frozen=True, slots=True)
class Split:
    """An encoder's heads and MLP columns on each of so many ranks.

    Raises Infeasible naming the divisor where they do not divide. what: whose heads they are.
    """

    encoder: EncoderSpec
    ranks: int
    what: str

    def __post_init__(self) -> None:
        for count, name in ((self.encoder.num_heads, "heads"), (self.encoder.intermediate_size, "MLP columns")):
            if count % self.ranks:
                raise Infeasible(
                    f"tensor_parallel_size {self.ranks} does not divide the {count} {name} of the {self.what} encoder"
                )

    @property
    def heads(self) -> int:
        """Attention heads of a rank."""
        return self.encoder.num_heads // self.ranks

    @property
    def width(self) -> int:
        """Values of a rank's heads."""
        return self.heads * self.encoder.head_dim

    @property
    def columns(self) -> int:
        """Of the MLP."""
        return self.encoder.intermediate_size // self.ranks

    def layers(self) -> Iterable[Gemm]:
        """On rows."""
        hidden, layers = self.encoder.hidden_size, self.encoder.num_layers
        up = ("gate_up_proj", 2 * self.columns) if self.encoder.gated_mlp else ("up_proj", self.columns)
        yield Gemm("qkv_proj", 3 * self.width, hidden, layers)
        yield Gemm("o_proj", hidden, self.width, layers)
        yield Gemm(*up, hidden, layers)
        yield Gemm("down_proj", hidden, self.columns, layers)

    def passes(self, *, rotary: bool) -> Iterable[Elementwise]:
        """Between the GEMMs, each reading its inputs and writing its outputs once."""
        row, layers = ACTIVATION_BYTES * self.encoder.hidden_size, self.encoder.num_layers
        yield Elementwise("add_norm", 4 * row, 2 * layers + 1)
        if rotary:
            yield Elementwise("rotary", 4 * ACTIVATION_BYTES * self.width, layers)
        mlp = (3 if self.encoder.gated_mlp else 2) * ACTIVATION_BYTES * self.columns
        yield Elementwise("activation", mlp, layers)

    def projector(self, count: int = 1) -> Iterable[Gemm]:
        """On tokens, by columns and by rows in turn, as engines split two layers; count: projectors of a token."""
        reads = self.encoder.projector_input
        for index, width in enumerate(self.encoder.projector):
            n, k = (width // self.ranks, reads) if index % 2 == 0 else (width, reads // self.ranks)
            yield Gemm(f"projector_{index + 1}", n, k, count)
            reads = width

    def row_reduces(self) -> tuple[AllReduce, ...]:
        """After attention and MLP of each layer."""
        row = ACTIVATION_BYTES * self.encoder.hidden_size
        return (AllReduce(row, 2 * self.encoder.num_layers, self.ranks),) if self.ranks > 1 else ()

    def token_reduces(self, count: int = 1) -> tuple[AllReduce, ...]:
        """Of the projectors' outputs."""
        token = ACTIVATION_BYTES * self.encoder.out_hidden_size
        return (AllReduce(token, count, self.ranks),) if self.ranks > 1 else ()
