"""Memory of diffusion systems beside weights: pages, logits, activations, and the pool that they leave; by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simserve.arch.diffusion import (
    Traits,
    body_bytes,
    full_step_rows,
    logit_bytes,
    num_slots,
    peak_bytes,
    placed,
    slot_bytes,
)
from simserve.errors import Infeasible
from simserve.sim.kv import BlockLedger
from simserve.sim.request import Seen
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.systems.dllm_cache import DllmCache
from simserve.systems.dllm_serve import DllmServe
from simserve.systems.fast_dllm import FastDllm
from simserve.systems.sangam import Sangam
from simserve.systems.sparse_dllm import SparseDllm
from simserve.systems.vanilla_dllm import VanillaDllm
from simserve.units import GIB, MIB

LLADA, DREAM = load_model("GSAI-ML/LLaDA-8B-Instruct"), load_model("Dream-org/Dream-v0-Instruct-7B")
WEIGHTS, LIBRARIES = 16_031_162_368, 123 * MIB
KV = 524_288  # bytes of a token of LLaDA
ROW = 126_464  # logits of a token


def test_kv_comes_in_pages() -> None:
    """S = 768, half of it kept: 384 tokens are 2 pages of 256, each 128 MiB of LLaDA and 14 MiB of Dream."""
    scheduler, ledger, request = DllmServe(), BlockLedger(10, DllmServe().traits.page_tokens), Seen(0, 0, 512)

    assert 384 == scheduler.slots(768)
    assert ledger.reserve(request, scheduler.slots(768))
    assert 2 == request.blocks == ledger.used
    assert 256 * MIB == request.blocks * slot_bytes(LLADA, scheduler.traits)
    assert 14 * MIB == slot_bytes(DREAM, scheduler.traits)


@pytest.mark.parametrize(
    ("rows", "llada", "dream"), [(16_384, 3.86, 4.64), (4_096, 0.965, 1.16), (1_024, 0.241, 0.290)]
)
def test_logits_of_one_copy(rows: int, llada: float, dream: float) -> None:
    """GiB in bf16, as the digest has them, within 1 %."""
    assert llada == pytest.approx(logit_bytes(LLADA, rows, 2) / GIB, rel=0.01)
    assert dream == pytest.approx(logit_bytes(DREAM, rows, 2) / GIB, rel=0.01)


def test_activations_of_a_token() -> None:
    """2 x 4096 + 12,288 + 3 x 12,288 values of LLaDA are 115 kB, 138 with 20 % of slack: about 120 in the digest."""
    values = 2 * 4096 + (32 + 2 * 32) * 128 + 3 * 12_288

    assert round(values * 2 * 1.2 * 1000) == body_bytes(LLADA, 1000)
    assert 120_000 == pytest.approx(body_bytes(LLADA, 1), rel=0.15)
    assert 1.9 * GIB == pytest.approx(body_bytes(LLADA, 16_384), rel=0.15)


def test_the_peak_is_the_larger_part() -> None:
    """Body of 8,192 tokens against logits of 1,024 at a time; all at once the logits are larger."""
    body, tokens = body_bytes(LLADA, 8192), 8192
    in_parts, at_once = Traits(max_num_logits=1024), Traits(max_num_logits=0)

    assert body == peak_bytes(LLADA, in_parts, tokens, tokens) > 1024 * ROW * 4
    assert 8192 * ROW * 4 == peak_bytes(LLADA, at_once, tokens, tokens) > body


def test_a_block_beyond_the_limit_of_logits_goes_in_one_piece() -> None:
    """512 rows against 256 at a time: a request's rows are never split, so all 512 are there."""
    traits = Traits(block_length=512, max_num_logits=256)

    assert 512 * ROW * 4 == peak_bytes(LLADA, traits, 1024, 1024)
    assert 100 * ROW * 4 == peak_bytes(LLADA, traits, 100, 100)


