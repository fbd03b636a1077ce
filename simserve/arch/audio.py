"""From sound to what an encoder works on and what a language model reads: positions, tokens, windows.

    frames = ceil(seconds frames_per_second)
    positions = ceil(frames / conv_stride)
    tokens = floor(positions / pool_size)

[known: Qwen2AudioProcessor of transformers: ceil(3000 / 2) = 1,500 and 750 of 30 s, 25 tokens a second]. Markers around
a sound (two tokens under Qwen) are not counted, as those of images are not. Windows are filled up under `padded`: any
sound of at most 30 s is 1,500 rows for Qwen2-Audio.

    convolutions, L x (qkv, attention, proj, MLP) on positions; projector on tokens, those of the silence too

A convolution of stride 1 is a GEMM per frame, so as many per position as the second one's stride. Ranks split the
layers as those of vision encoders [guessed: some engines keep audio encoders whole on each]. Left out: mel spectra,
which the host computes, and pooling.
"""

from __future__ import annotations

from simserve.arch.bidirectional import EncoderOps, Rows, Split
from simserve.arch.ops import Attention, Gemm
from simserve.spec.audio import AudioSpec
from simserve.units import MS_PER_S


def audio_positions(audio: AudioSpec, duration_ms: int) -> int:
    """Positions of a sound after the convolutions, what is cut off not counted: 500 of 10 s for Qwen2-Audio."""
    frames = -(-duration_ms * audio.frames_per_second // MS_PER_S)
    positions = -(-frames // audio.conv_stride)
    return positions if audio.max_windows is None else min(positions, audio.max_windows * audio.window)


def audio_rows(audio: AudioSpec, duration_ms: int) -> Rows:
    """Rows of an encoder pass over a sound, in the windows that attend to one another."""
    whole, rest = divmod(audio_positions(audio, duration_ms), audio.window)
    last = () if rest == 0 else (audio.window if audio.padded else rest,)
    return (audio.window,) * whole + last


def audio_tokens(audio: AudioSpec, duration_ms: int) -> int:
    """Tokens of a sound, at least one: 250 of 10 s for Qwen2-Audio."""
    return max(1, audio_positions(audio, duration_ms) // audio.pool_size)


def projected_tokens(audio: AudioSpec, rows: Rows) -> int:
    """Tokens that the projector works on, those of the silence too."""
    return max(1, sum(rows) // audio.pool_size)


def audio_ops(audio: AudioSpec, tensor_parallel_size: int = 1) -> EncoderOps:
    """The operations of a pass on one rank; Infeasible naming the divisor where heads or MLP columns do not divide."""
    split = Split(audio, tensor_parallel_size, "audio")
    hidden, taps = audio.hidden_size, audio.conv_kernel_size
    return EncoderOps(
        rows=(Gemm("conv_1", hidden, taps * audio.num_mel_bins, audio.conv_stride),
              Gemm("conv_2", hidden, taps * hidden, 1), *split.layers()),
        tokens=tuple(split.projector()),
        attentions=(Attention(split.heads, split.heads, audio.head_dim, audio.num_layers),),
        row_passes=tuple(split.passes(rotary=False)),
        row_reduces=split.row_reduces(),
        token_reduces=split.token_reduces(),
    )  # fmt: skip
