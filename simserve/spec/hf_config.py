"""`config.json` of a Hugging Face decoder -> ModelSpec; what cannot be represented exactly is refused.

Dense llama, mistral, qwen2, qwen3; experts: mixtral, qwen3_moe, minimax_m2, gpt_oss; latent attention and experts:
deepseek_v3, kimi_k2; with sparse attention: deepseek_v32, glm_moe_dsa; with gated delta nets: qwen3_5, qwen3_5_moe
(hf_hybrid.py); opt (hf_opt.py); diffusion language models: llada, Dream (hf_diffusion.py); with a vision encoder:
qwen3_vl, qwen2_5_vl (hf_vision.py); with an audio encoder: qwen2_audio (hf_audio.py). Multi-token prediction layers are
left out: nothing drafts with them here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simserve.errors import SpecError, nearest_name
from simserve.paths import nearest_file
from simserve.spec.base import parse
from simserve.spec.hf_audio import QWEN2_AUDIO, audio_decoder_keys, audio_fields
from simserve.spec.hf_diffusion import DREAM, LLADA, diffusion_fields, diffusion_keys
from simserve.spec.hf_hybrid import NESTED, SPARSE, hybrid_fields, unnested
from simserve.spec.hf_opt import OPT, opt_fields, opt_keys
from simserve.spec.hf_vision import QWEN2_5_VL, QWEN3_VL, decoder_keys, vision_fields
from simserve.spec.model import LatentSpec, ModelSpec

# Fields that, when set to anything but null, false, 0 or [], mean: no decoder of the kinds above.
_REFUSED = {
    "text_config": "a multimodal or nested config is not supported",
    "vision_config": "a multimodal or nested config is not supported",
    "audio_config": "a multimodal or nested config is not supported",
    "block_configs": "layers of different shapes are not supported",
    "hybrid_override_pattern": "hybrid (state-space) layers are not supported",
    "attn_logit_softcapping": "soft-capped attention is not supported",
    "is_encoder_decoder": "an encoder-decoder is not supported",
    "index_topk": "sparse attention is not supported",
    "mlp_only_layers": "layers of different shapes are not supported",
}
# The same for dense model types.
_NOT_DENSE = {
    "num_experts": "a mixture of experts is not a dense model",
    "num_local_experts": "a mixture of experts is not a dense model",
    "n_routed_experts": "a mixture of experts is not a dense model",
    "kv_lora_rank": "multi-head latent attention is not supported in this model type",
}
_COPIED = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)


@dataclass(frozen=True, slots=True)
class _Class:
    """What a Hugging Face model class assumes for keys that its config.json leaves out.

    kv_heads: None means as many as attention heads; head_dim: None means hidden_size / heads. experts: the key that
    counts them, '' for a dense model; expert_size: the key of an expert's width; windowed: layers may have a window.
    """

    kv_heads: int | None
    head_dim: int | None = None
    qkv_bias: bool = False
    reads_attention_bias: bool = True
    qk_norm: bool = False
    windowed_by_default: bool = False
    experts: str = ""
    expert_size: str = "moe_intermediate_size"
    windowed: bool = False
    qk_norm_whole: bool = False


_MLP = "intermediate_size"
# Defaults of transformers 4.57: LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config and those of the expert models.
_CLASSES = {
    "llama": _Class(kv_heads=None),
    "mistral": _Class(kv_heads=8, reads_attention_bias=False, windowed_by_default=True),
    "qwen2": _Class(kv_heads=32, qkv_bias=True, reads_attention_bias=False),
    "qwen3": _Class(kv_heads=32, head_dim=128, qk_norm=True),
    "mixtral": _Class(kv_heads=8, reads_attention_bias=False, experts="num_local_experts", expert_size=_MLP),
    "qwen3_moe": _Class(kv_heads=4, qk_norm=True, experts="num_experts"),
    "minimax_m2": _Class(kv_heads=8, qk_norm=True, qk_norm_whole=True, experts="num_local_experts", expert_size=_MLP),
    "gpt_oss": _Class(kv_heads=8, head_dim=64, experts="num_local_experts", expert_size=_MLP, windowed=True),
    "deepseek_v3": _Class(kv_heads=None, experts="n_routed_experts"),
    "kimi_k2": _Class(kv_heads=None, experts="n_routed_experts"),
    "deepseek_v32": _Class(kv_heads=None, experts="n_routed_experts"),
    "glm_moe_dsa": _Class(kv_heads=None, experts="n_routed_experts"),
    "qwen3_5": _Class(kv_heads=4, head_dim=256, qk_norm=True),
    "qwen3_5_moe": _Class(kv_heads=2, head_dim=256, qk_norm=True, experts="num_experts"),
    OPT: _Class(kv_heads=None),
    LLADA: _Class(kv_heads=None, reads_attention_bias=False),
    DREAM: _Class(kv_heads=32, qkv_bias=True, reads_attention_bias=False),
    QWEN3_VL: _Class(kv_heads=32, head_dim=128, qk_norm=True),
    QWEN2_5_VL: _Class(kv_heads=8, qkv_bias=True, reads_attention_bias=False),
    QWEN2_AUDIO: _Class(kv_heads=32, qkv_bias=True, reads_attention_bias=False),
}


def read_hf_config(path: Path, name: str | None = None) -> ModelSpec:
    """The model described by `path`, a config.json or a folder that holds one. SpecError otherwise."""
    path = path / "config.json" if path.is_dir() else path
    file = str(path)
    whole = _read_json(path)
    config = diffusion_keys(opt_keys(audio_decoder_keys(decoder_keys(unnested(whole))), file), file)
    _refuse(config, file)
    family = _CLASSES[config["model_type"]]
    fields: dict[str, Any] = {key: _required(config, key, file) for key in _COPIED}
    fields |= _attention(config, family, file)
    if family.experts:
        fields["experts"] = _experts(config, family, file)
    if config.get("kv_lora_rank"):
        fields["latent"] = {key: _required(config, key, file) for key in LatentSpec.model_fields}
    if family.windowed:
        fields |= _windows(config, file)
    fields |= hybrid_fields(config, file) | opt_fields(config) | diffusion_fields(config) | vision_fields(whole, file)
    fields |= audio_fields(whole, file) | _formats(config)
    fields |= {
        "name": name or _name(path),
        "model_type": config["model_type"],
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "mlp_bias": config.get("mlp_bias", False),
        "torch_dtype": _torch_dtype(config, file),
        "sources": [f"imported from {path.name}"],
    }
    return parse(ModelSpec, fields, file=file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("no such file", file=str(path), nearest=nearest_file(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read: {error}", file=str(path)) from None
    except RecursionError:
        raise SpecError("not a config.json: nested too deeply", file=str(path)) from None
    except json.JSONDecodeError as error:
        raise SpecError(f"not valid JSON: {error.msg}", file=str(path), line=error.lineno) from None
    if not isinstance(config, dict):
        raise SpecError("a config.json holds one JSON object", file=str(path))
    return config


def _refuse(config: Mapping[str, Any], file: str) -> None:
    for key, why in _REFUSED.items():
        if config.get(key) and not (key == "index_topk" and config.get("model_type") in SPARSE):
            value = config[key] if isinstance(config[key], (int, float)) else None
            raise SpecError(why, file=file, key=key, value=value)
    kind = _required(config, "model_type", file)
    if not isinstance(kind, str) or kind not in _CLASSES:
        known = ", ".join(_CLASSES)
        problem = f"not a model type this can import; it imports {known}"
        raise SpecError(problem, file=file, key="model_type", value=kind)
    for key, why in _NOT_DENSE.items():
        if config.get(key) and not _CLASSES[kind].experts:
            raise SpecError(why, file=file, key=key, value=config[key])
    if config.get("hidden_act", "silu") != "silu":
        raise SpecError(
            "only the gated silu MLP is supported", file=file, key="hidden_act", value=config["hidden_act"]
        )
    _refuse_windows(config, file)
    _refuse_quantised(config, file)


def _refuse_windows(config: Mapping[str, Any], file: str) -> None:
    """Sliding windows cap the KV cache and the attention of a request: not a plain dense model."""
    if _CLASSES[config["model_type"]].windowed or config["model_type"] in NESTED:
        return
    layers = config.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise SpecError("only full-attention layers are supported", file=file, key="layer_types")
    window = config.get("sliding_window")
    in_use = _first(config.get("use_sliding_window"), _CLASSES[config["model_type"]].windowed_by_default)
    reach = _required(config, "max_position_embeddings", file)
    covers_all = isinstance(window, int) and isinstance(reach, int) and window >= reach
    if in_use and window is not None and not covers_all:
        problem = "sliding-window attention is not supported"
        raise SpecError(problem, file=file, key="sliding_window", value=window)


def _refuse_quantised(config: Mapping[str, Any], file: str) -> None:
    quantised = config.get("quantization_config")
    if quantised is None:
        return
    # ModelOpt names the format in quant_algo, everybody else in quant_method.
    method = quantised
    if isinstance(quantised, dict):
        method = _first(quantised.get("quant_algo"), quantised.get("quant_method"))
    if str(method).lower() not in ("fp8", "mxfp4"):
        raise SpecError(
            "only unquantised, fp8 and mxfp4 checkpoints are supported",
            file=file,
            key="quantization_config",
            value=method,
        )


def _experts(config: Mapping[str, Any], family: _Class, file: str) -> dict[str, Any]:
    """The expert layers; every layer but the first `first_k_dense_replace` has them in all these models."""
    inter = _required(config, family.expert_size, file)
    shared = config.get("shared_intermediate_size") or config.get("shared_expert_intermediate_size")
    shared = shared or (config.get("n_shared_experts") or 0) * inter
    for key in ("decoder_sparse_step", "moe_layer_freq"):
        if config.get(key, 1) != 1:
            raise SpecError("experts must be in every layer", file=file, key=key, value=config[key])
    return {
        "num_experts": _required(config, family.experts, file),
        "num_experts_per_tok": _required(config, "num_experts_per_tok", file),
        "moe_intermediate_size": inter,
        "shared_intermediate_size": shared,
        "first_dense_layers": config.get("first_k_dense_replace") or 0,
        "biases": config["model_type"] == "gpt_oss",
        "router_bias": bool(config.get("use_routing_bias")) or config.get("topk_method") == "noaux_tc",
        "shared_gate": bool(shared) and config["model_type"] in NESTED,
    }


def _windows(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Layers whose type is sliding_attention; gpt-oss also has a learned sink per head."""
    layers = _required(config, "layer_types", file)
    sliding = [kind for kind in layers if kind == "sliding_attention"]
    if len(layers) != config.get("num_hidden_layers"):
        raise SpecError("must name every layer", file=file, key="layer_types")
    return {
        "sliding_window": _required(config, "sliding_window", file) if sliding else None,
        "sliding_layers": len(sliding),
        "attention_sinks": True,
    }


