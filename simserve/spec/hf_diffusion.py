"""What `config.json` of diffusion language models (LLaDA, Dream) says, in the keys of other decoders.

Their layers are those of a decoder whose attention looks both ways. LLaDA's keys and defaults are those of OLMo, from
whose code its ModelConfig was made; Dream's are Qwen2's, but for its model type's capital.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.errors import SpecError, nearest_name
from simserve.spec.model import DIFFUSION

LLADA, DREAM = DIFFUSION
_NAMES = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "max_sequence_length": "max_position_embeddings",
}
# Key, LLaDA's default, the values that a ModelSpec can say, and why no other.
_WANTED: tuple[tuple[str, Any, tuple[Any, ...], str], ...] = (
    ("block_type", "sequential", ("llama",), "only llama blocks (gate and up projections of their own) are supported"),
    ("activation_type", "swiglu", ("silu",), "only silu, which makes a llama block's MLP a SwiGLU, is supported"),
    ("alibi", False, (False,), "ALiBi is not supported"),
    ("rope", False, (True,), "only rotary position embeddings are supported"),
    ("layer_norm_type", "default", ("rms",), "only RMS norms are supported"),
    ("layer_norm_with_affine", True, (True,), "norms without weights are not supported"),
    ("include_bias", False, (False,), "a bias of the LM head and of all other linear layers is not supported"),
    ("attention_layer_norm", False, (False,), "norms of queries and keys are not supported in this model type"),
)
_PRECISIONS = {"amp_bf16": "bfloat16", "amp_fp16": "float16", "fp32": "float32"}


def diffusion_keys(config: dict[str, Any], file: str) -> dict[str, Any]:
    """A LLaDA or Dream config with the keys that other decoders have; any other config as it is.

    SpecError for layers that a ModelSpec cannot say.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind.lower() == DREAM:
        return {**config, "model_type": DREAM}
    if kind != LLADA:
        return config
    if config.get("hidden_size") is not None and config.get("d_model") is None:
        problem = "LLaDA's sizes are d_model, n_layers and so on; LLaDA-MoE's config is not supported"
        raise SpecError(problem, file=file, key="hidden_size", value=config["hidden_size"])
    for key, default, allowed, why in _WANTED:
        if (value := config.get(key, default)) not in allowed:
            raise SpecError(why, file=file, key=key, value=value)
    return {**config, **_sizes(config, file)}


def diffusion_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ModelSpec that LLaDA names in its own way; {} for other families."""
    if config["model_type"] != LLADA:
        return {}
    return {
        "attention_bias": bool(config.get("include_qkv_bias")),
        "norm_bias": bool(config.get("bias_for_layer_norm")),
    }


def _sizes(config: dict[str, Any], file: str) -> dict[str, Any]:
    """embedding_size: the rows that the tables have, vocab_size where it says none."""
    own = {name: _required(config, key, file) for key, name in _NAMES.items()}
    width = config.get("mlp_hidden_size")
    if width is None and isinstance(own["hidden_size"], int):
        width = own["hidden_size"] * config.get("mlp_ratio", 4)
    whole = 1 if config.get("multi_query_attention") else own["num_attention_heads"]
    heads = config.get("n_kv_heads")
    dtype = config.get("dtype") or config.get("torch_dtype") or _PRECISIONS.get(str(config.get("precision")))
    return {
        **own,
        "intermediate_size": width,
        "num_key_value_heads": whole if heads is None else heads,
        "vocab_size": config.get("embedding_size") or _required(config, "vocab_size", file),
        "tie_word_embeddings": config.get("weight_tying", True),
        "torch_dtype": dtype,
    }


def _required(config: dict[str, Any], key: str, file: str) -> Any:
    if config.get(key) is None:
        near = nearest_name(key, [k for k in config if k != key])
        raise SpecError("missing in this config.json", file=file, key=key, nearest=near)
    return config[key]
