"""Memory of replicas that are more than a tensor-parallel group, by hand."""

import pytest

from simserve.arch.layout import Layout
from simserve.arch.memory import activation_bytes, kv_bytes_per_token, num_gpu_blocks, weight_bytes
from simserve.arch.replica import Engine, block_bytes, rank_blocks, stage_weight_bytes, step_bytes
from simserve.errors import Infeasible
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

LLAMA, QWEN = load_model("meta-llama/Llama-3.1-8B"), load_model("Qwen/Qwen3-30B-A3B")
H100 = load_gpu("h100_sxm")
ENGINE = Engine("bf16", "auto", "", 8192, 256)
EXPERTS = 48 * 128 * 3 * 2048 * 768  # parameters of all experts of Qwen3-30B-A3B


def blocks(model: object, layout: Layout, **limits: int) -> int:
    """KV blocks of a rank with the default limits."""
    engine = Engine("bf16", "auto", "", limits.get("tokens", 8192), 256)
    return rank_blocks(model, H100, layout, engine, gpu_memory_utilization=0.9, block_size=16)  # type: ignore[arg-type]


def test_a_plain_layout_is_as_before() -> None:
    """The same blocks as the function for a tensor-parallel group."""
    same = num_gpu_blocks(
        LLAMA, H100, tp=2, dtype="bf16", kv_cache_dtype="auto", gpu_memory_utilization=0.9, block_size=16,
        max_num_batched_tokens=8192, max_num_seqs=256,
    )  # fmt: skip
    assert blocks(LLAMA, Layout(2)) == same


def test_experts_are_spread_over_all_ranks_the_rest_is_on_each() -> None:
    """dp 4: attention, embeddings and routers whole, a quarter of the experts."""
    whole = weight_bytes(QWEN, "bf16", 1)
    assert stage_weight_bytes(QWEN, Layout(1, dp=4, expert_parallel=True), ENGINE, 0) == whole - 2 * EXPERTS * 3 // 4


def test_the_tokens_of_all_ranks_are_gathered() -> None:
    """dp 4 with whole experts: two buffers of 4 x 8,192 rows, and a quarter of the expert rows of a chunk of 16,384."""
    own = activation_bytes(QWEN, 8192, 256, 1)
    rows = 16_384 * 8 * (2048 + 768) // 4
    found = step_bytes(QWEN, Layout(1, dp=4, expert_parallel=True), ENGINE)
    assert found == own + 2 * (2 * 4 * 8192 * 2048 + rows)


def test_stages_have_their_layers_and_the_ends() -> None:
    """Llama-3.1-8B over two stages: half of the layers each; embedding, or LM head and final norm."""
    layers = (weight_bytes(LLAMA, "bf16", 1) - 2 * (2 * 128_256 * 4096 + 4096)) // 2
    first, last = (stage_weight_bytes(LLAMA, Layout(1, pp=2), ENGINE, stage) for stage in (0, 1))
    assert first == last == layers + 2 * (128_256 * 4096 + 4096)


def test_the_fullest_stage_sets_the_blocks() -> None:
    """Over 3 stages of 11, 11 and 10 layers a block is that of 11, and there are more than 2.5 times as many."""
    size = block_bytes(LLAMA, Layout(1, pp=3), "auto", 16)
    assert size == 16 * kv_bytes_per_token(LLAMA, "auto", 1) * 11 // 32
    assert blocks(LLAMA, Layout(1, pp=3)) > 2.5 * blocks(LLAMA, Layout(1))


def test_what_does_not_fit_says_how_many_gpus() -> None:
    """One line, for the layout that was asked for."""
    big = load_model("meta-llama/Llama-3.1-70B")
    with pytest.raises(Infeasible, match="over 1 x h100_sxm does not fit"):
        blocks(big, Layout(1))
    assert blocks(big, Layout(1, pp=4)) > 100
