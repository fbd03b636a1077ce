"""Experts, MLA, encoders, windows, collectives: rows come back as they are, prices between them are physical."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.errors import Infeasible, UnknownName
from simserve.perf import bounds, collective, decode, encoder, mla, prefill, store
from simserve.perf.curves import monotone
from simserve.perf.moe import MoeShape, MoeTable, moe_roofline_ns, roofline_moe
from simserve.spec.hardware import load_gpu, load_link

H100, B200, T4 = load_gpu("h100_sxm"), load_gpu("b200_sxm"), load_gpu("t4")
QWEN = MoeShape(2048, 768, 128, 8)


def row(family: str, **keys: object) -> int:
    """The one measured ns at these keys on H100."""
    columns = store.read_table("h100_sxm", family)
    mask = np.ones(len(columns["latency_ns"]), dtype=bool)
    for name, value in keys.items():
        mask &= columns[name] == value
    (found,) = columns["latency_ns"][mask].tolist()
    return int(found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=9), st.lists(st.floats(0.1, 3), min_size=9, max_size=9))
def test_curves_go_through_their_points_and_stay_between_them(steps: list[float], gaps: list[float]) -> None:
    """Rising points give a rising curve that never leaves the interval of its neighbours."""
    y, x = np.cumsum(steps), np.cumsum(gaps[: len(steps)])
    at = np.sort(np.concatenate([x, np.linspace(x[0], x[-1], 50)]))
    curve = monotone(x, y, at)
    assert np.allclose(monotone(x, y, x), y)
    assert (np.diff(curve) >= -1e-9).all()
    assert monotone(x, y, np.array([x[0] - 1, x[-1] + 1])).tolist() == [y[0], y[-1]]


def test_a_cubic_curve_is_followed_better_than_by_straight_lines() -> None:
    """Floor plus square law, as attention: at most 5 % off between points four times apart."""
    x = np.log(4.0 ** np.arange(8))
    law = np.log(10 + np.exp(x) ** 2 / 1e3)
    at = np.linspace(x[0], x[-1], 200)
    truth = np.log(10 + np.exp(at) ** 2 / 1e3)
    assert np.abs(monotone(x, law, at) - truth).max() < 0.5 * np.abs(np.interp(at, x, law) - truth).max()


def test_measured_experts_come_back() -> None:
    """Qwen3-30B-A3B's layer at 64 and 4096 tokens; between rows interpolated, past the last modelled and linear."""
    table = MoeTable(H100, H100, "bf16", "balanced")
    curve = table.curve(QWEN, np.array([64.0, 100.0, 4096.0, 16384.0, 32768.0]))
    keys = {"dtype": "bf16", "hidden": 2048, "inter": 768, "experts": 128, "topk": 8, "tp": 1, "ep": 1}
    for at, tokens in ((0, 64), (2, 4096)):
        assert curve.ns[at] == pytest.approx(row("moe", **keys, distribution="balanced", tokens=tokens))
    assert [curve.source_at(t) for t in (64, 100, 32768)] == ["measured", "interpolated", "modelled"]
    assert curve.ns[4] == pytest.approx(2 * curve.ns[3])


def test_splits_between_and_beside_the_measured_ones() -> None:
    """ep 3 lies between 2 and 4; tp and ep together are modelled and faster than either."""
    table, tokens = MoeTable(H100, H100, "bf16"), np.array([16.0, 512.0, 8192.0])
    by_ep = {ep: table.curve(MoeShape(*QWEN.model, ep=ep), tokens) for ep in (2, 3, 4)}
    assert by_ep[3].shape_source == "interpolated"
    low, mid, high = (by_ep[ep].ns for ep in (4, 3, 2))
    assert ((np.minimum(low, high) <= mid * 1.001) & (mid <= np.maximum(low, high) * 1.001)).all()
    both = table.curve(MoeShape(*QWEN.model, tp=2, ep=2), tokens)
    assert both.shape_source == "modelled"
    assert both.ns[2] < by_ep[2].ns[2]


def test_an_unknown_model_takes_the_nearest_at_equal_utilisation() -> None:
    """Twice the intermediate size: modelled, slower, and above its own roofline."""
    table, tokens = MoeTable(H100, H100, "bf16"), np.array([1.0, 64.0, 4096.0])
    wide = MoeShape(2048, 1536, 128, 8)
    curve = table.curve(wide, tokens)
    assert curve.shape_source == "modelled"
    assert "utilisation of the layer" in curve.note
    assert (curve.ns > moe_roofline_ns(H100, "bf16", wide, tokens)).all()
    assert curve.ns[2] > table.curve(QWEN, tokens).ns[2]


def test_experts_without_a_table_are_roofline_and_transfer_follows_it() -> None:
    """T4 has no table; a bandwidth twice as high halves what the weights cost."""
    tokens = np.array([1.0, 4096.0])
    assert (roofline_moe(H100, "bf16", QWEN, tokens).ns > moe_roofline_ns(H100, "bf16", QWEN, tokens)).all()
    moved = MoeTable(B200, H100, "bf16").curve(QWEN, tokens)
    assert moved.shape_source == "transferred"
    assert (moved.ns < MoeTable(H100, H100, "bf16").curve(QWEN, tokens).ns).all()
    with pytest.raises(Infeasible, match="does not compute in fp8"):
        roofline_moe(T4, "fp8", QWEN, tokens)