@pytest.mark.parametrize(
    ("limit", "requests", "rows", "launches"),
    [
        (1024, 1, 32, 1), (1024, 32, 1024, 1),  # all fit
        (1024, 33, 1056, 2), (1024, 64, 2048, 2), (1024, 65, 2080, 3),  # 32 requests a launch
        (100, 4, 128, 2), (100, 7, 224, 3),  # 3 requests of 32, not 100 rows
        (32, 5, 160, 5), (16, 5, 160, 5), (16, 1, 32, 1),  # a request is never split
        (0, 64, 2048, 1), (0, 1, 100_000, 1),  # no limit
        (1024, 0, 0, 1),
    ],
)  # fmt: skip
def test_launches_of_the_lm_head(limit: int, requests: int, rows: int, launches: int) -> None:
    """Equal requests in order, as many in a launch as fit whole; by a walk over them, too."""
    traits = Traits(max_num_logits=limit)

    assert launches == traits.launches(requests, rows)
    if limit and requests:
        walked, held = 1, 0
        for _ in range(requests):
            if held and held + rows // requests > limit:
                walked, held = walked + 1, 0
            held += rows // requests
        assert launches == walked


def test_rows_of_the_largest_step() -> None:
    """A block for each seat, but no more than tokens; or all tokens."""
    assert 32 * 8 == full_step_rows(Traits(), 16_384, 8)
    assert 1024 == full_step_rows(Traits(), 1024, 512)
    assert 16_384 == full_step_rows(Traits(logit_rows="all"), 16_384, 8)


def pages(traits: Traits, tokens: int) -> int:
    """KV pages of a 4090, 0.8 of it, 512 seats."""
    return num_slots(LLADA, load_gpu("rtx_4090"), traits, dtype="bf16", gpu_memory_utilization=0.8,
                     max_num_batched_tokens=tokens, max_num_seqs=512)  # fmt: skip


def test_the_pool_of_a_4090() -> None:
    """0.8 of 25,393,994,138 bytes, less weights, libraries and the peak of a full step, in pages of 128 MiB: by the
    digest 18 to 26 with a peak of 1 to 2 GiB. Unpruned logits take 10 bytes for each of a vocabulary and token.
    """
    left = 20_315_195_310 - WEIGHTS - LIBRARIES
    pruned, whole = DllmServe().traits, DllmServe(prune_logits=False).traits

    for tokens, traits, peak in (
        (16_384, pruned, 16_384 * 137_625.6), (8192, pruned, 8192 * 137_625.6), (1024, pruned, 1024 * ROW * 4),
        (1024, whole, 1024 * ROW * 10), (2048, whole, 2048 * ROW * 10),
    ):  # fmt: skip
        assert (left - peak) // (128 * MIB) == pages(traits, tokens)
    assert [14, 22, 27, 21, 11] == [
        pages(t, n) for n, t in ((16_384, pruned), (8192, pruned), (1024, pruned), (1024, whole), (2048, whole))
    ]


def test_what_does_not_fit_is_said_in_one_line() -> None:
    """Bytes of each part, and of what there is."""
    with pytest.raises(Infeasible) as raised:
        pages(DllmServe(prune_logits=False).traits, 16_384)
    assert str(raised.value) == (
        "GSAI-ML/LLaDA-8B-Instruct in bf16 on rtx_4090 does not fit: 14.9 GiB of weights and 19.3 GiB of activations "
        "and 123.0 MiB of libraries against 18.9 GiB (0.8 of 23.7 GiB) leave no page for KV"
    )
    with pytest.raises(Infeasible, match=r"^t4 does not compute in bf16; it does in fp16$"):
        placed(LLADA, load_gpu("t4"), Traits(), "bf16", 1024, 8)


def test_slots_without_a_pool_hold_what_comes_with_a_token() -> None:
    """Its KV (4 rows of features under dLLM-Cache, half of it under Sparse-dLLM) and 18 bytes of each logit, which are
    more than its activations; nothing is set aside for a step.
    """
    kv_of = {VanillaDllm: 0.0, FastDllm: 1.0, SparseDllm: 0.5, DllmCache: 2.0}
    for part, share in kv_of.items():
        traits = part().traits
        assert round(share * KV) + 18 * ROW == slot_bytes(LLADA, traits)
        assert 0 == placed(LLADA, load_gpu("l40s"), traits, "bf16", 16_384, 8)["activations"]
    assert 16 * KV == slot_bytes(LLADA, Sangam().traits)


def test_a_token_of_logits_in_the_block_alone_takes_its_activations() -> None:
    """Without a pool but with pruned logits."""
    traits = replace(VanillaDllm().traits, logit_rows="block")

    assert body_bytes(LLADA, 1) == slot_bytes(LLADA, traits)
