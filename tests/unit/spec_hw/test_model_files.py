"""Models by name, by path and out of a Hugging Face config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simserve.arch.memory import parameter_count
from simserve.errors import SpecError, UnknownName
from simserve.spec.model import (
    checkpoint_formats,
    import_hf_config,
    load_model,
    model_names,
    to_yaml,
    yaml_file_name,
)

QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SIZES = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}


def _write(folder: Path, config: object, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "meta-llama/Meta-Llama-3.1-70B-Instruct"),
        ("meta-llama--Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("qwen3-32b-fp8", "Qwen/Qwen3-32B-FP8"),
        ("codellama-34b", "codellama/CodeLlama-34b-hf"),
    ],
)
def test_a_model_is_found_by_its_usual_names(asked: str, found: str) -> None:
    """Full id, last part, alias, cache spelling, whatever the case."""
    assert found == load_model(asked).name


def test_names_are_full_ids() -> None:
    """As on huggingface.co, sorted."""
    names = model_names()
    assert "Qwen/Qwen3-14B" in names
    assert sorted(names) == names
    assert [load_model(name).name for name in names] == names


@pytest.mark.parametrize(
    ("asked", "nearest"), [("Qwen/Qwen3-23B", "Qwen/Qwen3-32B"), ("Llama-3.1-80B", "meta-llama/Llama-3.1-8B")]
)
def test_a_wrong_name_gets_the_nearest(asked: str, nearest: str) -> None:
    """One line with the name and a proposal that exists."""
    with pytest.raises(UnknownName, match=f"unknown model '{asked}'; did you mean") as raised:
        load_model(asked)
    assert nearest == load_model(str(raised.value.nearest)).name


def test_a_name_near_nothing_gets_the_list() -> None:
    """Without a proposal the known names follow."""
    with pytest.raises(UnknownName, match="known: 01-ai/Yi-34B, Dream-org/Dream-v0"):
        load_model("zzzz")


def test_importing_a_config_gives_the_shipped_model(tmp_path: Path) -> None:
    """Every size equal, and the parameter count the published one."""
    imported = import_hf_config(_write(tmp_path, QWEN3_8B), name="Qwen/Qwen3-8B")
    shipped = load_model("Qwen/Qwen3-8B")
    ignore = {"sources", "aliases", "published_parameters"}
    assert shipped.model_dump(exclude=ignore) == imported.model_dump(exclude=ignore)
    assert shipped.published_parameters == parameter_count(imported)


def test_a_config_may_leave_out_what_the_class_defaults(tmp_path: Path) -> None:
    """An early llama config has neither key/value heads nor a head size."""
    model = import_hf_config(_write(tmp_path, {"model_type": "llama", **SIZES}))
    assert model.num_key_value_heads == 32
    assert model.head_dim == 128
    assert parameter_count(model) == 6_738_415_616


def test_qwen2_has_biases_on_queries_keys_and_values_only(tmp_path: Path) -> None:
    """Qwen2.5-7B: 7,615,616,512 parameters, published."""
    config = {
        **SIZES,
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "sliding_window": 131072,
        "use_sliding_window": False,
    }
    assert parameter_count(import_hf_config(_write(tmp_path, config))) == 7_615_616_512


def test_mistral_with_a_null_head_size_and_tied_embeddings(tmp_path: Path) -> None:
    """Mistral-7B-v0.3: 7,248,023,552 parameters, published; tied, one table of 32768 rows less."""
    config = {
        **SIZES,
        "model_type": "mistral",
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "sliding_window": None,
        "vocab_size": 32768,
        "dtype": "bfloat16",
    }
    model = import_hf_config(_write(tmp_path, config))
    assert parameter_count(model) == 7_248_023_552
    assert model.torch_dtype == "bfloat16"
    tied = import_hf_config(_write(tmp_path, {**config, "tie_word_embeddings": True}))
    assert parameter_count(tied) == 7_248_023_552 - 32768 * 4096


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("my-model/config.json", "my-model"),
        ("models--Qwen--Qwen3-8B/snapshots/abc/config.json", "Qwen/Qwen3-8B"),
        ("Qwen--Qwen3-8B_config.json", "Qwen/Qwen3-8B"),
    ],
)
def test_an_imported_model_is_named_after_its_place(tmp_path: Path, place: str, name: str) -> None:
    """Folder, Hugging Face cache, or the file's own name."""
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    assert name == import_hf_config(_write(path.parent, QWEN3_8B, path.name)).name


