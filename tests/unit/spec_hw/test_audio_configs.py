"""The config.json of Qwen2-Audio gives the model file; what it cannot say is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.cli.main import main
from simserve.errors import SpecError
from simserve.spec.model import ModelSpec, import_hf_config, load_model, to_yaml

NAME = "Qwen/Qwen2-Audio-7B-Instruct"
AUDIO: dict[str, Any] = {
    "model_type": "qwen2_audio_encoder", "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120, "d_model": 1280, "activation_function": "gelu", "scale_embedding": False,
    "max_source_positions": 1500,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "intermediate_size": 11008, "max_position_embeddings": 8192, "model_type": "qwen2", "rope_theta": 10000,
    "rms_norm_eps": 1e-5, "sliding_window": 32768, "torch_dtype": "bfloat16", "use_mrope": False, "vocab_size": 156032,
}  # fmt: skip
# As released, without the ids of special tokens.
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2AudioForConditionalGeneration"], "audio_config": AUDIO, "ignore_index": -100,
    "model_type": "qwen2_audio", "text_config": TEXT, "vocab_size": 156032,
}  # fmt: skip


def imported(folder: Path, content: dict[str, Any]) -> ModelSpec:
    """Out of a file with this content."""
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return import_hf_config(path, name=NAME)


def test_it_imports_as_it_ships(tmp_path: Path) -> None:
    """Every field equal, the encoder's included; and it comes back from the YAML that it is written to."""
    ignore = {"sources", "aliases", "published_parameters"}
    found = imported(tmp_path, CONFIG)

    assert load_model(NAME).model_dump(exclude=ignore) == found.model_dump(exclude=ignore)
    written = tmp_path / "again.yaml"
    written.write_text(to_yaml(found), encoding="utf-8")
    assert load_model(str(written)) == found


def test_what_a_config_leaves_out_is_the_class_s(tmp_path: Path) -> None:
    """All of the encoder's sizes as released, and the decoder's width; what it says counts."""
    assert imported(tmp_path, {**CONFIG, "audio_config": {}}) == imported(tmp_path, CONFIG)
    small = {**TEXT, "hidden_size": 2048, "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 2}
    audio = {**AUDIO, "d_model": 768, "encoder_attention_heads": 12, "encoder_layers": 12}
    found = imported(tmp_path, {**CONFIG, "text_config": small, "audio_config": audio})

    assert (found.hidden_size, found.num_hidden_layers, found.num_key_value_heads) == (2048, 20, 2)
    assert found.audio is not None
    assert (found.audio.hidden_size, found.audio.head_dim, found.audio.projector) == (768, 64, (2048,))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"audio_config": None}, "audio_config: missing in this config.json"),
        ({"audio_config": {**AUDIO, "encoder_attention_heads": 7}}, "encoder_attention_heads: does not divide d_model"),
        ({"audio_config": {**AUDIO, "encoder_layers": "32"}}, "audio_config.encoder_layers: must be a whole number"),
        ({"text_config": {**TEXT, "hidden_size": "4096", "head_dim": 128}}, "hidden_size: must be a whole number"),
        ({"text_config": {**TEXT, "num_experts": 8}}, "num_experts: a mixture of experts is not a dense model"),
        ({"text_config": None, "vision_config": {"depth": 3}}, "vision_config: a multimodal or nested config"),
        ({"model_type": "voxtral", "text_config": None}, "audio_config: a multimodal or nested config"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    """Naming file and key."""
    with pytest.raises(SpecError) as raised:
        imported(tmp_path, {**CONFIG, **changes})

    assert problem in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_models_show_what_becomes_of_sounds(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, tokens and features by duration, beside the parameters of the encoder."""
    assert main(["models", "show", NAME]) == 0
    told = capsys.readouterr().out

    assert "audio encoder: 0.64 B parameters" in told
    (ten,) = [line.split() for line in told.splitlines() if " 10 s " in line]
    assert [word for word in ten if word[0].isdigit()] == ["10", "1500", "250", "2.05"]
