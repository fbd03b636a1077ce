"""An audio encoder of Whisper's class: what turns sound into rows that a language model reads.

    waveform -> mel frames -> convolution -> convolution of a stride -> layers over positions -> pooling -> projector
"""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from simserve.spec.encoder import EncoderSpec


class AudioSpec(EncoderSpec):
    """num_mel_bins: values of a mel frame, of which there are frames_per_second; conv_kernel_size: frames that either
    convolution reads; conv_stride: frames that the second one makes one position; pool_size: positions that become one
    token. window: positions that attend to one another; padded: the last window is filled up with silence, which the
    encoder works on and whose tokens are dropped; max_windows: the sound beyond them is cut off, None for no limit.
    """

    num_mel_bins: PositiveInt
    frames_per_second: PositiveInt = 100
    conv_kernel_size: PositiveInt = 3
    conv_stride: PositiveInt = 2
    pool_size: PositiveInt = 1
    window: PositiveInt
    padded: bool = False
    max_windows: PositiveInt | None = None

    @model_validator(mode="after")
    def _fits(self) -> AudioSpec:
        if self.window % self.pool_size:
            raise ValueError(f"window must be a multiple of pool_size {self.pool_size}")
        return self