def _attention(config: Mapping[str, Any], family: _Class, file: str) -> dict[str, Any]:
    heads, hidden = _required(config, "num_attention_heads", file), _required(config, "hidden_size", file)
    bias = config.get("attention_bias", False) if family.reads_attention_bias else False
    return {
        "num_key_value_heads": _first(config.get("num_key_value_heads"), family.kv_heads, heads),
        "head_dim": _first(config.get("head_dim"), family.head_dim) or _head_dim(hidden, heads, file),
        "attention_bias": bias or family.qkv_bias,
        "attention_output_bias": bias,
        "qk_norm": family.qk_norm,
        "qk_norm_whole": family.qk_norm_whole,
    }


def _head_dim(hidden: Any, heads: Any, file: str) -> int:
    if not (isinstance(hidden, int) and isinstance(heads, int) and heads > 0 and hidden % heads == 0):
        problem = f"not given, and num_attention_heads {heads!r} does not divide hidden_size {hidden!r}"
        raise SpecError(problem, file=file, key="head_dim")
    return hidden // heads


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _torch_dtype(config: Mapping[str, Any], file: str) -> Any:
    # transformers 5 writes `dtype`, earlier versions `torch_dtype`.
    key = "dtype" if config.get("dtype") is not None else "torch_dtype"
    if config.get("quantization_config") and config.get(key) is None:
        return "bfloat16"  # what the layers outside the quantised ones are held in
    return _required(config, key, file)


def _required(config: Mapping[str, Any], key: str, file: str) -> Any:
    if config.get(key) is None:
        near = nearest_name(key, [k for k in config if k != key])
        raise SpecError("missing in this config.json", file=file, key=key, nearest=near)
    return config[key]


def _formats(config: Mapping[str, Any]) -> dict[str, str]:
    """What the published weights are held in: fp8, fp8 in blocks of 128 x 128, or experts in mxfp4."""
    quantised = config.get("quantization_config")
    if not quantised:
        return {}
    if isinstance(quantised, dict) and quantised.get("quant_method") == "mxfp4":
        return {"checkpoint_moe_dtype": "w4a16_mxfp4"}
    blocks = isinstance(quantised, dict) and quantised.get("weight_block_size")
    return {"checkpoint_dtype": "fp8_block" if blocks else "fp8"}


def _name(path: Path) -> str:
    """From 'models--org--model' in the path (Hugging Face cache), 'org--model_config.json', or the folder."""
    for part in path.parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    if path.name != "config.json":
        return path.stem.removesuffix("_config").replace("--", "/")
    return path.resolve().parent.name
