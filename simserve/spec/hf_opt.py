"""What `config.json` of OPT (and Galactica, which has its classes) says, in the keys of other decoders.

Defaults are those of transformers' OPTConfig: tied embeddings, biases everywhere, layer norms before attention and MLP.
opt-350m has its norms after, and narrower embeddings with a projection: refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.errors import SpecError, nearest_name

OPT = "opt"
_OFFSET = 2  # learned positions beyond max_position_embeddings (OPTLearnedPositionalEmbedding)
_ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu")  # one pass over the MLP's width, whichever it is


def opt_keys(config: dict[str, Any], file: str) -> dict[str, Any]:
    """An OPT config with the keys that other decoders have; any other config as it is. SpecError for other layers."""
    if config.get("model_type") != OPT:
        return config
    for key in ("ffn_dim", "hidden_size"):
        if config.get(key) is None:
            near = nearest_name(key, [k for k in config if k != key])
            raise SpecError("missing in this config.json", file=file, key=key, nearest=near)
    _refuse(config, file)
    bias = config.get("enable_bias", True)
    own = {"intermediate_size": config["ffn_dim"], "attention_bias": bias, "mlp_bias": bias}
    return {"tie_word_embeddings": True, **config, **own}


def opt_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ModelSpec that only OPT has; {} for other families."""
    if config["model_type"] != OPT:
        return {}
    reach = config.get("max_position_embeddings")
    positions = reach + _OFFSET if isinstance(reach, int) else 0
    return {"gated_mlp": False, "norm_bias": True, "learned_positions": positions}


def _refuse(config: Mapping[str, Any], file: str) -> None:
    """What changes the layers beyond what a ModelSpec can say."""
    wanted = (
        ("do_layer_norm_before", True, "only layer norms before attention and MLP are supported"),
        ("layer_norm_elementwise_affine", True, "layer norms without weights are not supported"),
        ("_remove_final_layer_norm", False, "decoders without a final layer norm are not supported"),
        ("word_embed_proj_dim", config["hidden_size"], "embeddings narrower than hidden_size are not supported"),
    )
    for key, value, why in wanted:
        if config.get(key, value) not in (value, None):
            raise SpecError(why, file=file, key=key, value=config[key])
    if (activation := config.get("activation_function", "relu")) not in _ACTIVATIONS:
        problem = f"must be one of {', '.join(_ACTIVATIONS)}"
        raise SpecError(problem, file=file, key="activation_function", value=activation)
