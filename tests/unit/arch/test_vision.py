"""Images as tokens, patches, bytes and operations: the published cases, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.arch import tiles
from simserve.arch.encoder import encoder_flop, encoder_ops, encoder_parameters, encoder_weight_bytes, feature_bytes
from simserve.arch.memory import image_kv_bytes, kv_bytes_per_token, parameter_count
from simserve.arch.vision import image_rows, image_tokens, prompt_tokens_of, tokens_of
from simserve.errors import Infeasible, SpecError
from simserve.spec.base import parse
from simserve.spec.model import ModelSpec, load_model, model_names
from simserve.spec.vision import VisionSpec

QWEN3, QWEN25, PANGU = "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "openPangu/openPangu-VL-7B"
INTERN, MINICPM = "OpenGVLab/InternVL2_5-26B", "openbmb/MiniCPM-V-2_6"
LLAMA = "meta-llama/Llama-3.2-11B-Vision-Instruct"
OMNI = "Qwen/Qwen2.5-Omni-7B"
# Safetensors totals on huggingface.co, encoder included, typed in here once more.
PUBLISHED = {
    QWEN3: 8_767_123_696, "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808, QWEN25: 8_292_166_656, INTERN: 25_514_186_112,
    MINICPM: 8_099_175_152, LLAMA: 10_670_220_835,
}  # fmt: skip


def vision_of(name: str) -> VisionSpec:
    """A model's encoder."""
    vision = load_model(name).vision
    assert vision is not None
    return vision


def test_models_that_see() -> None:
    """These and no others."""
    assert sorted([*PUBLISHED, PANGU, OMNI]) == [name for name in model_names() if load_model(name).vision]


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_are_the_published_count(name: str, published: int) -> None:
    """Language model and encoder together; two bytes each of the encoder."""
    model = load_model(name)

    assert published == model.published_parameters == parameter_count(model) + encoder_parameters(model.vision)
    assert encoder_weight_bytes(model.vision) == 2 * encoder_parameters(model.vision)
    assert encoder_parameters(None) == 0


def test_parts_that_are_no_matrices_by_hand() -> None:
    """Biases, norms and position tables of Qwen3-VL-8B; norms and biases of Qwen2.5-VL's encoder."""
    layer = 3 * 1152 + 1152 + 4304 + 1152 + 4 * 1152
    merger = 2 * 1152 + 4608 + 4096
    deepstack = 2 * 4608 + 4608 + 4096
    assert vision_of(QWEN3).small_parameters == 1152 + 2304 * 1152 + 27 * layer + merger + 3 * deepstack

    layer = 3 * 1280 + 1280 + 2 * 3420 + 1280 + 2 * 1280
    assert vision_of(QWEN25).small_parameters == 32 * layer + 1280 + 5120 + 3584


def test_qwen3_vl_8b_s_encoder_is_0_58_billion() -> None:
    """EPD-Serve: 0.6 billion, of openPangu 0.7; the language model is Qwen3-8B."""
    assert encoder_parameters(vision_of(QWEN3)) == 576_388_336
    assert encoder_parameters(vision_of(PANGU)) == 725_841_920
    assert parameter_count(load_model(QWEN3)) == parameter_count(load_model("Qwen/Qwen3-8B"))
    assert kv_bytes_per_token(load_model(QWEN3), "auto", 1) == 147_456


@pytest.mark.parametrize(
    ("height", "width", "tokens"),
    [(280, 280, 100), (560, 560, 400), (640, 640, 529), (720, 1280, 1196), (1080, 1920, 2691), (4096, 3112, 16206),
     (652, 802, 667)],
)  # fmt: skip
def test_tokens_of_epd_serve_s_table(height: int, width: int, tokens: int) -> None:
    """round(H / 28) round(W / 28), four patches each."""
    for name in (PANGU, QWEN25):
        assert image_tokens(vision_of(name), height, width) == tokens
        assert image_rows(vision_of(name), height, width) == (4 * tokens,)


