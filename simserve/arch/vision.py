"""From an image to what an encoder works on and what a language model reads: patches and tokens.

Native resolution: sides rounded to whole tokens, `round(H / (patch merge)) round(W / (patch merge))` of them, scaled
where the area is outside the processor's limits [known: transformers' `smart_resize`; exact for EPD-Serve's table,
arXiv 2601.11590]. Tiles: `simserve.arch.tiles`. Markers around an image (two tokens under Qwen) are not counted.
A video of native resolution is an image per `temporal_patch_size` frames, each attending to itself [known: Qwen2_5_VL
of transformers]; of tiles, a single tile per frame [guessed, as InternVL's examples do].

A pass over several images, rows being patches and class tokens of all of them:

    patch embedding, L x (qkv, attention, proj, MLP) on rows; merger, resampler and projector on tokens

Attention is bidirectional over the patches of one image, tile or window. Left out: the resampler's own attention (0.1 %
of a slice's FLOP), interpolation of position tables, and resizing on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor, sqrt

from simserve.arch.bidirectional import EncoderOps, Rows, Split
from simserve.arch.ops import Attention, Gemm
from simserve.arch.tiles import slice_patches, tiles
from simserve.spec.vision import VisionSpec


def image_rows(vision: VisionSpec, height: int, width: int, frames: int = 1) -> Rows:
    """Rows of an encoder pass over an image, or a video of so many frames, in the groups that attend to one another.

    720 x 1280 under Qwen2.5-VL: 4,784 patches in one group.
    """
    tiling = vision.tiling
    if tiling is None:
        high, wide = native_size(vision, height, width)
        groups = -(-frames // vision.temporal_patch_size)
        return (high * wide // vision.patch_size**2,) * groups
    if frames > 1:
        height = width = tiling.tile_size
    if tiling.rule == "minicpmv":
        return slice_patches(tiling, height, width, vision.patch_size) * frames
    each = (tiling.tile_size // vision.patch_size) ** 2 + vision.class_token
    count = tiles(tiling, height, width)
    return ((each * count,) if tiling.joint_attention else (each,) * count) * frames


def native_size(vision: VisionSpec, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels to which an image is scaled, whole tokens of each side."""
    unit = vision.token_pixels
    high, wide = (max(unit, round(side / unit) * unit) for side in (height, width))
    least, most = vision.min_pixels or 0, vision.max_pixels or high * wide
    if high * wide > most:
        shrink = sqrt(height * width / most)
        high, wide = (max(unit, floor(side / shrink / unit) * unit) for side in (height, width))
    elif high * wide < least:
        grow = sqrt(least / (height * width))
        high, wide = (ceil(side * grow / unit) * unit for side in (height, width))
    return high, wide


def tokens_of(vision: VisionSpec, rows: Rows) -> int:
    """Tokens that an encoder makes of an image's rows."""
    tiling = vision.tiling
    if tiling is None:
        return sum(rows) // vision.spatial_merge_size**2
    return sum(rows) if tiling.joint_attention else tiling.tokens_per_tile * len(rows)


def image_tokens(vision: VisionSpec, height: int, width: int, frames: int = 1) -> int:
    """Tokens of an image: 1,196 of 720 x 1280 with 14-pixel patches and a merge of 2."""
    return tokens_of(vision, image_rows(vision, height, width, frames))


def prompt_tokens_of(vision: VisionSpec, rows: Rows) -> int:
    """Prompt tokens of an image: its tokens, or its marker alone where layers of cross attention read them."""
    return 1 if vision.cross_attention_layers else tokens_of(vision, rows)


def vision_ops(vision: VisionSpec, tensor_parallel_size: int = 1) -> EncoderOps:
    """The operations of a pass on one rank; Infeasible naming the divisor where heads or MLP columns do not divide."""
    split = Split(vision, tensor_parallel_size, "vision")
    out, ranks = vision.out_hidden_size, tensor_parallel_size
    kv: tuple[Gemm, ...] = ()
    queries: tuple[Gemm, ...] = ()
    if vision.resampler_queries:
        kv = (Gemm("resampler_kv_proj", out, vision.hidden_size, 1), Gemm("resampler_kv", 2 * out // ranks, out, 1))
        queries = (Gemm("resampler_out", 2 * out // ranks, out, 1),)  # queries and output
    return EncoderOps(
        rows=(Gemm("patch_embed", vision.hidden_size, vision.patch_values, 1), *split.layers(), *kv),
        tokens=(*queries, *split.projector(vision.projectors)),
        attentions=tuple(_attentions(vision, split.heads)),
        row_passes=tuple(split.passes(rotary=vision.tiling is None)),
        row_reduces=split.row_reduces(),
        token_reduces=split.token_reduces(vision.projectors),
    )


def _attentions(vision: VisionSpec, heads: int) -> Iterable[Attention]:
    if vision.window_size is None:
        yield Attention(heads, heads, vision.head_dim, vision.num_layers)
        return
    window = (vision.window_size // vision.patch_size) ** 2
    yield Attention(heads, heads, vision.head_dim, vision.full_attention_layers)
    yield Attention(heads, heads, vision.head_dim, vision.num_layers - vision.full_attention_layers, window)
