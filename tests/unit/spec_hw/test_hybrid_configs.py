"""config.json of Qwen3.5, DeepSeek-V3.2 and GLM-5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.arch.memory import parameter_count
from simserve.errors import SpecError
from simserve.spec.model import checkpoint_formats, import_hf_config, load_model

LINEAR, FULL = "linear_attention", "full_attention"
TEXT: dict[str, Any] = {
    "attention_bias": False, "attn_output_gate": True, "dtype": "bfloat16", "head_dim": 256, "hidden_act": "silu",
    "hidden_size": 4096, "layer_types": [LINEAR, LINEAR, LINEAR, FULL] * 15, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 64, "linear_value_head_dim": 128,
    "max_position_embeddings": 262144, "mlp_only_layers": [], "model_type": "qwen3_5_moe_text",
    "moe_intermediate_size": 1024, "num_attention_heads": 32, "num_experts": 512, "num_experts_per_tok": 10,
    "num_hidden_layers": 60, "num_key_value_heads": 2, "shared_expert_intermediate_size": 1024, "vocab_size": 248320,
    "mamba_ssm_dtype": "float32",
}  # fmt: skip
QWEN: dict[str, Any] = {
    "model_type": "qwen3_5_moe", "text_config": TEXT, "vision_config": {"depth": 27}, "tie_word_embeddings": False,
}  # fmt: skip
GLM: dict[str, Any] = {
    "attention_bias": False, "dtype": "bfloat16", "first_k_dense_replace": 3, "hidden_act": "silu", "head_dim": 64,
    "hidden_size": 6144, "index_head_dim": 128, "index_n_heads": 32, "index_topk": 2048, "intermediate_size": 12288,
    "kv_lora_rank": 512, "max_position_embeddings": 202752, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "model_type": "glm_moe_dsa", "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 78, "num_key_value_heads": 64, "q_lora_rank": 2048,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "tie_word_embeddings": False, "topk_method": "noaux_tc",
    "v_head_dim": 256, "vocab_size": 154880,
}  # fmt: skip
V32: dict[str, Any] = {
    **GLM, "model_type": "deepseek_v32", "hidden_size": 7168, "head_dim": None, "index_n_heads": 64,
    "intermediate_size": 18432, "max_position_embeddings": 163840, "num_attention_heads": 128, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "v_head_dim": 128, "vocab_size": 129280,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip


def _write(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("config", "name"),
    [(QWEN, "Qwen/Qwen3.5-397B-A17B"), (GLM, "zai-org/GLM-5"), (V32, "deepseek-ai/DeepSeek-V3.2")],
)
def test_configs_import_as_the_models_ship(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    """Every size equal; what an nvfp4 checkpoint keeps is not in this file."""
    imported, shipped = import_hf_config(_write(tmp_path, config), name=name), load_model(name)
    ignore = {"sources", "aliases", "published_parameters", "nvfp4_keeps"}
    assert shipped.model_dump(exclude=ignore) == imported.model_dump(exclude=ignore)


def test_a_text_config_alone_is_the_same_decoder(tmp_path: Path) -> None:
    """As text-only checkpoints have it; layers by their interval where they are not named."""
    text = {key: value for key, value in TEXT.items() if key != "layer_types"}
    whole = import_hf_config(_write(tmp_path, QWEN), name="x")
    assert import_hf_config(_write(tmp_path, {**text, "full_attention_interval": 4}), name="x") == whole
    assert import_hf_config(_write(tmp_path, text), name="x") == whole


def test_a_dense_hybrid_has_an_mlp(tmp_path: Path) -> None:
    """Qwen3.5-27B: 64 layers, 48 nets of 48 value heads; 26.9 billion without draft and vision, 27.8 published."""
    sizes = {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64, "num_attention_heads": 24,
             "num_key_value_heads": 4, "linear_num_value_heads": 48, "layer_types": [LINEAR, LINEAR, LINEAR, FULL] * 16}
    experts = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size")
    text = {key: value for key, value in {**TEXT, **sizes}.items() if key not in experts}
    model = import_hf_config(_write(tmp_path, {**QWEN, "model_type": "qwen3_5", "text_config": text}))
    assert model.experts is None
    assert model.linear is not None
    assert (model.linear.linear_layers, model.attention_layers) == (48, 16)
    assert parameter_count(model) == 26_895_998_464


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (QWEN, {"text_config": {**TEXT, "layer_types": [FULL] * 3}}, "layer_types: must name every layer"),
    (QWEN, {"text_config": {**TEXT, "layer_types": ["mamba"] * 60}}, "layer_types: must name every layer"),
    (QWEN, {"text_config": {**TEXT, "linear_num_key_heads": None}}, "linear_num_key_heads: missing in this config"),
    (QWEN, {"text_config": {**TEXT, "layer_types": [LINEAR] * 60}}, "must leave a layer of full attention"),
    (QWEN, {"model_type": "qwen3"}, "text_config: a multimodal or nested config is not supported"),
    (GLM, {"index_topk": None}, "index_topk: missing in this config.json"),
    (GLM, {"index_topk_freq": 4}, "index_topk_freq: layers that share an index are not supported (got 4)"),
    (GLM, {"index_topk_pattern": "FSS"}, "index_topk_pattern: layers that share an index"),
    (GLM, {"model_type": "deepseek_v3"}, "index_topk: sparse attention is not supported"),
    (GLM, {"kv_lora_rank": None}, "sparse attention needs latent attention"),
]


@pytest.mark.parametrize(("base", "changes", "problem"), REFUSED, ids=[p[:40] for *_, p in REFUSED])
def test_what_cannot_be_represented_is_refused(
    tmp_path: Path, base: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    """One line that names file and field."""
    path = _write(tmp_path, {**base, **changes})
    with pytest.raises(SpecError) as raised:
        import_hf_config(path)
    message = str(raised.value)
    assert problem in message
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1


def test_names_of_the_records() -> None:
    """The silicon sample calls GLM-5 by its maker's other name; FP8 checkpoints of both are scaled in blocks."""
    assert load_model("zhipuai/GLM-5").sparse == load_model("zai-org/GLM-5").sparse
    for name in ("zai-org/GLM-5-FP8", "Qwen/Qwen3.5-397B-A17B-FP8"):
        assert checkpoint_formats(name) == ("fp8_block", "")