def test_mla_kernels_come_back_and_lie_between_heads() -> None:
    """16 heads are rows; 24 lie between 16 and 32."""
    keys = {"part": "kernel", "dtype": "bf16", "kv_dtype": "bf16", "heads": 16}
    table = mla.measured_mla_decode(H100, H100, "bf16", 16, 256)
    assert table.time_ns(64, 64 * 4096) == pytest.approx(row("mla_decode", **keys, batch=64, context=4096))
    assert table.source_at(64, 64 * 4096) == "measured"
    few, mid, many = (mla.measured_mla_decode(H100, H100, "bf16", h, 256).time_ns(64, 2**22) for h in (16, 24, 32))
    assert few <= mid <= many
    prompt = mla.measured_mla_prefill(H100, H100, "bf16", 16)
    assert prompt.time_ns(1, 4096) == pytest.approx(row("mla_prefill", **keys, batch=1, tokens=4096))
    assert mla.measured_mla_prefill(H100, H100, "bf16", 24).shape_source == "interpolated"


def test_mla_of_fewer_heads_than_measured() -> None:
    """H800 has 128 heads only: fewer cost less by FLOP, never less than the shortest time measured, and say so."""
    h800 = load_gpu("h800")
    whole, split = (mla.measured_mla_prefill(h800, h800, "bf16", heads) for heads in (128, 16))
    assert split.shape_source == "modelled"
    assert split.time_ns(1, 32768) == pytest.approx(whole.time_ns(1, 32768) / 8)
    assert split.time_ns(1, 1024) == pytest.approx(whole.time_ns(1, 1024))  # the shortest prompt measured
    many, few = (mla.measured_mla_decode(h800, h800, "bf16", heads, 64) for heads in (128, 16))
    assert few.shape_source == "modelled"
    assert many.ns.min() <= few.time_ns(64, 2**20) <= many.time_ns(64, 2**20)


def test_mla_module_and_batched_gemm() -> None:
    """The block of DeepSeek-V3 costs more than its kernel; fp8 weights no more than bf16 ones at one request."""
    kernel = mla.measured_mla_decode(H100, H100, "bf16", 128, 8)
    blocks = [
        mla.measured_mla_decode(H100, H100, "bf16", 128, 8, part="module", dtype=name) for name in ("bf16", "fp8_block")
    ]
    assert kernel.time_ns(1, 1024) < blocks[1].time_ns(1, 1024) < blocks[0].time_ns(1, 1024)
    curve = mla.measured_bmm(H100, H100, "pre", 16, np.array([8.0, 10.0, 40_000.0]))
    assert curve.ns[0] == pytest.approx(row("mla_bmm", op="pre", dtype="bf16", heads=16, tokens=8))
    assert [curve.source_at(t) for t in (8, 10, 40_000)] == ["measured", "interpolated", "modelled"]


def test_mla_without_a_table() -> None:
    """Roofline prices grow with the context and lie above the KV read."""
    table = mla.roofline_mla_decode(H100, "bf16", 16, 8)
    assert table.time_ns(1, 2**20) > 2**20 * 576 * 2 / 3.35e12 * 1e9
    assert mla.roofline_mla_prefill(H100, 16).time_ns(1, 8192) > 3 * mla.roofline_mla_prefill(H100, 16).time_ns(1, 4096)


def test_encoder_rows_and_roofline() -> None:
    """A row of a 16-head vision tower; without a table the price is positive and grows with the square."""
    table = encoder.measured_encoder(H100, H100, 16, 80)
    keys = {"dtype": "bf16", "head_dim": 80, "heads": 16, "batch": 1, "tokens": 4096}
    assert table.time_ns(1, 4096) == pytest.approx(row("encoder_attention", **keys))
    bare = encoder.roofline_encoder(H100, 16, 80)
    assert bare.time_ns(1, 65536) / bare.time_ns(1, 32768) == pytest.approx(4, rel=0.01)


def test_windows_are_measured_and_saturate() -> None:
    """gpt-oss: 64 over 8 heads of 64, window 128: rows come back; long contexts hardly cost more."""
    keys = {"kv_dtype": "bf16", "head_dim": 64, "heads": 64, "kv_heads": 8, "window": 128}
    table = decode.measured_decode(H100, H100, "bf16", 64, 8, 64, 256, window=128)
    measured = row("decode_attention", **keys, batch=32, context=4096)
    assert table.time_ns(32, 32 * 4096) == pytest.approx(measured, rel=0.05)
    full = decode.measured_decode(H100, H100, "bf16", 64, 8, 64, 256)
    assert table.time_ns(64, 64 * 32768) < 0.2 * full.time_ns(64, 64 * 32768)
    prompt = prefill.measured_prefill(H100, H100, "bf16", 64, 8, 64, window=128)
    assert prompt.time_ns(1, 8192) == pytest.approx(row("prefill_attention", **keys, batch=1, tokens=8192))
    assert prompt.time_ns(1, 65536) / prompt.time_ns(1, 32768) == pytest.approx(2)


