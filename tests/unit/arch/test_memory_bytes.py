"""Weight, KV and activation bytes against published parameter counts and public vLLM start-up logs."""

from __future__ import annotations

import pytest

from simserve.arch.memory import (
    activation_bytes,
    check_dtype,
    element_bytes,
    kv_bytes_per_token,
    num_gpu_blocks,
    parameter_count,
    runtime_bytes,
    static_share,
    weight_bytes,
)
from simserve.errors import Infeasible, UnknownName
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model, model_names
from simserve.units import GIB

# Safetensors totals on huggingface.co, typed in here once more so that no edit of models/ can move them.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "facebook/opt-6.7b": 6_658_473_984,
    "facebook/opt-13b": 12_853_473_280,
    "facebook/opt-30b": 29_974_540_288,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "mistralai/Mistral-Nemo-Base-2407": 12_247_782_400,
    "GSAI-ML/LLaDA-8B-Instruct": 8_015_581_184,
    "01-ai/Yi-34B": 34_388_917_248,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "openai/gpt-oss-120b": 116_829_156_672,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "moonshotai/Kimi-K2-Instruct": 1_026_408_232_448,
    # Without the vision tower, and like the others without multi-token prediction: see test_hybrid_models.py.
    "Qwen/Qwen3.5-397B-A17B": 396_346_350_336,
    "zai-org/GLM-5": 743_911_218_432,
}
# Named by size alone: 229 billion, 20.9 billion; or by a checkpoint with layers that are left out here.
UNCOUNTED = [
    "MiniMaxAI/MiniMax-M2.5", "deepseek-ai/DeepSeek-V3.2", "facebook/opt-175b", "openai/gpt-oss-20b",
    "Dream-org/Dream-v0-Instruct-7B",
]  # fmt: skip
LLAMA_8B = "meta-llama/Llama-3.1-8B"


def test_every_shipped_model_has_a_published_count() -> None:
    """No model escapes the check below, or those of encoders in test_vision.py and test_audio.py."""
    text = [name for name in model_names() if not load_model(name).encoders]
    assert sorted([*PUBLISHED, *UNCOUNTED]) == text


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_parameters_are_the_published_count(name: str, published: int) -> None:
    """Exactly, which is well within the 0.5 % asked for; the file states the same number."""
    model = load_model(name)
    assert published == parameter_count(model)
    assert published == model.published_parameters


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_two_byte_weights_are_twice_the_parameters(name: str, published: int) -> None:
    """Within 0.5 %: the vocabulary may be padded."""
    assert weight_bytes(load_model(name), "bf16", 1) == pytest.approx(2 * published, rel=0.005)


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("meta-llama/Llama-2-7b-hf", 524_288),
        ("meta-llama/Llama-3.1-8B", 131_072),
        ("meta-llama/Llama-3.1-70B", 327_680),
        ("Qwen/Qwen3-8B", 147_456),
        ("Qwen/Qwen3-14B", 163_840),
        ("Qwen/Qwen3-32B", 262_144),
        ("codellama/CodeLlama-34b-hf", 196_608),
        ("GSAI-ML/LLaDA-8B-Instruct", 524_288),
    ],
)
def test_kv_bytes_per_token_are_the_known_ones(name: str, per_token: int) -> None:
    """512, 128, 320, 144, 160, 256, 192 and 512 KiB in two bytes; half in fp8; shared out over ranks."""
    model = load_model(name)
    assert per_token == kv_bytes_per_token(model, "auto", 1)
    assert per_token == kv_bytes_per_token(model, "bf16", 1)
    assert per_token // 2 == kv_bytes_per_token(model, "fp8", 1)
    assert per_token // 8 == kv_bytes_per_token(model, "auto", 8)


def test_replicated_key_value_heads_cost_their_bytes() -> None:
    """Sixteen ranks hold sixteen heads of eight: as much a rank as with eight ranks."""
    model = load_model("meta-llama/Llama-3.1-70B")
    assert kv_bytes_per_token(model, "auto", 8) == kv_bytes_per_token(model, "auto", 16)


def test_weights_of_ranks_add_up_to_the_model_but_for_norms() -> None:
    """Eight ranks repeat the norms, nothing else."""
    model = load_model("meta-llama/Llama-3.1-70B")
    norms = 2 * (model.num_hidden_layers * 2 * model.hidden_size + model.hidden_size)
    assert weight_bytes(model, "bf16", 1) + 7 * norms == 8 * weight_bytes(model, "bf16", 8)


def test_fp8_weights_match_a_vllm_log() -> None:
    """vLLM: 'Model loading took 67.7 GiB' for Llama-3.3-70B in fp8 on one GPU: embeddings keep two bytes."""
    weights = weight_bytes(load_model("meta-llama/Llama-3.1-70B"), "fp8", 1)
    assert weights / GIB == pytest.approx(67.7, abs=0.1)


def test_bf16_weights_match_a_vllm_log() -> None:
    """vLLM: 'model weights take 14.99GiB' for Llama-3.1-8B, rotary tables of 0.03 GiB included."""
    assert weight_bytes(load_model(LLAMA_8B), "bf16", 1) / GIB == pytest.approx(14.99, abs=0.05)


