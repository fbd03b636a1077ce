"""From an image to what an encoder works on and what a language model reads: patches, tokens, bytes of features.

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.ops import AllReduce, Attention, Elementwise, Gemm
from simserve.arch.tiles import slice_patches, tiles
from simserve.errors import Infeasible
from simserve.spec.vision import VisionSpec

Rows = tuple[int, ...]  # of one image: how many rows attend to one another, for each such group


@dataclass(frozen=True, slots=True)
class EncoderOps:
    """One pass on one rank. rows: what runs on patches; tokens: on the tokens that they become.

    attentions: `window` is the number of patches that attend to one another, 0 for all of an image or tile.
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


def feature_bytes(vision: VisionSpec, tokens: int) -> int:
    """16-bit features of so many tokens, deepstack's included: 8.57 MB for 1,196 of width 3584."""
    return tokens * vision.out_hidden_size * (1 + vision.deepstack_layers) * ACTIVATION_BYTES


def encoder_ops(vision: VisionSpec, tensor_parallel_size: int = 1) -> EncoderOps:
    """The operations of a pass on one rank; heads and MLP columns are split, all-reduces after attention and MLP.

    Raises Infeasible naming the divisor where they do not divide.
    """
    ranks = tensor_parallel_size
    for count, what in ((vision.num_heads, "heads"), (vision.intermediate_size, "MLP columns")):
        if count % ranks:
            raise Infeasible(f"tensor_parallel_size {ranks} does not divide the {count} {what} of the vision encoder")
    hidden, layers = vision.hidden_size, vision.num_layers
    width, columns = vision.num_heads * vision.head_dim // ranks, vision.intermediate_size // ranks
    up = ("gate_up_proj", 2 * columns) if vision.gated_mlp else ("up_proj", columns)
    out = vision.out_hidden_size
    resampled = (Gemm("resampler_kv_proj", out, hidden, 1), Gemm("resampler_kv", 2 * out // ranks, out, 1))
    row = ACTIVATION_BYTES * hidden
    return EncoderOps(
        rows=(Gemm("patch_embed", hidden, vision.patch_values, 1), Gemm("qkv_proj", 3 * width, hidden, layers),
              Gemm("o_proj", hidden, width, layers), Gemm(*up, hidden, layers),
              Gemm("down_proj", hidden, columns, layers), *(resampled if vision.resampler_queries else ())),
        tokens=tuple(_projector(vision, ranks)),
        attentions=tuple(_attentions(vision, ranks)),
        row_passes=tuple(_passes(vision, width, columns)),
        row_reduces=(AllReduce(row, 2 * layers, ranks),) if ranks > 1 else (),
        token_reduces=(AllReduce(ACTIVATION_BYTES * out, vision.projectors, ranks),) if ranks > 1 else (),
    )  # fmt: skip


def _projector(vision: VisionSpec, ranks: int) -> Iterable[Gemm]:
    """By columns and by rows in turn, as engines split two layers; what reads for a token is the merged patches."""
    if vision.resampler_queries:
        out = vision.out_hidden_size
        yield Gemm("resampler_out", 2 * out // ranks, out, 1)  # queries and output
    reads = vision.projector_input
    for index, width in enumerate(vision.projector):
        n, k = (width // ranks, reads) if index % 2 == 0 else (width, reads // ranks)
        yield Gemm(f"projector_{index + 1}", n, k, vision.projectors)
        reads = width


def _attentions(vision: VisionSpec, ranks: int) -> Iterable[Attention]:
    heads = vision.num_heads // ranks
    if vision.window_size is None:
        yield Attention(heads, heads, vision.head_dim, vision.num_layers)
        return
    window = (vision.window_size // vision.patch_size) ** 2
    yield Attention(heads, heads, vision.head_dim, vision.full_attention_layers)
    yield Attention(heads, heads, vision.head_dim, vision.num_layers - vision.full_attention_layers, window)


def _passes(vision: VisionSpec, width: int, columns: int) -> Iterable[Elementwise]:
    """Between the GEMMs, each reading its inputs and writing its outputs once."""
    row, layers = ACTIVATION_BYTES * vision.hidden_size, vision.num_layers
    yield Elementwise("add_norm", 4 * row, 2 * layers + 1)
    if vision.tiling is None:
        yield Elementwise("rotary", 4 * ACTIVATION_BYTES * width, layers)
    yield Elementwise("activation", (3 if vision.gated_mlp else 2) * ACTIVATION_BYTES * columns, layers)


def encoder_flop(vision: VisionSpec, images: Sequence[Rows]) -> int:
    """Of matrix products and attention in a pass over so many images."""
    ops = encoder_ops(vision)
    rows, tokens = sum(map(sum, images)), sum(tokens_of(vision, image) for image in images)
    products = sum(2 * g.n * g.k * g.count * m for gemms, m in ((ops.rows, rows), (ops.tokens, tokens)) for g in gemms)
    pairs = {a: rows * a.window if a.window else sum(n * n for image in images for n in image) for a in ops.attentions}
    return products + sum(4 * a.heads * a.head_dim * a.count * count for a, count in pairs.items())
