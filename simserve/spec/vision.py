"""A vision encoder: what turns an image into rows that a language model reads, in the vocabulary of `config.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from simserve.spec.base import Spec
from simserve.spec.encoder import EncoderSpec

CHANNELS = 3


class TilingSpec(Spec):
    """Images cut into tiles of one size, each encoded to as many tokens.

    rule: whose processor chooses the grid, see `simserve.arch.tiles`; tile_size: pixels of a side (under minicpmv of
    the square whose area a slice has); max_tiles: of a grid, the thumbnail beside them not counted; joint_attention:
    patches see those of all tiles of an image.
    """

    rule: Literal["internvl", "minicpmv", "mllama"]
    tile_size: PositiveInt
    tokens_per_tile: PositiveInt
    max_tiles: PositiveInt
    thumbnail: bool = False
    joint_attention: bool = False


class VisionSpec(EncoderSpec):
    """A ViT and its projectors.

    num_layers: depth; patch_size: pixels of a side; temporal_patch_size: frames of a patch; spatial_merge_size: patches
    of a side that become one token; class_token: one more row per image or tile.
    projectors: as many of them per token, whose outputs are summed, or with deepstack_layers kept: a token is then
    1 + deepstack_layers rows. resampler_queries: tokens of a slice by cross attention of so many learned queries of
    out_hidden_size (MiniCPM-V), 0 for none.
    window_size: pixels of a side of the windows in which all but full_attention_layers attend, None for none.
    min_pixels, max_pixels: to which the processor scales an image, None where unknown. tiling: None for native
    resolution. cross_attention_layers: of the language model, that read image tokens in place of earlier text; image
    tokens are then no prompt tokens.
    """

    patch_size: PositiveInt
    temporal_patch_size: PositiveInt = 1
    spatial_merge_size: PositiveInt = 1
    class_token: bool = False
    projectors: PositiveInt = 1
    deepstack_layers: NonNegativeInt = 0
    resampler_queries: NonNegativeInt = 0
    window_size: PositiveInt | None = None
    full_attention_layers: NonNegativeInt = 0
    min_pixels: PositiveInt | None = None
    max_pixels: PositiveInt | None = None
    tiling: TilingSpec | None = None
    cross_attention_layers: NonNegativeInt = 0

    @model_validator(mode="after")
    def _fits(self) -> VisionSpec:
        if self.deepstack_layers and self.projectors != 1 + self.deepstack_layers:
            raise ValueError(f"{self.deepstack_layers} deepstack_layers need {1 + self.deepstack_layers} projectors")
        if (self.window_size is None) != (self.full_attention_layers == 0):
            raise ValueError("window_size and full_attention_layers need each other")
        if self.full_attention_layers > self.num_layers:
            raise ValueError(f"full_attention_layers must be at most num_layers {self.num_layers}")
        if self.window_size is not None and self.window_size % self.token_pixels:
            raise ValueError(f"window_size must be a multiple of a token's {self.token_pixels} pixels")
        if self.tiling is not None and self.tiling.rule != "minicpmv" and self.tiling.tile_size % self.token_pixels:
            raise ValueError(f"tiling.tile_size must be a multiple of a token's {self.token_pixels} pixels")
        return self

    @property
    def token_pixels(self) -> int:
        """Pixels of a side of what becomes one token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_values(self) -> int:
        """Values of a patch: pixels of all its frames, three channels each."""
        return CHANNELS * self.temporal_patch_size * self.patch_size**2
