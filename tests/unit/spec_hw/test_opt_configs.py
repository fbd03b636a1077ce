"""config.json of OPT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.arch.memory import parameter_count
from simserve.errors import SpecError
from simserve.spec.model import import_hf_config, load_model

# As published for facebook/opt-*, but for the sizes.
OPT: dict[str, Any] = {
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": True, "dropout": 0.1, "eos_token_id": 2,
    "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 2048, "model_type": "opt", "pad_token_id": 1,
    "prefix": "</s>", "torch_dtype": "float16", "use_cache": True, "vocab_size": 50272,
}  # fmt: skip


def config(layers: int, hidden: int, heads: int, **other: Any) -> dict[str, Any]:
    """Of these sizes; the MLP is four times as wide."""
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "ffn_dim": 4 * hidden}
    return {**OPT, **sizes, "word_embed_proj_dim": hidden, **other}


def written(folder: Path, content: dict[str, Any]) -> Path:
    """The file."""
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("opt-6.7b", (32, 4096, 32)), ("opt-13b", (40, 5120, 40)), ("opt-30b", (48, 7168, 56)),
     ("opt-175b", (96, 12288, 96))],
)  # fmt: skip
def test_opt_imports_as_it_ships(tmp_path: Path, name: str, sizes: tuple[int, int, int]) -> None:
    """Every field equal; also from a file that says what transformers assumes, as its newer versions write."""
    shipped = load_model(f"facebook/{name}")
    spelled = {"enable_bias": True, "layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False,
               "tie_word_embeddings": True}  # fmt: skip
    for content in (config(*sizes), config(*sizes, **spelled)):
        imported = import_hf_config(written(tmp_path, content), name=f"facebook/{name}")
        ignore = {"sources", "aliases", "published_parameters"}
        assert shipped.model_dump(exclude=ignore) == imported.model_dump(exclude=ignore)
        if shipped.published_parameters is not None:
            assert parameter_count(imported) == shipped.published_parameters


def test_without_biases_and_untied(tmp_path: Path) -> None:
    """As Galactica: no biases but those of the norms."""
    found = import_hf_config(written(tmp_path, config(2, 64, 4, enable_bias=False, tie_word_embeddings=False)))

    assert (found.attention_bias, found.attention_output_bias, found.mlp_bias) == (False, False, False)
    assert found.norm_bias
    assert (found.tie_word_embeddings, found.gated_mlp, found.learned_positions) == (False, False, 2050)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("do_layer_norm_before", False, "only layer norms before attention and MLP are supported (got False)"),
        ("word_embed_proj_dim", 32, "embeddings narrower than hidden_size are not supported (got 32)"),
        ("_remove_final_layer_norm", True, "decoders without a final layer norm are not supported (got True)"),
        ("layer_norm_elementwise_affine", False, "layer norms without weights are not supported (got False)"),
        ("activation_function", "swish", "must be one of relu, gelu, gelu_new, silu (got 'swish')"),
        ("ffn_dim", None, "missing in this config.json"),
        ("hidden_size", None, "missing in this config.json"),
        ("max_position_embeddings", None, "missing in this config.json"),
    ],
)
def test_other_layers_are_refused_in_one_line(tmp_path: Path, key: str, value: Any, problem: str) -> None:
    """opt-350m has the first two; each names its key."""
    path = written(tmp_path, config(2, 64, 4, **{key: value}))
    with pytest.raises(SpecError) as raised:
        import_hf_config(path)

    assert str(raised.value).startswith(f"{path}: {key}: {problem}")
    assert "\n" not in str(raised.value)