def test_a_folder_stands_for_its_config(tmp_path: Path) -> None:
    """`load_model` takes the folder and the file alike."""
    path = _write(tmp_path, QWEN3_8B)
    assert load_model(str(tmp_path)) == load_model(str(path))


EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_experts": 128, "num_local_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_experts": 128}, "num_experts: a mixture of experts is not a dense model (got 128)"),
    ({"num_local_experts": 8, "model_type": "mixtral"}, "num_experts_per_tok: missing in this config.json"),
    ({"kv_lora_rank": 512}, "kv_lora_rank: multi-head latent attention is not supported in this model type (got 512)"),
    ({**EXPERTS, "decoder_sparse_step": 2}, "decoder_sparse_step: experts must be in every layer (got 2)"),
    ({**EXPERTS, "mlp_only_layers": [3]}, "mlp_only_layers: layers of different shapes"),
    ({**EXPERTS, "kv_lora_rank": 512}, "q_lora_rank: missing in this config.json"),
    ({**EXPERTS, "index_topk": 2048}, "index_topk: sparse attention is not supported"),
    ({**EXPERTS, "model_type": "gpt_oss", "layer_types": ["full_attention"]}, "layer_types: must name every layer"),
    ({"text_config": {"hidden_size": 1}}, "text_config: a multimodal or nested config is not supported"),
    ({"model_type": "gpt_neox"}, "it imports llama, mistral, qwen2, qwen3, mixtral"),
    ({"hidden_act": "gelu"}, "hidden_act: only the gated silu MLP is supported (got 'gelu')"),
    ({"sliding_window": 4096, "use_sliding_window": True}, "sliding_window: sliding-window attention"),
    ({"model_type": "mistral", "sliding_window": 4096, "use_sliding_window": None}, "sliding_window: "),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: only full-attention"),
    ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: only unquantised"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder: an encoder-decoder is not supported"),
    ({"model_type": ["llama"]}, "model_type: not a model type this can import"),
    ({"use_sliding_window": True, "sliding_window": "4096"}, "sliding_window: sliding-window attention"),
    ({"max_position_embeddings": None}, "max_position_embeddings: missing in this config.json"),
    ({"hidden_size": None}, "hidden_size: missing in this config.json"),
    ({"torch_dtype": None}, "torch_dtype: missing in this config.json"),
    ({"model_type": "llama", "head_dim": None, "num_attention_heads": 33}, "head_dim: not given, and "),
    ({"num_key_value_heads": 7}, "num_key_value_heads 7 does not divide num_attention_heads 32"),
    ({"vocab_size": -1}, "vocab_size"),
    ({"num_hidden_layers": "many"}, "num_hidden_layers"),
]


