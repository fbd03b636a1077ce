"""Cached context before a chunk, and decoding requests in the launch of a prompt: integers by hand, laws, measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.perf import prefill, second_source, store
from simserve.perf.model import build_cost
from simserve.perf.prefill import CTA_NS, TILE, PrefillTable, measured_prefill
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

RTX, H100, B200 = load_gpu("rtx_pro_6000"), load_gpu("h100_sxm"), load_gpu("b200_sxm")
LLAMA = load_model("meta-llama/Llama-3.1-8B")
Chunks = list[tuple[int, int]]
CHUNKS = st.lists(st.tuples(st.integers(1, 2048), st.integers(0, 20_000)), min_size=1, max_size=6)


def table(chain_ns: float = 10.0, reread_ns: float = 0.0, window: int = 0) -> PrefillTable:
    """2,000 ns, and 1 ns per 100 pairs: a prompt of 1,000 tokens takes 7,005 ns."""
    tokens = np.array([1.0, 10, 100, 1000, 10_000])
    ns = 2000 + tokens * (tokens + 1) / 200
    grid = np.log(np.stack([2000 + (ns - 2000) * 2**i for i in range(3)]))
    return PrefillTable(grid, tokens, "measured", "", 1.0, window, chain_ns, reread_ns)


def test_a_short_chunk_waits_for_one_walk_through_the_cached_keys() -> None:
    """10 tokens after 5,000: 2,000.55 ns alone, and 5,000 keys at 10 ns each; the pairs at full rate would take 502."""
    assert table().chunks_ns([(10, 5000)]) == pytest.approx(2000.55 + 50_000)


def test_a_long_chunk_after_cached_context_goes_with_the_pairs() -> None:
    """10,000 tokens after 5,000 add 5 x 10^7 pairs at the rate of the longest prompt (502,050 / 50,005,000 ns)."""
    pairs_ns = 502_050 / 50_005_000
    assert table().chunks_ns([(10_000, 5000)]) == pytest.approx(502_050 + 5e7 * pairs_ns)


def test_several_chunks_share_the_device() -> None:
    """Two walks at once take the longer one; nothing cached adds nothing."""
    both = table().chunks_ns([(10, 5000), (10, 3000)])
    assert both == pytest.approx(table().chunks_ns([(10, 0), (10, 0)]) + 50_000)
    assert table().chunks_ns([(1000, 0)]) == table().time_ns(1.0, 1000.0) == pytest.approx(7005)


def test_a_window_bounds_the_walk() -> None:
    """100 keys in sight are walked through, not 5,000."""
    assert table(window=100).chunks_ns([(10, 5000)]) == pytest.approx(2000.55 + 100 * 10)


def test_without_a_known_walk_equal_pairs_count() -> None:
    """10 tokens after 5,000 attend 50,055 pairs, as a prompt of 315.9 tokens does."""
    unknown = table(chain_ns=0.0)
    assert unknown.chunks_ns([(10, 5000)]) == pytest.approx(unknown.time_ns(1.0, 315.9), rel=1e-4)


def test_decoding_requests_are_blocks_with_one_row_in_use() -> None:
    """8 requests of 4,000 tokens: 8 x 64 rows through 4,000 keys and 350 keys' worth of start at full rate."""
    one = table(reread_ns=0.001)
    beside = one.beside_ns(8, 32_000)
    assert one.one_launch
    assert beside == pytest.approx(TILE * 502_050 / 50_005_000 * (32_000 + 8 * CTA_NS / 10))
    assert one.chunks_ns([(1000, 0)], beside, 4000) == pytest.approx(7005 + max(beside, 40_000))
    assert table(reread_ns=50.0).beside_ns(8, 32_000) == 50.0 * 32_000


@settings(max_examples=100, deadline=None)
@given(CHUNKS, st.integers(0, 5), st.integers(1, 5000))
def test_more_cached_context_never_takes_less(chunks: Chunks, which: int, more: int) -> None:
    """On a real table, whatever the other chunks."""
    real = measured_prefill(RTX, RTX, "bf16", 32, 8, 128)
    chunk, past = chunks[which % len(chunks)]
    longer = [*chunks[: which % len(chunks)], (chunk, past + more), *chunks[which % len(chunks) + 1 :]]
    assert real.chunks_ns(longer) >= real.chunks_ns(chunks) * (1 - 1e-12)


@settings(max_examples=50, deadline=None)
@given(CHUNKS, st.integers(1, 100), st.integers(1, 4000))
def test_explained_prices_of_a_mixed_step_add_up(chunks: Chunks, seqs: int, context: int) -> None:
    """On a device with one launch for both, and on one with two."""
    for gpu in (RTX, B200):
        cost = build_cost(LLAMA, gpu, max_num_batched_tokens=16_384)
        step = (chunks, seqs, seqs * context, seqs)
        assert sum(price.ns for _, price in cost.explain(*step)) == pytest.approx(cost.step_ns(*step), abs=1)


def test_one_launch_is_for_flash_attention_2() -> None:
    """Ampere, Ada and the Blackwell of workstations; Hopper and B200 run other kernels."""
    one = {gpu.name: measured_prefill(gpu, gpu, "bf16", 32, 8, 128).one_launch for gpu in (RTX, H100, B200)}
    assert one == {"rtx_pro_6000": True, "h100_sxm": False, "b200_sxm": False}


def test_the_walk_is_told_by_rows_with_cached_context_where_there_are_some() -> None:
    """RTX 4090: 31 ns a key (519.5 us at 16,384, 9.5 without); RTX PRO 6000 from its lone heads: 20 ns."""
    ada = load_gpu("rtx_4090")
    assert measured_prefill(ada, ada, "bf16", 32, 8, 128).chain_ns == pytest.approx(31, rel=0.02)
    assert measured_prefill(RTX, RTX, "bf16", 32, 8, 128).chain_ns == pytest.approx(20, rel=0.02)


def test_cached_context_is_priced_as_somebody_else_measured_it() -> None:
    """LLMServingSim's 1,070 rows on RTX PRO 6000, none of them used: median within 7 %, 90 % within 20 %."""
    columns = store.read_table("rtx_pro_6000/llmservingsim", "prefill_attention")
    errors = second_source.errors("rtx_pro_6000", "llmservingsim", "prefill_attention")
    assert len(errors) == len(columns["past"])
    assert np.median(np.abs(errors)) < 0.07
    assert np.quantile(np.abs(errors), 0.9) < 0.20


def test_single_prompts_become_batches_by_launch_and_work() -> None:
    """Only single prompts measured: four of them take the launch once."""
    rows = prefill._by_launch_and_work(np.log(np.array([2000.0, 5000.0])))
    assert np.exp(rows[2]).tolist() == pytest.approx([2000, 14_000])
