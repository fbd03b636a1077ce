"""Gated delta nets and sparse attention: rows come back, prices between them follow the rules, laws hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.arch.ops import LinearAttention
from simserve.errors import SpecError
from simserve.perf import bounds, dsa, gdn, leave_out, store
from simserve.perf.model import TableCost, build_cost
from simserve.perf.query import query
from simserve.spec.hardware import load_gpu, load_link
from simserve.spec.model import load_model

H200, B200, A100, H20, T4 = (load_gpu(name) for name in ("h200_sxm", "b200_sxm", "a100_sxm", "h20", "t4"))
NET = LinearAttention(4, 16, 128, 128, 4, 4, 1)
BLOCK = dsa.block_of(6144, 8, "fp8_block")
KEYS: dict[str, str | int] = {"hidden": 6144, "dtype": "fp8_block", "kv_dtype": "bf16", "heads": 8}
QWEN, GLM = "Qwen/Qwen3.5-397B-A17B", "zai-org/GLM-5"


def row(family: str, device: str = "h200_sxm", **keys: object) -> int:
    """The one measured ns at these keys."""
    columns = store.read_table(device, family)
    mask = np.ones(len(columns["latency_ns"]), dtype=bool)
    for name, value in keys.items():
        mask &= columns[name] == value
    (found,) = columns["latency_ns"][mask].tolist()
    return int(found)


def net(op: str, batch: int, tokens: int) -> int:
    return row("gdn", op=op, k_heads=4, v_heads=16, batch=batch, tokens=tokens)


def test_nets_are_the_sum_of_their_two_kernels() -> None:
    """Prompts: convolution and scan; decode: their one-token forms; whatever was cached before."""
    prompts, decode = gdn.measured_prefill(H200, H200, NET), gdn.measured_decode(H200, H200, NET, 256)
    for batch, tokens in ((1, 1024), (8, 1024), (4, 4096)):
        both = net("conv", batch, tokens) + net("scan", batch, tokens)
        assert prompts.chunks_ns([(tokens, 0)] * batch) == pytest.approx(both)
        assert prompts.chunks_ns([(tokens, 5000)] * batch) == pytest.approx(both)
    for batch in (1, 64, 256):
        both = net("conv_update", batch, 1) + net("recurrence", batch, 1)
        assert decode.time_ns(batch, 1) == decode.time_ns(batch, 10**6) == pytest.approx(both)
    assert [decode.source_at(batch, 1) for batch in (64, 65)] == ["measured", "interpolated"]


def test_prompts_side_by_side_cost_less_than_one_as_long() -> None:
    """The scan walks along each prompt: 8 of 1024 tokens 63 us on H200, one of 8192 418."""
    prompts = gdn.measured_prefill(H200, H200, NET)
    assert prompts.chunks_ns([(1024, 0)] * 8) < 0.5 * prompts.chunks_ns([(8192, 0)])
    mixed = prompts.chunks_ns([(4096, 0), *[(1024, 0)] * 4])
    assert prompts.chunks_ns([(1024, 0)] * 8) < mixed < prompts.chunks_ns([(8192, 0)])


def test_past_the_longest_prompt_time_goes_with_the_tokens() -> None:
    """A state costs the same however much it has seen."""
    prompts = gdn.measured_prefill(H200, H200, NET)
    longest = prompts.tokens[-1]
    assert prompts.time_ns(1, 4 * longest) == pytest.approx(4 * prompts.time_ns(1, longest))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6000), min_size=1, max_size=8), st.integers(1, 2000))
def test_a_longer_prompt_never_costs_less(lengths: list[int], more: int) -> None:
    """Of nets, one prompt; of sparse blocks, new tokens, and context before them; but for the rows' own steps."""
    prompts = gdn.measured_prefill(B200, B200, NET)
    assert prompts.chunks_ns([(lengths[0] + more, 0)]) > 0.9 * prompts.chunks_ns([(lengths[0], 0)])
    blocks = dsa.measured_prefill(B200, B200, "bf16", BLOCK)
    chunks = [(length, 4096) for length in lengths]
    assert blocks.chunks_ns([*chunks, (more, 4096)]) > 0.9 * blocks.chunks_ns(chunks)
    assert blocks.chunks_ns([(more, 60_000)]) >= 0.999 * blocks.chunks_ns([(more, 4096)])


