"""A decoder's architecture, dense or of experts, in the vocabulary of Hugging Face `config.json`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from simserve.errors import SimserveError
from simserve.spec.audio import AudioSpec
from simserve.spec.base import Spec
from simserve.spec.catalogue import Catalogue, NamedSpec, fold
from simserve.spec.vision import VisionSpec

ModelType = Literal[
    "llama", "mistral", "qwen2", "qwen3",
    "mixtral", "qwen3_moe", "minimax_m2", "gpt_oss", "deepseek_v3", "kimi_k2",
    "qwen3_5", "qwen3_5_moe", "deepseek_v32", "glm_moe_dsa", "opt",
    "llada", "dream",
    "qwen3_vl", "qwen2_5_vl", "openpangu_vl", "internvl_chat", "minicpmv", "mllama",
    "qwen2_audio", "qwen2_5_omni",
]  # fmt: skip
DIFFUSION = ("llada", "dream")  # masks are filled in by steps over a whole block, attention looks both ways


class ExpertsSpec(Spec):
    """Expert layers: all but the first `first_dense_layers`, which have an MLP of the model's intermediate_size.

    moe_intermediate_size: of one expert; shared_intermediate_size: of all experts that every token goes through.
    biases: on router and experts (gpt-oss); router_bias: a correction of the router's scores alone (DeepSeek, MiniMax);
    shared_gate: the shared experts' output is weighted by one number a token (Qwen3.5).
    """

    num_experts: PositiveInt
    num_experts_per_tok: PositiveInt
    moe_intermediate_size: PositiveInt
    shared_intermediate_size: NonNegativeInt = 0
    first_dense_layers: NonNegativeInt = 0
    biases: bool = False
    router_bias: bool = False
    shared_gate: bool = False


class LatentSpec(Spec):
    """Multi-head latent attention: one cached vector of kv_lora_rank + qk_rope_head_dim values a token."""

    q_lora_rank: PositiveInt
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: PositiveInt
    v_head_dim: PositiveInt


class SparseSpec(Spec):
    """DeepSeek sparse attention: an indexer of its own heads picks the index_topk keys that latent attention sees."""

    index_n_heads: PositiveInt
    index_head_dim: PositiveInt
    index_topk: PositiveInt


class LinearSpec(Spec):
    """Gated delta nets in place of attention in `linear_layers` of the layers: a state per request instead of KV.

    mamba_ssm_dtype: in which the state [value heads, key dim, value dim] is held; the names are those of config.json.
    """

    linear_layers: PositiveInt
    linear_num_key_heads: PositiveInt
    linear_num_value_heads: PositiveInt
    linear_key_head_dim: PositiveInt
    linear_value_head_dim: PositiveInt
    linear_conv_kernel_dim: PositiveInt
    mamba_ssm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class ModelSpec(NamedSpec):
    """One model: sizes as in its config.json, plus what the config leaves to the model class.

    attention_bias: on the q, k and v projections; attention_output_bias: on o; qk_norm: an RMS norm over
    each query and key head (Qwen3), or over all of them (`qk_norm_whole`, MiniMax). gated_mlp: gate, up and down,
    else up and down alone (OPT); norm_bias: norms have a bias beside their weight; learned_positions: rows of a table
    of position embeddings, 0 for rotary ones.
    published_parameters: the count of the published checkpoint, None where nobody stated one. aliases: checkpoints of
    the same architecture. experts: expert layers, None for a dense model; latent: multi-head latent attention;
    sliding_window: keys that a query sees in `sliding_layers` of the layers; attention_sinks: one value per query head;
    linear: gated delta nets, None for none; sparse: latent attention over the keys that an indexer picks;
    attention_output_gate: queries come with a gate of their size for the output (Qwen3.5);
    checkpoint_dtype, checkpoint_moe_dtype: formats in which the published weights come, '' for 16 bit and for the same;
    nvfp4_keeps: what the published nvfp4 checkpoint leaves in 16 bits: `attention`, `attention_inputs` (its projections
    but the output's), `shared` experts. vision, audio: what encodes images and sounds for it, None for none;
    all other sizes are then those of its language model.
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
    gated_mlp: bool = True
    norm_bias: bool = False
    learned_positions: NonNegativeInt = 0
    qk_norm: bool = False
    qk_norm_whole: bool = False
    experts: ExpertsSpec | None = None
    latent: LatentSpec | None = None
    sparse: SparseSpec | None = None
    linear: LinearSpec | None = None
    attention_output_gate: bool = False
    sliding_window: PositiveInt | None = None
    sliding_layers: NonNegativeInt = 0
    attention_sinks: bool = False
    max_position_embeddings: PositiveInt
    torch_dtype: Literal["bfloat16", "float16", "float32"]
    checkpoint_dtype: str = ""
    checkpoint_moe_dtype: str = ""
    nvfp4_keeps: tuple[Literal["attention", "attention_inputs", "shared"], ...] = ()
    published_parameters: PositiveInt | None = None
    vision: VisionSpec | None = None
    audio: AudioSpec | None = None
    sources: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _heads_group(self) -> ModelSpec:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if self.sparse is not None and self.latent is None:
            raise ValueError("sparse attention needs latent attention")
        if self.linear is not None and self.linear.linear_layers >= self.num_hidden_layers:
            raise ValueError("linear_layers must leave a layer of full attention")
        if "attention_inputs" in self.nvfp4_keeps and (self.sparse or self.linear):
            raise ValueError("nvfp4_keeps attention_inputs is not known of sparse attention and gated delta nets")
        return self

    @model_validator(mode="after")
    def _reads_what_is_encoded(self) -> ModelSpec:
        for name, encoder in self.encoders.items():
            if (width := encoder.out_hidden_size) != self.hidden_size:
                raise ValueError(f"{name}.out_hidden_size {width} is not hidden_size {self.hidden_size}")
        if self.vision is not None and self.vision.cross_attention_layers >= self.num_hidden_layers:
            raise ValueError("vision.cross_attention_layers must leave a layer that attends to text")
        return self

    @model_serializer(mode="wrap")
    def _as_before_encoders(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models say nothing of encoders that they do not have, so that journals of searches stay what they are."""
        fields: dict[str, Any] = plain(self)
        for name in ("vision", "audio"):
            if getattr(self, name) is None:
                fields.pop(name, None)
        return fields

    @property
    def encoders(self) -> dict[str, VisionSpec | AudioSpec]:
        """Its encoders by the name that they have here."""
        both = {"vision": self.vision, "audio": self.audio}
        return {name: encoder for name, encoder in both.items() if encoder is not None}

    @property
    def diffusion(self) -> bool:
        """Whether it fills in a canvas of masks by denoising steps, where others add one token after the other."""
        return self.model_type in DIFFUSION

    @property
    def attention_layers(self) -> int:
        """Layers that attend to cached keys: all but those with a gated delta net."""
        return self.num_hidden_layers - (self.linear.linear_layers if self.linear else 0)

    @property
    def mlp_matrices(self) -> int:
        """Weight matrices of an MLP, each hidden_size x intermediate_size."""
        return 3 if self.gated_mlp else 2

    @property
    def dense_layers(self) -> int:
        """Layers whose MLP is no expert layer."""
        return self.experts.first_dense_layers if self.experts else self.num_hidden_layers

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return self.num_hidden_layers - self.dense_layers


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
    if path.suffix == ".json" or _holds_config(path):
        return import_hf_config(path)
    model = _catalogue().get(name_or_path)
    return model.model_copy(update={"name": _checkpoint(model, name_or_path)})


def _holds_config(path: Path) -> bool:
    """Whether it is a folder with a config.json; what is too long for a path is none."""
    try:
        return (path / "config.json").is_file()
    except OSError:
        return False


def _checkpoint(model: ModelSpec, asked: str) -> str:
    """The checkpoint that was asked for: an alias has the same layers, but it is what shall be served."""
    wanted = fold(asked)
    matches = (a for a in model.aliases if "/" in a and wanted in (fold(a), fold(a.rpartition("/")[2])))
    return next(matches, model.name)


# Whose FP8 checkpoints have scales per block of 128 x 128, as their config.json says (weight_block_size).
_BLOCK_FP8 = ("Qwen/", "zai-org/")


def has_fp8_weights(name: str) -> bool:
    """Whether a checkpoint's weights are fp8 already, by the Hugging Face convention of its name."""
    return name.upper().endswith(("-FP8", "-FP8-DYNAMIC"))


def checkpoint_formats(name_or_path: str) -> tuple[str, str]:
    """(dtype, moe_dtype or '') that a checkpoint is served in if nobody says otherwise; bf16 for unknown models."""
    if has_fp8_weights(name_or_path):
        return "fp8_block" if name_or_path.startswith(_BLOCK_FP8) else "fp8", ""
    try:
        model = load_model(name_or_path)
    except SimserveError:
        return "bf16", ""
    return model.checkpoint_dtype or "bf16", model.checkpoint_moe_dtype


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

    fields = model.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=110)
    return text


def yaml_file_name(model: ModelSpec) -> str:
    """'org/model' -> 'org--model.yaml', the name under which `load_model` finds the file."""
    return model.name.replace("/", "--") + ".yaml"
