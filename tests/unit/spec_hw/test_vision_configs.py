"""config.json of Qwen3-VL and Qwen2.5-VL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.spec.model import ModelSpec, import_hf_config, load_model, to_yaml

# Keys and values of the checkpoints' config.json as recalled, less token ids and rope_scaling.
QWEN3_TEXT: dict[str, Any] = {
    "attention_bias": False, "dtype": "bfloat16", "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 12288, "max_position_embeddings": 262144, "model_type": "qwen3_vl_text",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "vocab_size": 151936,
}  # fmt: skip
QWEN3_VISION: dict[str, Any] = {
    "deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152,
    "in_channels": 3, "intermediate_size": 4304, "model_type": "qwen3_vl", "num_heads": 16,
    "num_position_embeddings": 2304, "out_hidden_size": 4096, "patch_size": 16, "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}  # fmt: skip
QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "text_config": QWEN3_TEXT,
    "tie_word_embeddings": False, "vision_config": QWEN3_VISION,
}  # fmt: skip
QWEN3_4B: dict[str, Any] = {
    **QWEN3, "tie_word_embeddings": True,
    "text_config": {**QWEN3_TEXT, "hidden_size": 2560, "intermediate_size": 9728},
    "vision_config": {**QWEN3_VISION, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096,
                      "out_hidden_size": 2560, "deepstack_visual_indexes": [5, 11, 17]},
}  # fmt: skip
QWEN25: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "hidden_act": "silu", "hidden_size": 3584,
    "intermediate_size": 18944, "max_position_embeddings": 128000, "max_window_layers": 28,
    "model_type": "qwen2_5_vl", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_sliding_window": False,
    "vocab_size": 152064,
    "vision_config": {
        "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
        "in_chans": 3, "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14,
        "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip


def imported(folder: Path, content: dict[str, Any], name: str = "me/mine") -> ModelSpec:
    """Out of a file with this content."""
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return import_hf_config(path, name=name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("Qwen/Qwen3-VL-8B-Instruct", QWEN3), ("Qwen/Qwen3-VL-4B-Instruct", QWEN3_4B),
     ("Qwen/Qwen2.5-VL-7B-Instruct", QWEN25)],
)  # fmt: skip
def test_they_import_as_they_ship(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    """Every field equal, the encoder's included; and they come back from the YAML that they are written to."""
    ignore = {"sources", "aliases", "published_parameters"}
    found = imported(tmp_path, content, name)

    assert load_model(name).model_dump(exclude=ignore) == found.model_dump(exclude=ignore)
    written = tmp_path / "again.yaml"
    written.write_text(to_yaml(found), encoding="utf-8")
    assert load_model(str(written)) == found


def test_a_decoder_may_be_nested_or_flat(tmp_path: Path) -> None:
    """transformers 5 writes Qwen2.5-VL's decoder in text_config."""
    outer = ("model_type", "architectures", "vision_config", "tie_word_embeddings")
    text = {key: value for key, value in QWEN25.items() if key not in outer}
    nested = {key: QWEN25[key] for key in outer} | {"text_config": {**text, "model_type": "qwen2_5_vl_text"}}

    assert imported(tmp_path, nested) == imported(tmp_path, QWEN25)


def test_what_a_vision_config_leaves_out_is_the_class_s(tmp_path: Path) -> None:
    """Patches, heads, windows and deepstack layers as released; sizes must be there."""
    sizes = ("depth", "hidden_size", "intermediate_size", "out_hidden_size")
    for config in (QWEN3, QWEN25):
        bare = {**config, "vision_config": {key: config["vision_config"][key] for key in sizes}}
        assert imported(tmp_path, bare) == imported(tmp_path, config)


def test_fp8_checkpoints_keep_the_encoder(tmp_path: Path) -> None:
    """Their format is the language model's."""
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    found = imported(tmp_path, {**QWEN3, "quantization_config": quantised})

    assert found.checkpoint_dtype == "fp8_block"
    assert found.vision == imported(tmp_path, QWEN3).vision


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"vision_config": None}, "vision_config: missing in this config.json"),
        ({"vision_config": {**QWEN3_VISION, "depth": None}}, "vision_config.depth: missing in this config.json"),
        ({"vision_config": {**QWEN3_VISION, "num_heads": 7}}, "num_heads: does not divide hidden_size 1152"),
        ({"vision_config": {**QWEN3_VISION, "patch_size": "16"}}, "vision_config.patch_size: must be a whole number"),
        ({"vision_config": {**QWEN3_VISION, "deepstack_visual_indexes": 3}}, "must be a list of layers (got 3)"),
        ({"vision_config": {**QWEN3_VISION, "out_hidden_size": 2048}},
         "vision.out_hidden_size 2048 is not hidden_size 4096"),
        ({"text_config": {**QWEN3_TEXT, "num_hidden_layers": None}}, "num_hidden_layers: missing in this config.json"),
        ({"text_config": {**QWEN3_TEXT, "num_experts": 128}}, "num_experts: a mixture of experts is not a dense model"),
        ({"model_type": "qwen3_vl_moe"}, "text_config: a multimodal or nested config is not supported"),
        ({"model_type": "internvl_chat"}, "text_config: a multimodal or nested config is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """Naming file and key."""
    with pytest.raises(SpecError) as raised:
        imported(tmp_path, {**QWEN3, **changes})

    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)