@pytest.mark.parametrize(
    ("total_gib", "tokens", "kv_gib"),
    [
        # total 79.14 GiB x 0.90, non_torch 0.12, activation peak 1.19, KV 54.93 GiB (an 80 GB card).
        (79.14, 8192, 54.93),
        # total 22.07 GiB x 0.90, non_torch 0.05, activation peak 0.22, KV 4.60 GiB (a 24 GB card).
        (22.07, 2048, 4.60),
    ],
)
def test_kv_blocks_match_vllm_logs(total_gib: float, tokens: int, kv_gib: float) -> None:
    """Public start-up logs of vLLM with Llama-3.1-8B: blocks of 16 x 128 KiB, within 5 %.

    The logs do not state the token budget: 8192 and 2048 are the defaults that the activation peaks suggest.
    """
    gpu = load_gpu("h100_sxm").model_copy(update={"memory_bytes": int(total_gib * GIB)})
    blocks = num_gpu_blocks(
        load_model(LLAMA_8B),
        gpu,
        tp=1,
        dtype="bf16",
        kv_cache_dtype="auto",
        gpu_memory_utilization=0.9,
        block_size=16,
        max_num_batched_tokens=tokens,
        max_num_seqs=256,
    )
    assert blocks == pytest.approx(kv_gib * GIB / (16 * 131_072), rel=0.05)


def test_activations_by_hand() -> None:
    """8192 tokens: two hidden rows and three MLP rows of two bytes; 4 tokens and 1024 rows: the sampler's."""
    model = load_model(LLAMA_8B)
    assert activation_bytes(model, 8192, 256, 1) == 8192 * (2 * 8192 + 3 * 28672)
    assert activation_bytes(model, 4, 1024, 1) == 4 * 2 * 8192 + 1024 * 128256 * 10


def test_activations_shrink_with_ranks_and_libraries_grow() -> None:
    """The MLP is split; NCCL needs buffers as soon as there are two ranks."""
    model = load_model(LLAMA_8B)
    assert activation_bytes(model, 8192, 1, 8) < activation_bytes(model, 8192, 1, 1)
    assert runtime_bytes(1) < runtime_bytes(2) < runtime_bytes(8)


def _blocks(**changes: object) -> int:
    asked: dict[str, object] = {
        "model": load_model("Qwen/Qwen3-32B"),
        "gpu": load_gpu("h200_sxm"),
        "tp": 1,
        "dtype": "bf16",
        "kv_cache_dtype": "auto",
        "gpu_memory_utilization": 0.92,
        "block_size": 16,
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
    }
    asked.update(changes)
    return num_gpu_blocks(**asked)  # type: ignore[arg-type]


def test_more_memory_ranks_or_smaller_elements_hold_more_blocks() -> None:
    """The count moves the right way with every knob."""
    base = _blocks()
    assert base < _blocks(gpu_memory_utilization=0.95)
    assert base < _blocks(tp=2)
    assert base < _blocks(dtype="fp8")
    assert base < _blocks(kv_cache_dtype="fp8")
    assert base > _blocks(max_num_batched_tokens=32768)


def test_a_model_that_does_not_fit_says_which_bytes() -> None:
    """Weights, activations and what is available are in the sentence."""
    with pytest.raises(Infeasible) as raised:
        _blocks(gpu=load_gpu("l4"))
    expected = (
        "Qwen/Qwen3-32B in bf16 over 1 x l4 does not fit: per GPU 61.0 GiB of weights, 1.3 GiB of "
        "activations and 123.0 MiB of libraries against 20.3 GiB available (0.92 of 22.0 GiB) leave "
        "42.2 GiB too little"
    )
    assert expected == str(raised.value)


@pytest.mark.parametrize(("gpu", "dtype"), [("a100_sxm", "fp8"), ("t4", "bf16"), ("a10g", "fp8")])
def test_a_format_without_matrix_units_is_infeasible(gpu: str, dtype: str) -> None:
    """Ampere has no fp8, Turing no bf16."""
    with pytest.raises(Infeasible, match=f"{gpu} does not compute in {dtype}; it does in"):
        check_dtype(load_gpu(gpu), dtype)


@pytest.mark.parametrize(("gpu", "dtype"), [("h100_sxm", "fp8"), ("t4", "fp16"), ("b200_sxm", "bf16")])
def test_a_supported_format_passes(gpu: str, dtype: str) -> None:
    """No message, no error."""
    check_dtype(load_gpu(gpu), dtype)


def test_element_bytes() -> None:
    """Two, one, and the activations' two for 'auto'; a misspelt format names the nearest."""
    assert [element_bytes(d) for d in ("bf16", "fp16", "fp8", "auto")] == [2, 2, 1, 2]
    with pytest.raises(UnknownName, match="did you mean 'bf16'"):
        element_bytes("bf-16")


@pytest.mark.parametrize(
    ("gpu", "ranks", "dp", "chunk", "drafts", "share"),
    [
        ("h100_sxm", 1, 1, 8192, 0, 0.834),  # 81,009 MiB - (512 + 12,288 + 512 + 128)
        ("h100_sxm", 8, 1, 8192, 0, 0.817),  # - (512 + 12,288 + 1024 + 1024)
        ("h200_sxm", 1, 1, 2048, 0, 0.928),  # at least 10,240 above 60 GiB
        ("h200_sxm", 8, 8, 8192, 2, 0.753),  # 14,848 + 4.5 x 512 x 8 + 2048
        ("b200_sxm", 1, 1, 16384, 0, 0.856),  # 512 graphs from one rank on: 26,240
        ("l40s", 1, 1, 2048, 0, 0.917),  # 512 + 3072 + 64 + 128, no floor
    ],
)
def test_sglang_sets_aside_what_its_defaults_need(
    gpu: str, ranks: int, dp: int, chunk: int, drafts: int, share: float
) -> None:
    """mem_fraction_static as server_args works it out, in MiB, by hand."""
    assert static_share(load_gpu(gpu), ranks, dp, chunk, drafts) == share
