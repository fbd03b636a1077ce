"""What a pass of a vision encoder takes: sums, batches, windows, ranks, and the published times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from simserve.arch.bidirectional import Rows
from simserve.arch.encoder import encoder_flop
from simserve.arch.vision import image_rows
from simserve.errors import Infeasible
from simserve.perf import store
from simserve.perf.vision import EncoderCost
from simserve.spec.hardware import GpuSpec, load_gpu
from simserve.spec.model import load_model
from simserve.spec.vision import VisionSpec

QWEN3, QWEN25, PANGU = "Qwen/Qwen3-VL-8B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "openPangu/openPangu-VL-7B"
INTERN, MINICPM = "OpenGVLab/InternVL2_5-26B", "openbmb/MiniCPM-V-2_6"
LLAMA = "meta-llama/Llama-3.2-11B-Vision-Instruct"
H100, A100, H20 = (load_gpu(name) for name in ("h100_sxm", "a100_sxm", "h20"))


def vision_of(name: str) -> VisionSpec:
    """A model's encoder."""
    vision = load_model(name).vision
    assert vision is not None
    return vision


def cost_of(name: str, gpu: GpuSpec = H100, eager_ns_per_op: int = 0) -> tuple[EncoderCost, Callable[[int, int], Rows]]:
    """Prices, and the rows of an image of (height, width)."""
    vision = vision_of(name)
    return EncoderCost(gpu, vision, eager_ns_per_op=eager_ns_per_op), lambda h, w: image_rows(vision, h, w)


@pytest.mark.parametrize("gpu", [H100, A100], ids=lambda g: g.name)
@pytest.mark.parametrize("name", [QWEN3, QWEN25, INTERN, MINICPM, LLAMA])
def test_operations_add_up(name: str, gpu: GpuSpec) -> None:
    """To the time of the pass, with a launch floor above it too; nothing takes no time."""
    cost, rows = cost_of(name, gpu)
    slow, _ = cost_of(name, gpu, eager_ns_per_op=5_000_000)
    for images in ([rows(720, 1280)], [rows(300, 400), rows(1080, 1920), rows(896, 896)]):
        assert cost.encode_ns(images) == pytest.approx(sum(p.ns for _, p in cost.explain(images)), abs=1)
        assert slow.encode_ns(images) == slow.ops.launches * 5_000_000
        assert slow.encode_ns(images) == pytest.approx(sum(p.ns for _, p in slow.explain(images)), abs=1)
    assert (cost.encode_ns([]), cost.explain([])) == (0, [])


@pytest.mark.parametrize("gpu", [H100, A100], ids=lambda g: g.name)
@pytest.mark.parametrize("name", [QWEN3, QWEN25, INTERN, MINICPM, LLAMA])
def test_a_batch_of_large_images_gains_nothing(name: str, gpu: GpuSpec) -> None:
    """ModServe: linear in the batch; within an eighth of it here, though nothing says so."""
    cost, rows = cost_of(name, gpu)
    one = rows(1080, 1920)
    alone = cost.encode_ns([one])
    for batch in (2, 4, 8, 16):
        assert cost.encode_ns([one] * batch) == pytest.approx(batch * alone, rel=0.13)


def test_a_batch_of_tiny_images_does_gain() -> None:
    """64 patches fill no H100: sixteen such images take less than eight times as long as one."""
    cost, rows = cost_of(QWEN3)
    tiny = rows(256, 256)

    assert cost.encode_ns([tiny] * 16) < 8 * cost.encode_ns([tiny])


def test_more_pixels_take_longer() -> None:
    """Each step up; four times the pixels more than four times as long, for attention is quadratic."""
    cost, rows = cost_of(QWEN3)
    times = [cost.encode_ns([rows(side, side)]) for side in (512, 1024, 2048, 4096)]

    assert times[1] > 2 * times[0]
    assert times[2] > 4 * times[1]
    assert times[3] > 4 * times[2]


def test_what_attends_together_costs() -> None:
    """One image of 16,384 patches takes longer than four of 4,096; windows make the difference small."""
    (whole, _), (windows, _) = cost_of(QWEN3), cost_of(QWEN25)
    ratios = [cost.encode_ns([(16_384,)]) / cost.encode_ns([(4096,)] * 4) for cost in (whole, windows)]

    assert ratios[0] > ratios[1] > 1


