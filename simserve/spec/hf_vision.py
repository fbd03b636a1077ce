"""What `config.json` of Qwen3-VL and Qwen2.5-VL says: a decoder, flat or in `text_config`, and a `vision_config`.

Layers, and defaults of keys that are left out, are those of transformers' Qwen3VLVisionConfig and
Qwen2_5_VLVisionConfig; limits of pixels are the released preprocessors', which config.json does not tell [recalled].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.errors import SpecError, nearest_name

FAMILIES = QWEN3_VL, QWEN2_5_VL = ("qwen3_vl", "qwen2_5_vl")
_DEFAULTS: dict[str, dict[str, Any]] = {
    QWEN3_VL: {"num_heads": 16, "patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2,
               "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24]},
    QWEN2_5_VL: {"num_heads": 16, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
                 "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
}  # fmt: skip
_LISTS = ("deepstack_visual_indexes", "fullatt_block_indexes")
_PIXELS = {QWEN3_VL: (65_536, 16_777_216), QWEN2_5_VL: (3_136, 12_845_056)}
_SIZES = ("depth", "hidden_size", "intermediate_size", "out_hidden_size")


def decoder_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's own keys of a config of these families beside the outer ones; any other config as it is."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        return config
    outer = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
    inner = config.get("text_config")
    return {**outer, **(inner if isinstance(inner, dict) else {}), "model_type": kind}


def vision_fields(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """`vision` of ModelSpec out of a whole config.json; {} for other families. SpecError for what it cannot say."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        return {}
    own = config.get("vision_config")
    if not isinstance(own, dict):
        raise SpecError("missing in this config.json", file=file, key="vision_config")
    said = {**_DEFAULTS[kind], **{key: value for key, value in own.items() if value is not None}}
    for key in (*_SIZES, *_DEFAULTS[kind]):
        _check(said, key, file)
    hidden, heads = said["hidden_size"], said["num_heads"]
    if hidden % heads:
        raise SpecError(f"does not divide hidden_size {hidden}", file=file, key="vision_config.num_heads", value=heads)
    merged = hidden * said["spatial_merge_size"] ** 2
    low, high = _PIXELS[kind]
    return {"vision": {
        "num_layers": said["depth"], "hidden_size": hidden, "num_heads": heads, "head_dim": hidden // heads,
        **{key: said[key] for key in ("intermediate_size", "patch_size", "temporal_patch_size", "spatial_merge_size")},
        "projector": [merged, said["out_hidden_size"]], "projector_input": merged,
        "out_hidden_size": said["out_hidden_size"], "min_pixels": low, "max_pixels": high,
        **(_qwen3(said) if kind == QWEN3_VL else _qwen25(said)),
    }}  # fmt: skip


def _check(said: Mapping[str, Any], key: str, file: str) -> None:
    """Sizes are whole numbers of at least 1, layers are listed."""
    value, name = said.get(key), f"vision_config.{key}"
    if value is None:
        raise SpecError("missing in this config.json", file=file, key=name, nearest=nearest_name(key, said))
    if key in _LISTS:
        if not isinstance(value, list):
            raise SpecError("must be a list of layers", file=file, key=name, value=value)
    elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError("must be a whole number of at least 1", file=file, key=name, value=value)


def _qwen3(said: Mapping[str, Any]) -> dict[str, Any]:
    """Biases everywhere, layer norms, a table of positions; a merger of its own for each deepstack layer."""
    hidden, out = said["hidden_size"], said["out_hidden_size"]
    merged, stacked = hidden * said["spatial_merge_size"] ** 2, len(said["deepstack_visual_indexes"])
    layer = 3 * hidden + hidden + said["intermediate_size"] + hidden + 4 * hidden
    mergers = 2 * hidden + 2 * merged * stacked + (1 + stacked) * (merged + out)
    return {
        "projectors": 1 + stacked,
        "deepstack_layers": stacked,
        "small_parameters": hidden * (1 + said["num_position_embeddings"]) + said["depth"] * layer + mergers,
    }


def _qwen25(said: Mapping[str, Any]) -> dict[str, Any]:
    """Biases but of the patches, RMS norms, a gated MLP; windows in all but a few layers."""
    hidden, full = said["hidden_size"], len(said["fullatt_block_indexes"])
    layer = 3 * hidden + hidden + 2 * said["intermediate_size"] + hidden + 2 * hidden
    merger = hidden + hidden * said["spatial_merge_size"] ** 2 + said["out_hidden_size"]
    return {
        "gated_mlp": True,
        "window_size": said["window_size"],
        "full_attention_layers": full,
        "small_parameters": said["depth"] * layer + merger,
    }