def test_heads_that_nobody_measured_and_other_devices_say_so() -> None:
    """Twelve key heads are the nearest by value heads, scaled; H20 takes H100's rows by bandwidth; T4 is roofline."""
    wide = gdn.measured_decode(H200, H200, LinearAttention(20, 80, 128, 128, 4, 4, 1), 64)
    known = gdn.measured_decode(H200, H200, LinearAttention(16, 64, 128, 128, 4, 4, 1), 64)
    assert wide.shape_source == "modelled"
    assert wide.time_ns(64, 64) == pytest.approx(80 / 64 * known.time_ns(64, 64))
    h100 = load_gpu("h100_sxm")
    moved = gdn.measured_decode(H20, h100, NET, 8)
    assert moved.shape_source == "transferred"
    ratio = h100.memory_bandwidth_bytes_per_s / H20.memory_bandwidth_bytes_per_s
    assert moved.time_ns(8, 8) == pytest.approx(ratio * gdn.measured_decode(h100, h100, NET, 8).time_ns(8, 8))
    state = 2 * 16 * 128 * 128 * 4 / T4.memory_bandwidth_bytes_per_s * 1e9
    plain = gdn.roofline_decode(T4, NET, 64)
    assert plain.time_ns(64, 64) - plain.time_ns(32, 32) > 32 * state
    prompts = gdn.roofline_prefill(T4, NET), gdn.measured_prefill(H200, H200, NET)
    assert prompts[0].chunks_ns([(4096, 0)]) > prompts[1].chunks_ns([(4096, 0)])


def test_sparse_decode_comes_back_and_flattens_past_the_top_k() -> None:
    """64 requests of 4096 tokens are a row; from 1024 to 2048 tokens time grows more than from 2048 to 4096."""
    table = dsa.measured_decode(H200, H200, "bf16", BLOCK, 64)
    times = [table.time_ns(64, 64 * context) for context in (1024, 2048, 4096)]
    assert times == pytest.approx([row("dsa_decode", **KEYS, batch=64, context=c) for c in (1024, 2048, 4096)])
    assert times[1] - times[0] > times[2] - times[1] > 0


def test_eager_decode_rows_are_not_in_the_tables() -> None:
    """Batches beyond the captured ones take 1.3 ms in the source, 13 times their half."""
    for device in ("b200_sxm", "h200_sxm"):
        c = store.read_table(device, "dsa_decode", dict(KEYS))
        assert int(c["latency_ns"].max()) < 1_000_000
        assert int(c["batch"].max()) == (512 if device == "b200_sxm" else 256)


def test_sparse_prompts_are_dense_up_to_the_top_k() -> None:
    """Two kernels: 2048 fresh tokens skip the indexer, one cached token more does not; rows come back."""
    table = dsa.measured_prefill(B200, B200, "bf16", BLOCK)
    assert table.chunks_ns([(2048, 1)]) > 1.5 * table.chunks_ns([(2048, 0)])
    fresh = row("dsa_prefill", "b200_sxm", **KEYS, past=0, batch=1, tokens=8192)
    assert table.chunks_ns([(8192, 0)]) == pytest.approx(fresh)
    late = row("dsa_prefill", "b200_sxm", **KEYS, past=16384, batch=1, tokens=4096)
    assert table.chunks_ns([(4096, 16384)]) == pytest.approx(late)


def test_prompts_together_are_one_with_as_many_pairs() -> None:
    """Two of 4096 tokens cost what one of 8192 does, 7 % more than their row on B200."""
    table = dsa.measured_prefill(B200, B200, "bf16", BLOCK)
    both = table.chunks_ns([(4096, 0)] * 2)
    assert both == pytest.approx(table.chunks_ns([(8192, 0)]))
    assert both == pytest.approx(row("dsa_prefill", "b200_sxm", **KEYS, past=0, batch=2, tokens=4096), rel=0.1)


def test_sparse_blocks_without_rows() -> None:
    """A100 has no such table: modelled, slower than H200; six heads take eight's times; nvfp4 those of fp8_block."""
    plain, known = dsa.RooflinePrefill(A100, BLOCK), dsa.measured_prefill(H200, H200, "bf16", BLOCK)
    assert plain.shape_source == "modelled"
    assert plain.chunks_ns([(16384, 0)]) > plain.chunks_ns([(8192, 0)]) > known.chunks_ns([(8192, 0)]) / 4
    few, narrow = dsa.block_of(6144, 6, "fp8_block"), dsa.block_of(6144, 8, "nvfp4")
    for other in (few, narrow):
        table = dsa.measured_prefill(H200, H200, "bf16", other)
        assert table.shape_source == "modelled"
        assert table.chunks_ns([(4096, 0)]) == known.chunks_ns([(4096, 0)])
    slots = dsa.roofline_decode(A100, "bf16", BLOCK, 8)
    assert slots.time_ns(8, 8 * 65536) > slots.time_ns(8, 8 * 2048) > slots.time_ns(8, 8)


