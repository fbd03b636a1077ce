"""What `config.json` says of gated delta nets (qwen3_5, qwen3_5_moe) and sparse attention (deepseek_v32, glm_moe_dsa).

Qwen3.5 nests its decoder in `text_config`; the vision tower beside it is left out, as are multi-token prediction
layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.errors import SpecError
from simserve.spec.model import LinearSpec, SparseSpec

NESTED = ("qwen3_5", "qwen3_5_moe")
SPARSE = ("deepseek_v32", "glm_moe_dsa")
_INTERVAL = 4  # of full-attention layers, where neither layer_types nor full_attention_interval says [transformers 5]


def unnested(config: dict[str, Any]) -> dict[str, Any]:
    """The decoder's own keys of a Qwen3.5 config beside the outer ones; any other config as it is."""
    inner, kind = config.get("text_config"), str(config.get("model_type", "")).removesuffix("_text")
    if kind not in NESTED:
        return config
    outer = {key: value for key, value in config.items() if key not in ("text_config", "vision_config")}
    flat = {**outer, **(inner if isinstance(inner, dict) else {}), "model_type": kind}
    # No layer of the expert models has a dense MLP.
    return {"intermediate_size": flat.get("moe_intermediate_size"), **flat}


def hybrid_fields(config: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Fields of ModelSpec beyond those of every decoder; {} for other families."""
    kind = config["model_type"]
    if kind in SPARSE:
        _refuse_shared_index(config, file)
        return {"sparse": {key: _required(config, key, file) for key in SparseSpec.model_fields}}
    if kind not in NESTED:
        return {}
    sizes = {key: _required(config, key, file) for key in LinearSpec.model_fields if "_dim" in key or "_num_" in key}
    return {
        "linear": {
            **sizes,
            "linear_layers": _linear_layers(config, file),
            "mamba_ssm_dtype": config.get("mamba_ssm_dtype", "float32"),
        },
        "attention_output_gate": bool(config.get("attn_output_gate", True)),
    }


def _linear_layers(config: Mapping[str, Any], file: str) -> int:
    layers, count = config.get("layer_types"), _required(config, "num_hidden_layers", file)
    if layers is None:
        interval = config.get("full_attention_interval") or _INTERVAL
        return int(count) - int(count) // int(interval)
    known = ("linear_attention", "full_attention")
    if not isinstance(layers, list) or len(layers) != count or any(kind not in known for kind in layers):
        problem = f"must name every layer, {' or '.join(known)}"
        raise SpecError(problem, file=file, key="layer_types")
    return layers.count("linear_attention")


def _refuse_shared_index(config: Mapping[str, Any], file: str) -> None:
    """GLM-5.2: layers that take the keys which an earlier layer's indexer picked."""
    for key, alone in (("index_topk_freq", (None, 0, 1)), ("index_topk_pattern", (None, ""))):
        if config.get(key) not in alone:
            problem = "layers that share an index are not supported"
            raise SpecError(problem, file=file, key=key, value=config[key])


def _required(config: Mapping[str, Any], key: str, file: str) -> Any:
    if config.get(key) is None:
        raise SpecError("missing in this config.json", file=file, key=key)
    return config[key]
