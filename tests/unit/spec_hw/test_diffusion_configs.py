"""Diffusion language models: what ships, and their config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.arch.memory import kv_bytes_per_token, parameter_count, weight_bytes
from simserve.errors import SpecError
from simserve.spec.model import ModelSpec, import_hf_config, load_model, model_names

LLADA_NAME, DREAM_NAME = "GSAI-ML/LLaDA-8B-Instruct", "Dream-org/Dream-v0-Instruct-7B"
# Keys and values of a public copy of the checkpoint's config.json, less those of training.
LLADA: dict[str, Any] = {
    "activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"],
    "attention_layer_norm": False, "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False,
    "block_group_size": 1, "block_type": "llama", "d_model": 4096, "embedding_size": 126464, "include_bias": False,
    "include_qkv_bias": False, "input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True,
    "mask_token_id": 126336, "max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4,
    "model_type": "llada", "multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32,
    "precision": "amp_bf16", "rope": True, "rope_theta": 500000.0, "scale_logits": False, "use_cache": False,
    "vocab_size": 126464, "weight_tying": False,
}  # fmt: skip
# As recalled: Qwen2.5-7B's, with a mask and another model type.
DREAM: dict[str, Any] = {
    "architectures": ["DreamModel"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584,
    "intermediate_size": 18944, "mask_token_id": 151666, "max_position_embeddings": 131072, "max_window_layers": 28,
    "model_type": "Dream", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
    "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip


def imported(folder: Path, content: dict[str, Any], name: str = "me/mine") -> ModelSpec:
    """Out of a file with this content."""
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return import_hf_config(path, name=name)


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes", "gigabytes"),
    [(LLADA_NAME, 8_015_581_184, 524_288, 16.03), (DREAM_NAME, 7_615_616_512, 57_344, 15.23)],
)
def test_sizes_of_the_shipped_ones(name: str, parameters: int, kv_bytes: int, gigabytes: float) -> None:
    """8.015 and 7.615 billion parameters; 512 and 56 KiB of KV a token."""
    model = load_model(name)

    assert parameters == parameter_count(model)
    assert kv_bytes == kv_bytes_per_token(model, "auto", 1)
    assert weight_bytes(model, "bf16", 1) / 1e9 == pytest.approx(gigabytes, abs=0.005)


def test_base_models_are_aliases() -> None:
    """What was asked for keeps its name; all else is the same."""
    for name, base in ((LLADA_NAME, "GSAI-ML/LLaDA-8B-Base"), (DREAM_NAME, "Dream-org/Dream-v0-Base-7B")):
        assert load_model(base) == load_model(name).model_copy(update={"name": base})


def test_these_two_alone_are_diffusion_models() -> None:
    """Dream's layers are Qwen2.5-7B's, which adds a token at a time."""
    assert [DREAM_NAME, LLADA_NAME] == [name for name in model_names() if load_model(name).diffusion]

    ignore = {"name", "aliases", "model_type", "max_position_embeddings", "published_parameters", "sources"}
    dream, qwen = load_model(DREAM_NAME), load_model("Qwen/Qwen2.5-7B-Instruct")
    assert dream.model_dump(exclude=ignore) == qwen.model_dump(exclude=ignore)


@pytest.mark.parametrize(("name", "content"), [(LLADA_NAME, LLADA), (DREAM_NAME, DREAM)])
def test_they_import_as_they_ship(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    """Every field equal."""
    ignore = {"sources", "aliases", "published_parameters"}

    assert load_model(name).model_dump(exclude=ignore) == imported(tmp_path, content, name).model_dump(exclude=ignore)


def test_llada_s_own_keys(tmp_path: Path) -> None:
    """Tables have embedding_size rows; what a file leaves out is as in LLaDA's ModelConfig."""
    brief = {k: v for k, v in LLADA.items() if k not in ("mlp_hidden_size", "n_kv_heads", "weight_tying")}
    plain = imported(tmp_path, {**brief, "embedding_size": 126592, "precision": "amp_fp16"})
    assert (plain.intermediate_size, plain.num_key_value_heads, plain.tie_word_embeddings) == (4 * 4096, 32, True)
    assert (plain.vocab_size, plain.torch_dtype) == (126592, "float16")

    other = {"embedding_size": None, "multi_query_attention": True, "include_qkv_bias": True,
             "torch_dtype": "float32", "bias_for_layer_norm": True}  # fmt: skip
    found = imported(tmp_path, {**brief, **other})
    assert (found.vocab_size, found.num_key_value_heads, found.torch_dtype) == (126464, 1, "float32")
    assert (found.attention_bias, found.attention_output_bias, found.mlp_bias, found.norm_bias) == (
        True, False, False, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("alibi", True, "ALiBi is not supported (got True)"),
        ("rope", False, "only rotary position embeddings are supported (got False)"),
        ("activation_type", "gelu", "only silu, which makes a llama block's MLP a SwiGLU, is supported (got 'gelu')"),
        ("block_type", "sequential", "only llama blocks (gate and up projections of their own) are supported"),
        ("layer_norm_type", "default", "only RMS norms are supported (got 'default')"),
        ("layer_norm_with_affine", False, "norms without weights are not supported (got False)"),
        ("attention_layer_norm", True, "norms of queries and keys are not supported in this model type (got True)"),
        ("include_bias", True, "a bias of the LM head and of all other linear layers is not supported (got True)"),
        ("n_layers", None, "missing in this config.json"),
        ("d_model", None, "missing in this config.json"),
        ("precision", None, "missing in this config.json"),
    ],
)
def test_other_layers_are_refused_in_one_line(tmp_path: Path, key: str, value: Any, problem: str) -> None:
    """Each names its key, as the file has it."""
    with pytest.raises(SpecError) as raised:
        imported(tmp_path, {**LLADA, key: value})

    named = "torch_dtype" if key == "precision" else key
    assert str(raised.value).startswith(f"{tmp_path / 'config.json'}: {named}: {problem}")
    assert "\n" not in str(raised.value)


def test_llada_moe_is_no_llada(tmp_path: Path) -> None:
    """It has the same model_type, and other keys; Dream goes through the checks of all decoders."""
    with pytest.raises(SpecError, match="hidden_size: LLaDA's sizes are d_model"):
        imported(tmp_path, {"model_type": "llada", "hidden_size": 2048, "num_hidden_layers": 16})
    with pytest.raises(SpecError, match="hidden_act: only the gated silu MLP"):
        imported(tmp_path, {**DREAM, "hidden_act": "gelu"})
