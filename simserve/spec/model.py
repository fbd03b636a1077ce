"""A dense decoder's architecture, in the vocabulary of Hugging Face `config.json`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from simserve.spec.catalogue import Catalogue, NamedSpec, fold

ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]


class ModelSpec(NamedSpec):
    """One model: sizes as in its config.json, plus what the config leaves to the model class.

    attention_bias: on the q, k and v projections; attention_output_bias: on o; qk_norm: an RMS norm over
    each query and key head (Qwen3). The MLP is gated (gate, up, down). published_parameters: the count of
    the published checkpoint, None where nobody stated one. aliases: checkpoints of the same architecture.
    """

    model_type: ModelType
    num_hidden_layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    vocab_size: PositiveInt
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    max_position_embeddings: PositiveInt
    torch_dtype: Literal["bfloat16", "float16", "float32"]
    published_parameters: PositiveInt | None = None
    sources: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _heads_group(self) -> ModelSpec:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}"
            )
        return self


@cache
def _catalogue() -> Catalogue[ModelSpec]:
    return Catalogue("model", ModelSpec, "models")


def model_names() -> list[str]:
    """Names of all shipped models and the user's own, e.g. 'Qwen/Qwen3-8B'."""
    return _catalogue().names()


def load_model(name_or_path: str) -> ModelSpec:
    """A model by Hugging Face id, its last part or an alias, by YAML path, or by path to a config.json.

    Raises UnknownName with the nearest name, or SpecError naming file and field.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return _catalogue().read(path)
    if path.suffix == ".json" or (path / "config.json").is_file():
        return import_hf_config(path)
    model = _catalogue().get(name_or_path)
    return model.model_copy(update={"name": _checkpoint(model, name_or_path)})


def _checkpoint(model: ModelSpec, asked: str) -> str:
    """The checkpoint that was asked for: an alias has the same layers, but it is what shall be served."""
    wanted = fold(asked)
    matches = (a for a in model.aliases if "/" in a and wanted in (fold(a), fold(a.rpartition("/")[2])))
    return next(matches, model.name)


def has_fp8_weights(name: str) -> bool:
    """Whether a checkpoint's weights are fp8 already, by the Hugging Face convention of its name."""
    return name.upper().endswith(("-FP8", "-FP8-DYNAMIC"))


def import_hf_config(path: str | Path, *, name: str | None = None) -> ModelSpec:
    """Read the config.json of a dense Hugging Face model; a folder stands for the config.json in it.

    name: what to call the model; by default the folder's name (or the id in a Hugging Face cache path).
    Raises SpecError naming file and field for whatever this version cannot represent exactly.
    """
    from simserve.spec.hf_config import read_hf_config

    return read_hf_config(Path(path).expanduser(), name)


def to_yaml(model: ModelSpec) -> str:
    """The model as the text of a file in `models/`; call the file `yaml_file_name(model)`."""
    import yaml

    fields = model.model_dump(mode="json", exclude_none=True)
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)
    return text


def yaml_file_name(model: ModelSpec) -> str:
    """'org/model' -> 'org--model.yaml', the name under which `load_model` finds the file."""
    return model.name.replace("/", "--") + ".yaml"
