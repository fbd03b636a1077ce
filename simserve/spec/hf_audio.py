"""What `config.json` of Qwen2-Audio says: a decoder in `text_config`, an encoder in `audio_config`.

Layers, and defaults of keys that are left out, are those of transformers' Qwen2AudioEncoderConfig and Qwen2Config; that
every sound is filled up to one window and cut off there is its processor's, which config.json does not tell [known].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.errors import SpecError

QWEN2_AUDIO = "qwen2_audio"
_DECODER = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}  # the released config leaves out
_ENCODER = {
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
    "max_source_positions": 1500,
}  # fmt: skip
_POOL = 2  # positions whose average is a token (Qwen2AudioEncoder)


def audio_decoder_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's own keys of a config of this family beside the outer ones; any other config as it is."""
    if config.get("model_type") != QWEN2_AUDIO:
        return config
    outer = {key: value for key, value in config.items() if key not in ("text_config", "audio_config")}
    inner = config.get("text_config")
    return {**_DECODER, **outer, **(inner if isinstance(inner, dict) else {}), "model_type": QWEN2_AUDIO}


def audio_fields(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """`audio` of ModelSpec out of a whole config.json; {} for other families. SpecError for what it cannot say."""
    if config.get("model_type") != QWEN2_AUDIO:
        return {}
    own = config.get("audio_config")
    if not isinstance(own, dict):
        raise SpecError("missing in this config.json", file=file, key="audio_config")
    said = {**_ENCODER, **{key: value for key, value in own.items() if value is not None}}
    out = audio_decoder_keys(dict(config))["hidden_size"]  # to which the projector leads
    for key, value in {"hidden_size": out, **{f"audio_config.{key}": said[key] for key in _ENCODER}}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SpecError("must be a whole number of at least 1", file=file, key=key, value=value)
    hidden, heads, mlp = said["d_model"], said["encoder_attention_heads"], said["encoder_ffn_dim"]
    if hidden % heads:
        key = "audio_config.encoder_attention_heads"
        raise SpecError(f"does not divide d_model {hidden}", file=file, key=key, value=heads)
    positions = said["max_source_positions"]
    # Biases but of keys, two norms a layer; biases of two convolutions, a table of positions, a norm, the projector's.
    layer = 3 * hidden + mlp + hidden + 4 * hidden
    small = 2 * hidden + positions * hidden + said["encoder_layers"] * layer + 2 * hidden + out
    return {"audio": {
        "num_layers": said["encoder_layers"], "hidden_size": hidden, "num_heads": heads, "head_dim": hidden // heads,
        "intermediate_size": mlp, "projector": [out], "projector_input": hidden, "out_hidden_size": out,
        "small_parameters": small, "num_mel_bins": said["num_mel_bins"], "pool_size": _POOL, "window": positions,
        "padded": True, "max_windows": 1,
    }}  # fmt: skip