def test_attention_of_measured_shapes_is_the_row() -> None:
    """One image of 4,096 patches, 16 heads of 80 on H100, in the 4 layers that see all of it."""
    columns = store.read_table("h100_sxm", "encoder_attention")
    keys = {"heads": 16, "head_dim": 80, "batch": 1, "tokens": 4096}
    row = np.logical_and.reduce([columns[name] == value for name, value in keys.items()])
    cost, _ = cost_of(QWEN25)
    told = dict(cost.explain([(4096,)]))

    assert told["attention"].ns == pytest.approx(4 * float(columns["latency_ns"][row][0]), rel=1e-6)
    assert (told["attention"].source, told["attention"].table) == ("measured", "h100_sxm/encoder_attention")


def test_windows_beyond_the_largest_measured_batch_go_with_their_number() -> None:
    """640 windows of 64 patches take ten times as long as the 64 that were measured."""
    cost, _ = cost_of(QWEN25)
    few, many = (dict(cost.explain([(64 * count,)]))["window_attention"].ns for count in (64, 640))

    assert many == pytest.approx(10 * few, rel=1e-9)


def test_where_prices_come_from() -> None:
    """H100's own tables; A100 has none of encoders: GEMMs are its own, attention is the roofline's."""
    near, far = cost_of(QWEN3)[0], cost_of(QWEN3, A100)[0]

    assert set(near.provenance()) == {"h100_sxm/gemm", "h100_sxm/encoder_attention", "roofline/elementwise"}
    assert set(far.provenance()) == {"a100_sxm/gemm", "roofline/encoder_attention", "roofline/elementwise"}
    assert near.provenance()["h100_sxm/gemm"]["licence"]


def test_ranks_take_less_and_pay_for_their_sums() -> None:
    """Two ranks: faster than one, slower than half of it; what does not divide is refused."""
    vision = vision_of(QWEN3)
    one, two = (EncoderCost(H100, vision, tensor_parallel_size=ranks) for ranks in (1, 2))
    images = [(4096,)] * 4

    assert one.encode_ns(images) / 2 < two.encode_ns(images) < one.encode_ns(images)
    assert "all_reduce" in dict(two.explain(images))
    with pytest.raises(Infeasible, match="does not divide the 16 heads"):
        EncoderCost(H100, vision, tensor_parallel_size=3)


def test_no_device_is_faster_than_its_peak() -> None:
    """Matrix products and attention at 16 bits."""
    for gpu in (H100, A100, H20, load_gpu("l40s")):
        for name in (QWEN3, QWEN25, INTERN, LLAMA):
            cost, rows = cost_of(name, gpu)
            images = [rows(1080, 1920)] * 2
            assert cost.encode_ns(images) / 1e9 > encoder_flop(vision_of(name), images) / gpu.peak_flops["bf16"]


@pytest.mark.parametrize(("height", "width", "low", "high"), [(652, 802, 27, 30), (720, 1280, 50, 50)])
def test_epd_serve_s_encoder_on_ascend(height: int, width: int, low: float, high: float) -> None:
    """openPangu-VL on a 910B of an unstated kind: the three kinds enclose what the digest derives, in ms.

    Not tuned to it: GEMMs at A100's utilisation, brought to the share that prefill shows, attention by the roofline.
    """
    found = []
    for name in ("ascend_910b1", "ascend_910b3", "ascend_910b4"):
        cost, rows = cost_of(PANGU, load_gpu(name))
        found.append(cost.encode_ns([rows(height, width)]) / 1e6)

    assert found == sorted(found)
    assert 0.9 * low < found[0] < 1.1 * high
    assert found[1] < 1.25 * high


def test_modserve_s_encoders_are_an_order_apart() -> None:
    """SigLIP-400M to InternViT-6B, five tiles of 448 pixels each: ten times the time on A100."""
    (small, rows), (large, tile) = cost_of(MINICPM, A100), cost_of(INTERN, A100)

    assert large.encode_ns([tile(896, 896)]) / small.encode_ns([rows(896, 896)]) == pytest.approx(10, rel=0.15)
