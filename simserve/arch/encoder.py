"""Encoders of images and of audio alike: a pass, its FLOP, parameters, and bytes of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from simserve.arch.audio import audio_ops, projected_tokens
from simserve.arch.bidirectional import EncoderOps, Rows
from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.vision import tokens_of, vision_ops
from simserve.spec.audio import AudioSpec
from simserve.spec.vision import VisionSpec

AnyEncoder: TypeAlias = VisionSpec | AudioSpec


def encoder_ops(encoder: AnyEncoder, tensor_parallel_size: int = 1) -> EncoderOps:
    """The operations of a pass on one rank; heads and MLP columns are split, all-reduces after attention and MLP.

    Raises Infeasible naming the divisor where they do not divide.
    """
    if isinstance(encoder, AudioSpec):
        return audio_ops(encoder, tensor_parallel_size)
    return vision_ops(encoder, tensor_parallel_size)


def encoded_tokens(encoder: AnyEncoder, inputs: Sequence[Rows]) -> int:
    """Tokens that a pass over the rows of so many inputs makes."""
    if isinstance(encoder, AudioSpec):
        return sum(projected_tokens(encoder, rows) for rows in inputs)
    return sum(tokens_of(encoder, rows) for rows in inputs)


def encoder_flop(encoder: AnyEncoder, inputs: Sequence[Rows]) -> int:
    """Of matrix products and attention in a pass over so many inputs."""
    ops = encoder_ops(encoder)
    rows, tokens = sum(map(sum, inputs)), encoded_tokens(encoder, inputs)
    products = sum(2 * g.n * g.k * g.count * m for gemms, m in ((ops.rows, rows), (ops.tokens, tokens)) for g in gemms)
    pairs = {a: rows * a.window if a.window else sum(n * n for each in inputs for n in each) for a in ops.attentions}
    return products + sum(4 * a.heads * a.head_dim * a.count * count for a, count in pairs.items())


def feature_bytes(encoder: AnyEncoder, tokens: int) -> int:
    """16-bit features of so many tokens, deepstack's included: 8.57 MB for 1,196 of width 3584."""
    rows = 1 if isinstance(encoder, AudioSpec) else 1 + encoder.deepstack_layers
    return tokens * encoder.out_hidden_size * rows * ACTIVATION_BYTES


def encoder_parameters(encoder: AnyEncoder | None) -> int:
    """Parameters of an encoder, its projectors and what else a model has for such inputs alone; 0 for none."""
    if encoder is None:
        return 0
    hidden, attention = encoder.hidden_size, 4 * encoder.num_heads * encoder.head_dim
    layer = hidden * (attention + (3 if encoder.gated_mlp else 2) * encoder.intermediate_size)
    inputs = (encoder.projector_input, *encoder.projector)
    projector = sum(reads * width for reads, width in zip(inputs, encoder.projector, strict=False))
    shared = encoder.num_layers * layer + encoder.small_parameters
    if isinstance(encoder, AudioSpec):
        return shared + projector + hidden * encoder.conv_kernel_size * (encoder.num_mel_bins + hidden)
    matrices = hidden * encoder.patch_values + encoder.projectors * projector
    if encoder.resampler_queries:
        # Keys and values: one projection, then one of three with the queries' in an attention with its output's.
        matrices += encoder.out_hidden_size * (hidden + 4 * encoder.out_hidden_size)
    return shared + matrices


def encoder_weight_bytes(*encoders: AnyEncoder | None) -> int:
    """Bytes of the weights of some encoders in 16 bits, which quantised checkpoints leave them in."""
    return ACTIVATION_BYTES * sum(map(encoder_parameters, encoders))