def test_features_of_epd_serve_s_table() -> None:
    """8.57 MB of 720 x 1280 at width 3584, 116.2 MB of 4096 x 3112; with deepstack 32 KiB a token."""
    vision = vision_of(QWEN25)

    assert feature_bytes(vision, 1196) == 1196 * 3584 * 2 == 8_572_928
    assert feature_bytes(vision, 16206) / 1e6 == pytest.approx(116.2, abs=0.05)
    assert feature_bytes(vision_of(QWEN3), 1) == 32 << 10


def test_pixels_beyond_the_limits_are_scaled() -> None:
    """Qwen3-VL, 16-pixel patches: 802 x 652 as 25 x 20; half a token rounds to even; limits of 64 and 16,384 tokens."""
    vision = vision_of(QWEN3)

    assert image_tokens(vision, 652, 802) == 20 * 25
    assert image_tokens(vision, 720, 1280) == 22 * 40
    assert image_tokens(vision, 32, 32) == 64
    assert image_tokens(vision, 8192, 8192) == 16384
    assert image_tokens(vision, 10_000, 5_000) == 181 * 90
    assert image_tokens(vision_of(PANGU), 14, 14) == 1


def test_videos_are_encoded_by_pairs_of_frames() -> None:
    """Each pair attends to itself; tiled models encode one tile per frame."""
    vision = vision_of(QWEN25)

    assert image_rows(vision, 560, 560, frames=9) == (1600,) * 5
    assert image_tokens(vision, 560, 560, frames=9) == 2000
    assert image_rows(vision_of(INTERN), 896, 896, frames=3) == (1025,) * 3
    assert image_rows(vision_of(MINICPM), 1000, 2000, frames=2) == (1024,) * 2


def test_modserve_s_tokens_of_896_pixels() -> None:
    """Llama 3.2: 4 tiles of 1601 that attend to one another; InternVL: 4 tiles and a thumbnail of 256."""
    llama, intern = vision_of(LLAMA), vision_of(INTERN)

    assert image_rows(llama, 896, 896) == (4 * 1601,)
    assert image_tokens(llama, 896, 896) == 6404
    assert image_rows(intern, 896, 896) == (1025,) * 5
    assert image_tokens(intern, 896, 896) == 1280


@pytest.mark.parametrize(
    ("name", "height", "width", "grid", "tiles_in_all"),
    [
        (INTERN, 448, 448, (1, 1), 1), (INTERN, 448, 896, (2, 1), 3), (INTERN, 800, 1200, (3, 2), 7),
        (INTERN, 3000, 4000, (4, 3), 13), (INTERN, 300, 5000, (12, 1), 13),
        (MINICPM, 448, 448, (1, 1), 1), (MINICPM, 3024, 4032, (3, 3), 10), (MINICPM, 448, 896, (2, 1), 3),
        (MINICPM, 600, 2400, (7, 1), 8), (MINICPM, 1000, 1000, (2, 2), 5),
        (LLAMA, 560, 560, (1, 1), 1), (LLAMA, 200, 1000, (2, 1), 2), (LLAMA, 1500, 300, (1, 3), 3),
        (LLAMA, 3000, 3000, (2, 2), 4),
    ],
)  # fmt: skip
def test_grids_of_tiles(name: str, height: int, width: int, grid: tuple[int, int], tiles_in_all: int) -> None:
    """(columns, rows) by hand, and the thumbnail that only a cut image has."""
    tiling = vision_of(name).tiling
    assert tiling is not None

    assert tiles.tile_grid(tiling, height, width) == grid
    assert tiles.tiles(tiling, height, width) == tiles_in_all


def test_slices_of_minicpm() -> None:
    """4032 x 3024: nine slices and the whole, 640 tokens; 34 x 30 patches of 4 : 3, none far from 1,024."""
    vision = vision_of(MINICPM)
    rows = image_rows(vision, 3024, 4032)

    # 448 / sqrt(4 / 3) = 387 high, 516 wide: 28 x 37 patches
    assert rows == (28 * 37,) * 10
    assert tokens_of(vision, rows) == 640
    assert image_rows(vision, 100, 100) == (1024,)