@pytest.mark.parametrize("family", ["gdn", "dsa_prefill", "dsa_decode"])
def test_no_row_beats_physics(family: str) -> None:
    """The bound of every row, counted by hand for one: the state of 64 requests read and written in fp32."""
    columns = store.read_table("h200_sxm", family)
    least = bounds.bound_ns(family, columns, H200, load_link(H200.interconnect))
    assert (least > 0).all()
    assert (columns["latency_ns"] >= least).all()
    if family == "gdn":
        at = (columns["op"] == "recurrence") & (columns["v_heads"] == 16) & (columns["k_heads"] == 4)
        at &= columns["batch"] == 64
        state = 2 * 64 * 16 * 128 * 128 * 4 / H200.memory_bandwidth_bytes_per_s * 1e9
        assert least[at].tolist() == pytest.approx([state])


@pytest.mark.parametrize(("family", "most"), [("gdn", 0.02), ("dsa_prefill", 0.04), ("dsa_decode", 0.03)])
def test_left_out_errors_are_stored(family: str, most: float) -> None:
    """The figures of provenance.json are those of the rows, and stay where they are."""
    now = leave_out.errors("h200_sxm", family)[leave_out.BLOCK]
    stored = store.provenance("h200_sxm", family)["left_out_error"]
    assert (now.median, now.p90, now.points) == (stored["median"], stored["p90"], stored["points"])
    assert now.median <= most


@pytest.fixture(scope="module")
def costs() -> dict[str, TableCost]:
    """Both models compiled on B200."""
    return {
        name: build_cost(load_model(name), B200, tensor_parallel_size=8, dtype="fp8_block", max_num_seqs=64)
        for name in (QWEN, GLM)
    }


@pytest.mark.parametrize("name", [QWEN, GLM])
def test_a_step_is_the_sum_of_its_operations(name: str, costs: dict[str, TableCost]) -> None:
    """Decode, prompts, both, and a chunk after cached context; a run of decode steps is those steps."""
    cost = costs[name]
    for step in (([], 16, 16 * 1500, 16), ([(1024, 0)] * 4, 0, 0, 4), ([(512, 3000)], 8, 8000, 9)):
        ns, rows = cost.step_ns(*step), cost.explain(*step)
        assert sum(price.ns for _, price in rows) == pytest.approx(ns, abs=1)
    run = cost.decode_run_ns(8, 8000, 5)
    assert run.tolist() == [cost.step_ns([], 8, 8000 + 8 * i, 8) for i in range(5)]
    longer = [cost.step_ns([], 8, 8 * context, 8) for context in (1000, 4000, 16000, 64000)]
    assert longer == sorted(longer)


def test_nets_do_not_grow_with_the_context(costs: dict[str, TableCost]) -> None:
    """Their part of a decode step is the same at any context; that of full attention is not."""
    short, far = (dict(costs[QWEN].explain([], 8, 8 * context, 8)) for context in (1000, 50000))
    assert short["decode_attention_linear"].ns == far["decode_attention_linear"].ns
    assert short["decode_attention"].ns < far["decode_attention"].ns
    both = 45 * (net_b200("conv_update", 8) + net_b200("recurrence", 8))
    assert short["decode_attention_linear"].ns == pytest.approx(both)


def net_b200(op: str, batch: int) -> int:
    return row("gdn", "b200_sxm", op=op, k_heads=2, v_heads=8, batch=batch, tokens=1)


def test_queries_answer() -> None:
    """`perfdb query` of the three families; a hidden size that nobody measured is one line."""
    keys = {"hidden": 6144, "heads": 8, "kv_dtype": "bf16"}
    assert query("h200_sxm", "dsa_decode", {**keys, "batch": 64, "context": 4096}).ns == pytest.approx(
        row("dsa_decode", **KEYS, batch=64, context=4096)
    )
    assert query("b200_sxm", "dsa_prefill", {**keys, "tokens": 8192}).source == "interpolated"
    assert query("h200_sxm", "gdn", {"k_heads": 4, "v_heads": 16, "batch": 64}).source == "measured"
    prompts = query("h200_sxm", "gdn", {"k_heads": 4, "v_heads": 16, "tokens": 1024})
    assert prompts.ns == pytest.approx(net("conv", 1, 1024) + net("scan", 1, 1024))
    with pytest.raises(SpecError, match="hidden size of a measured model"):
        query("h200_sxm", "dsa_decode", {"hidden": 5, "heads": 8, "context": 1})