@pytest.mark.parametrize(("changes", "problem"), REFUSED, ids=[p[:40] for _, p in REFUSED])
def test_what_is_not_plain_and_dense_is_refused(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    """One line that names the file and the field."""
    path = _write(tmp_path, {**QWEN3_8B, **changes})
    with pytest.raises(SpecError) as raised:
        import_hf_config(path)
    message = str(raised.value)
    assert problem in message
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(("text", "problem"), [("{", "not valid JSON"), ("[1]", "holds one JSON object")])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Broken JSON, and JSON of another kind."""
    with pytest.raises(SpecError, match=problem):
        import_hf_config(_write(tmp_path, text))


@pytest.mark.parametrize("name", ["config.json", "model.yaml"])
def test_a_missing_file_says_so(tmp_path: Path, name: str) -> None:
    """Whether it would have been imported or read."""
    with pytest.raises(SpecError, match="no such"):
        load_model(str(tmp_path / name))


@pytest.mark.parametrize("quantised", [{"quant_method": "fp8"}, {"quant_algo": "FP8"}])
def test_an_fp8_checkpoint_says_its_format(tmp_path: Path, quantised: dict[str, str]) -> None:
    """The architecture is the same; the number format is the deployment's."""
    model = import_hf_config(_write(tmp_path, {**QWEN3_8B, "quantization_config": quantised}))
    assert "fp8" == model.checkpoint_dtype


def test_an_imported_model_written_to_yaml_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round trip of `simserve models import`: the user's own data folder, then by name."""
    model = import_hf_config(_write(tmp_path, QWEN3_8B), name="me/my-model")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / yaml_file_name(model)).write_text(to_yaml(model), encoding="utf-8")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    assert model == load_model("my-model")
    assert "me/my-model" in model_names()


def test_of_two_models_with_one_last_part_the_users_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full id still reaches the shipped one."""
    model = import_hf_config(_write(tmp_path, QWEN3_8B), name="me/Qwen3-32B")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / yaml_file_name(model)).write_text(to_yaml(model), encoding="utf-8")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    assert load_model("qwen3-32b").name == "me/Qwen3-32B"
    assert load_model("Qwen/Qwen3-32B").name == "Qwen/Qwen3-32B"


def test_models_are_hashable() -> None:
    """They are keys of cost-model caches."""
    assert hash(load_model("Qwen/Qwen3-8B")) == hash(load_model("qwen3-8b"))


def test_expert_models_import_as_they_ship(tmp_path: Path) -> None:
    """Qwen3-30B-A3B out of its config.json, with its published count; 16 GB of them in every 4-bit format."""
    config = {**QWEN3_8B, **EXPERTS, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
              "num_key_value_heads": 4}  # fmt: skip
    imported = import_hf_config(_write(tmp_path, config), name="Qwen/Qwen3-30B-A3B")
    shipped = load_model("Qwen/Qwen3-30B-A3B")
    ignore = {"sources", "aliases", "published_parameters"}
    assert shipped.model_dump(exclude=ignore) == imported.model_dump(exclude=ignore)


def test_latent_attention_shared_experts_and_windows_are_read(tmp_path: Path) -> None:
    """DeepSeek's first dense layers and shared expert; gpt-oss' alternating windows and sinks."""
    deepseek, oss = load_model("deepseek-ai/DeepSeek-R1"), load_model("openai/gpt-oss-120b")
    assert deepseek.experts is not None
    assert deepseek.latent is not None
    assert (deepseek.dense_layers, deepseek.expert_layers) == (3, 58)
    assert (deepseek.experts.shared_intermediate_size, deepseek.latent.kv_lora_rank) == (2048, 512)
    assert (oss.sliding_window, oss.sliding_layers, oss.attention_sinks) == (128, 18, True)
    for name in ("deepseek-ai/DeepSeek-V3", "openai/gpt-oss-120b", "MiniMaxAI/MiniMax-M2.5"):
        again = tmp_path / yaml_file_name(load_model(name))
        again.write_text(to_yaml(load_model(name)))
        assert load_model(str(again)) == load_model(name)


@pytest.mark.parametrize(
    ("name", "formats"),
    [
        ("deepseek-ai/DeepSeek-R1", ("fp8_block", "")),
        ("openai/gpt-oss-120b", ("bf16", "w4a16_mxfp4")),
        ("Qwen/Qwen3-32B-FP8", ("fp8_block", "")),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", ("fp8", "")),
        ("Qwen/Qwen3-32B", ("bf16", "")),
        ("nobody/knows", ("bf16", "")),
    ],
)
def test_a_checkpoint_is_served_in_its_own_format(name: str, formats: tuple[str, str]) -> None:
    """What the command line assumes where no --dtype is given."""
    assert formats == checkpoint_formats(name)