def test_layers_of_cross_attention_take_no_prompt_tokens() -> None:
    """Llama 3.2 keeps 4 KiB a token of an image in each of 8 layers; others read images as prompts."""
    llama, intern = load_model(LLAMA), load_model(INTERN)
    assert llama.vision is not None

    assert prompt_tokens_of(llama.vision, (6404,)) == 1
    assert prompt_tokens_of(vision_of(INTERN), (1025,) * 5) == 1280
    assert image_kv_bytes(llama, 6404) == 6404 * 8 * 2 * 8 * 128 * 2
    assert image_kv_bytes(intern, 1280) == 0


@pytest.mark.parametrize("name", [*PUBLISHED, PANGU])
def test_matrices_of_a_pass_are_those_of_the_parameters(name: str) -> None:
    """Every weight but norms, biases and tables is in a GEMM."""
    vision = vision_of(name)
    ops = encoder_ops(vision)

    assert sum(g.n * g.k * g.count for g in (*ops.rows, *ops.tokens)) == (
        encoder_parameters(vision) - vision.small_parameters
    )


def test_flop_of_a_pass_by_hand() -> None:
    """Qwen3-VL-8B, 802 x 652: 2,000 patches through 27 layers, 500 tokens through four mergers."""
    layer = 2 * 2000 * (4 * 1152 * 1152 + 2 * 1152 * 4304) + 4 * 2000**2 * 1152
    mergers = 4 * 2 * 500 * (4608 * 4608 + 4608 * 4096)

    assert encoder_flop(vision_of(QWEN3), [(2000,)]) == 2 * 2000 * 1536 * 1152 + 27 * layer + mergers


def test_windows_are_most_of_the_layers() -> None:
    """Qwen2.5-VL: windows of 8 x 8 patches in 28 layers, whole images in 4."""
    whole, windows = encoder_ops(vision_of(QWEN25)).attentions

    assert (whole.count, whole.window) == (4, 0)
    assert (windows.count, windows.window) == (28, 64)


def test_ranks_split_heads_and_columns() -> None:
    """All ranks together hold the layers' matrices once; what does not divide is refused."""
    vision = vision_of(QWEN3)
    whole, half = encoder_ops(vision), encoder_ops(vision, 2)
    one, two = ([g for g in ops.rows if g.name != "patch_embed"] for ops in (whole, half))

    assert [2 * g.n * g.k for g in two] == [g.n * g.k for g in one]
    assert (half.row_reduces[0].count, half.row_reduces[0].bytes_per_token) == (54, 2304)
    assert whole.row_reduces == whole.token_reduces == ()
    with pytest.raises(Infeasible, match="tensor_parallel_size 8 does not divide the 3420 MLP columns"):
        encoder_ops(vision_of(QWEN25), 8)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"projector": [4608, 2048]}, "projector ends at 2048, out_hidden_size is 4096"),
        ({"projectors": 1}, "3 deepstack_layers need 4 projectors"),
        ({"window_size": 112}, "window_size and full_attention_layers need each other"),
        ({"window_size": 100, "full_attention_layers": 4}, "window_size must be a multiple of a token's 32 pixels"),
        ({"window_size": 64, "full_attention_layers": 40}, "full_attention_layers must be at most num_layers 27"),
        ({"projector": [64], "out_hidden_size": 64}, "vision.out_hidden_size 64 is not hidden_size 4096"),
        ({"cross_attention_layers": 36}, "vision.cross_attention_layers must leave a layer"),
        ({"depth": 3}, "unknown key"),
        ({"tiling": {"rule": "internvl", "tile_size": 100, "tokens_per_tile": 9, "max_tiles": 4}},
         "tiling.tile_size must be a multiple"),
    ],
)  # fmt: skip
def test_what_fits_no_encoder_is_refused_in_one_line(changes: dict[str, Any], problem: str) -> None:
    """Naming the key."""
    fields = load_model(QWEN3).model_dump(mode="json")
    with pytest.raises(SpecError) as raised:
        parse(ModelSpec, {**fields, "vision": {**fields["vision"], **changes}}, file="m.yaml")

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_models_of_text_alone_dump_as_before() -> None:
    """No key of images, so that fingerprints of searches stay; the others come back from what they dump."""
    assert "vision" not in load_model("Qwen/Qwen3-8B").model_dump(mode="json")
    model = load_model(QWEN25)
    assert ModelSpec.model_validate(model.model_dump(mode="json")) == model
    assert hash(model) != hash(model.model_copy(update={"vision": None}))
