"""Rules of interpolation on hand-made grids and work equivalence."""

import numpy as np
import pytest

from simserve.perf import decode, prefill, roofline
from simserve.perf.collective import measured_all_reduce, roofline_all_reduce
from simserve.perf.elementwise import elementwise_ns
from simserve.perf.gemm import GemmTable
from simserve.perf.priced import worst
from simserve.perf.shapes import nearest
from simserve.spec.hardware import load_gpu

H100 = load_gpu("h100_sxm")


def test_pairs_and_their_inverse() -> None:
    """A chunk of 4 after 10 attends 11 + 12 + 13 + 14 = 50 pairs; 10 tokens alone attend 55."""
    assert roofline.causal_pairs(4, 10) == 50
    assert roofline.equivalent_tokens(55) == pytest.approx(10)


def test_equal_prompts_are_their_own_equivalent() -> None:
    """n equal prompts without past give batch n; a long one beside tiny ones gives a batch near 1."""
    assert prefill.equivalent([(512, 0)] * 4) == prefill.Equivalent(4.0, pytest.approx(512), True)
    mixed = prefill.equivalent([(4096, 0), (16, 0)])
    assert mixed.batch == pytest.approx(1.0, abs=1e-3)
    assert mixed.tokens == pytest.approx(4096, rel=1e-3)


def test_one_prompt_in_two_chunks_attends_the_same_pairs() -> None:
    """Pairs of (a, 0) and (b, a) add up to those of (a + b, 0)."""
    both = roofline.causal_pairs(300, 0) + roofline.causal_pairs(200, 300)
    assert both == roofline.causal_pairs(500, 0)


def test_decode_segments_reproduce_the_knots() -> None:
    """a + c S at S = 2^j is the table's value, j = bit_length."""
    ns = np.cumsum(np.arange(1, decode.EXPONENTS + 1, dtype=float))[None, :]
    a, c = decode.segments(ns)
    for j in (0, 3, 20):
        size = 2**j
        k = size.bit_length()
        assert a[0, k] + c[0, k] * size == pytest.approx(ns[0, j])


def test_gemm_grid_point_and_midpoint() -> None:
    """On the grid the row itself; between, within the two neighbours' times."""
    table = GemmTable(H100, H100, "bf16")
    m = np.array([32.0])
    low, mid, high = (table.curve(n, 4096, m).ns[0] for n in (4096, 4600, 5120))
    assert low == pytest.approx(16506)
    assert low < mid < high


def test_gemm_outside_follows_the_roofline() -> None:
    """Twice the columns past the edge take twice the time."""
    table = GemmTable(H100, H100, "bf16")
    one, two = (table.curve(n, 4096, np.array([8192.0])) for n in (100_000, 200_000))
    assert two.ns[0] / one.ns[0] == pytest.approx(2, rel=0.02)
    assert one.source_at(8192) == "modelled"


def test_cached_shapes_are_priced_at_streamed_bandwidth() -> None:
    """L40S, 4096 x 4096 at one token: the benchmark hit L2; the price is above the memory roofline."""
    gpu = load_gpu("l40s")
    table = GemmTable(gpu, gpu, "bf16")
    bound = roofline.gemm_bytes(1.0, 4096, 4096, 2) / gpu.memory_bandwidth_bytes_per_s * 1e9
    assert 1.05 < table.curve(4096, 4096, np.array([1.0])).ns[0] / bound < 1.4


def test_nearest_shape_keeps_the_group() -> None:
    """32 heads over 32 stand on 8 over 8 at four times the batch; an unknown group is 'modelled'."""
    measured = [(8, 8, 128), (32, 8, 128), (16, 2, 128)]
    match = nearest(32, 32, 128, measured)
    assert (match.heads, match.kv_heads, match.batch_scale, match.source) == (8, 8, 4.0, "interpolated")
    assert nearest(28, 4, 128, measured).source == "modelled"


def test_all_reduce_takes_the_faster_method_and_scales_beyond() -> None:
    """128 MiB and twice that: bandwidth bound; three ranks are marked as modelled."""
    sizes = np.array([2.0**30, 2.0**31])
    curve = measured_all_reduce(H100, H100, 4, sizes)
    assert curve.ns[1] / curve.ns[0] == pytest.approx(2, rel=0.02)
    assert curve.source_at(2**31) == "modelled"
    assert measured_all_reduce(H100, H100, 3, sizes).source == "modelled"
    assert (roofline_all_reduce(load_gpu("a10"), 2, sizes).ns > 0).all()


def test_elementwise_is_launch_or_bytes() -> None:
    """Small passes cost the launch, large ones 80 % of the bandwidth."""
    ns = elementwise_ns(H100, np.array([1.0, 3.35e9]))
    assert ns[0] == pytest.approx(roofline.ELEMENTWISE_FLOOR_NS)
    assert ns[1] == pytest.approx(1e6 / 0.8, rel=0.01)


def test_worst_source() -> None:
    """The least trustworthy wins."""
    assert worst("measured", "transferred", "interpolated") == "transferred"