def test_equivalent_prompts_under_a_window() -> None:
    """A chunk of 4 after 10 with window 3 attends 12 pairs, as a prompt of 5 tokens does (1 + 2 + 3 + 3 + 3)."""
    assert prefill.windowed_pairs(4, 10, 3) == 12
    assert prefill.windowed_pairs(5, 0, 3) == 12
    assert prefill.equivalent([(4, 10)], window=3).tokens == pytest.approx(5)
    assert prefill.equivalent([(4, 10)], window=1000).tokens == pytest.approx(prefill.equivalent([(4, 10)]).tokens)


@pytest.mark.parametrize("op", collective.OPS)
def test_collectives(op: str) -> None:
    """A row comes back; twice the bytes past the table take twice the time; three ranks are modelled."""
    sizes = np.array([2.0**20, 2.0**30, 2.0**31])
    curve = collective.measured_collective(H100, H100, op, 8, sizes)
    assert curve.ns[0] == pytest.approx(row("collective", op=op, method="nccl", ranks=8, bytes=2**20))
    assert curve.ns[2] / curve.ns[1] == pytest.approx(2, rel=0.02)
    assert collective.measured_collective(H100, H100, op, 3, sizes).source == "modelled"
    assert (collective.roofline_collective(T4, 2, sizes).ns > 0).all()


def test_exchange_of_tokens_between_expert_ranks() -> None:
    """A row of DeepEP comes back; half the hidden size halves it; an unknown method is named."""
    tokens, shape = np.array([4096.0, 131072.0]), (8, 7168, 256, 8)
    curve = collective.measured_exchange(H100, H100, "dispatch", "deepep_ht", shape, tokens)
    keys = {"op": "dispatch", "method": "deepep_ht", "ranks": 8, "hidden": 7168, "experts": 256, "topk": 8}
    assert curve.ns[0] == pytest.approx(row("moe_exchange", **keys, tokens=4096))
    assert (curve.source_at(4096), curve.source_at(131072)) == ("measured", "modelled")
    half = collective.measured_exchange(H100, H100, "dispatch", "deepep_ht", (8, 3584, 256, 8), tokens)
    assert half.source == "modelled"
    assert half.ns[0] < 0.75 * curve.ns[0]
    with pytest.raises(UnknownName, match="did you mean 'deepep_ht'"):
        collective.measured_exchange(H100, H100, "dispatch", "deepep_hq", shape, tokens)


@settings(max_examples=150, deadline=None)
@given(
    device=st.sampled_from(["h100_sxm", "gb200", "l40s"]),
    index=st.integers(0, 50),
    tp=st.sampled_from([1, 2, 3, 8]),
    ep=st.sampled_from([1, 4, 6, 16]),
    tokens=st.integers(1, 60_000),
)
def test_no_expert_layer_is_faster_than_its_roofline(device: str, index: int, tp: int, ep: int, tokens: int) -> None:
    """Measured, between, split both ways, past the table: never below FLOP / peak and the weights that must be read."""
    gpu = load_gpu(device)
    table = MoeTable(gpu, gpu, "bf16", "balanced")
    model = table.models[index % len(table.models)]
    ns = table.curve(MoeShape(*model, tp=tp, ep=ep), np.array([float(tokens)])).ns
    names = ("hidden", "inter", "experts", "topk")
    columns = {name: np.array([value]) for name, value in zip(names, model, strict=True)}
    columns |= {"tp": np.array([tp]), "ep": np.array([ep]), "tokens": np.array([tokens])}
    columns |= {"dtype": np.array(["bf16"], dtype=object), "distribution": np.array(["balanced"], dtype=object)}
    assert ns[0] >= bounds.bound_ns("moe", columns, gpu, load_link(gpu.interconnect))[0]


@settings(max_examples=100, deadline=None)
@given(batch=st.integers(1, 256), context=st.integers(1, 1_000_000), window=st.sampled_from([0, 128]))
def test_longer_contexts_never_cost_less(batch: int, context: int, window: int) -> None:
    """MLA and windowed decode grow with the sum of contexts, and MLA reads its cache at the device's rate at best."""
    tables = [_mla_table(), _windowed_table(window)]
    for table in tables:
        assert table.time_ns(batch, batch * context) <= table.time_ns(batch, 2 * batch * context) * (1 + 1e-9)
    assert tables[0].time_ns(batch, batch * context) >= batch * context * 576 * 2 / 3.35e12 * 1e9


@cache
def _mla_table() -> decode.DecodeTable:
    return mla.measured_mla_decode(H100, H100, "bf16", 16, 256)


@cache
def _windowed_table(window: int) -> decode.DecodeTable:
    return decode.measured_decode(H100, H100, "bf16", 64, 8, 64, 256, window=window)
