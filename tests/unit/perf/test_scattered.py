"""GEMMs of a few shapes: own times come back, between them utilisation carries over."""

import numpy as np
import pytest

from simserve.perf import store
from simserve.perf.gemm import GemmTable
from simserve.perf.relatives import gemm_table
from simserve.perf.roofline import gemm_ns
from simserve.perf.scattered import ScatteredGemms, is_scattered
from simserve.spec.hardware import load_gpu

A40, A10 = load_gpu("a40"), load_gpu("a10")
SHAPES = ((4096, 4096), (12288, 4096), (4096, 11008), (22016, 4096))
M = np.array([1.0, 16, 256, 4096])


def rows(utilisation: dict[tuple[int, int], float]) -> store.Columns:
    """A table in which each shape reaches one share of the A40's roofline at every m."""
    parts = [(n, k, m, roof(n, k, m) / share) for (n, k), share in utilisation.items() for m in M]
    n, k, m, ns = (np.array(column) for column in zip(*parts, strict=True))
    return {"n": n, "k": k, "m": m.astype(np.int64), "latency_ns": np.rint(ns).astype(np.int64)}


def roof(n: int, k: int, m: float) -> float:
    """ns of the A40's roofline."""
    peak, bandwidth = A40.peak_flops["bf16"], A40.memory_bandwidth_bytes_per_s
    return float(gemm_ns(m, n, k, flops=peak, bandwidth=bandwidth, element=2.0))


def test_a_full_grid_is_not_scattered() -> None:
    """Five shapes of four n and two k are; the shipped grids are not."""
    assert is_scattered(rows(dict.fromkeys(SHAPES, 0.5)))
    assert isinstance(gemm_table(A40, A40, "bf16"), ScatteredGemms)
    a100 = load_gpu("a100_sxm")
    assert isinstance(gemm_table(a100, a100, "bf16"), GemmTable)


def test_measured_shapes_come_back() -> None:
    """Whatever their neighbours do."""
    table = ScatteredGemms(A40, A40, "bf16", rows(dict(zip(SHAPES, (0.4, 0.5, 0.6, 0.7), strict=True))))
    curve = table.curve(4096, 11008, M)
    assert curve.ns.tolist() == pytest.approx([roof(4096, 11008, m) / 0.6 for m in M], rel=1e-3)
    assert [curve.source_at(m) for m in (256, 300, 5000)] == ["measured", "interpolated", "modelled"]


def test_between_shapes_utilisation_is_between_theirs_and_nearly_the_nearest() -> None:
    """4096 x 4000 is all but measured; n = 10^6 is far from everything."""
    table = ScatteredGemms(A40, A40, "bf16", rows(dict(zip(SHAPES, (0.4, 0.5, 0.6, 0.7), strict=True))))
    near, between = table.curve(4096, 4000, M), table.curve(7000, 5000, M)
    assert roof(4096, 4000, 16) / near.ns[1] == pytest.approx(0.4, rel=0.01)
    assert 0.4 < roof(7000, 5000, 16) / between.ns[1] < 0.7
    assert between.shape_source == "interpolated"
    assert table.curve(1_000_000, 64, M).shape_source == "modelled"


def test_another_device_takes_the_utilisation() -> None:
    """A10 reaches the A40's share of its own roofline, and says whose."""
    table = ScatteredGemms(A10, A40, "fp16", rows(dict.fromkeys(SHAPES, 0.5)))
    curve = table.curve(4096, 4096, np.array([4096.0]))
    flop = 2 * 4096.0**3
    assert flop / curve.ns[0] * 1e9 == pytest.approx(0.5 * A10.peak_flops["fp16"], rel=1e-3)
    assert curve.shape_source == "transferred"
    assert "utilisation of a40" in curve.note


def test_left_out_shapes_are_priced_from_the_others() -> None:
    """Equal shares are found again; a shape that stands out is missed by what it stands out."""
    even = ScatteredGemms(A40, A40, "bf16", rows(dict.fromkeys(SHAPES, 0.5)))
    odd = ScatteredGemms(A40, A40, "bf16", rows({**dict.fromkeys(SHAPES, 0.5), SHAPES[0]: 0.25}))
    assert np.abs(even.left_out()[1]).max() < 1e-3
    assert odd.left_out()[1][: len(M)].tolist() == pytest.approx([-0.5] * len(M), abs=1e-3)
