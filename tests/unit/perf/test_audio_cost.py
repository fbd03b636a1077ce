"""What a pass of an audio encoder takes, and both encoders of a model together."""

from __future__ import annotations

import numpy as np
import pytest

from simserve.arch.audio import audio_rows
from simserve.arch.encoder import encoder_flop
from simserve.perf import store
from simserve.perf.encoders import Encoders
from simserve.perf.vision import EncoderCost
from simserve.sim.images import Image
from simserve.spec.audio import AudioSpec
from simserve.spec.hardware import GpuSpec, load_gpu
from simserve.spec.model import load_model

QWEN2, OMNI = "Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2.5-Omni-7B"
H100, A100 = load_gpu("h100_sxm"), load_gpu("a100_sxm")


def audio_of(name: str) -> AudioSpec:
    """A model's encoder."""
    audio = load_model(name).audio
    assert audio is not None
    return audio


def encode_ns(name: str, *seconds: float, gpu: GpuSpec = H100) -> int:
    """A pass over sounds of so many seconds."""
    audio = audio_of(name)
    return EncoderCost(gpu, audio).encode_ns([audio_rows(audio, round(1000 * each)) for each in seconds])


@pytest.mark.parametrize("gpu", [H100, A100], ids=lambda g: g.name)
@pytest.mark.parametrize("name", [QWEN2, OMNI])
def test_operations_add_up(name: str, gpu: GpuSpec) -> None:
    """To the time of the pass."""
    audio = audio_of(name)
    cost = EncoderCost(gpu, audio)
    for seconds in ([0.01], [30], [3, 7.33, 45]):
        rows = [audio_rows(audio, round(1000 * each)) for each in seconds]
        assert cost.encode_ns(rows) == pytest.approx(sum(price.ns for _, price in cost.explain(rows)), abs=1)
    assert "conv_1" in dict(cost.explain([(100,)]))


def test_silence_takes_as_long_as_sound() -> None:
    """Filled up to 30 s, one second takes what thirty take; not filled up, it takes less."""
    assert encode_ns(QWEN2, 1) == encode_ns(QWEN2, 30)
    assert encode_ns(OMNI, 1) < encode_ns(OMNI, 30) < encode_ns(QWEN2, 30)


def test_attention_of_a_full_window_is_the_measured_row() -> None:
    """20 heads of 64 over 1,500 positions in 32 layers, which somebody has measured."""
    columns = store.read_table("h100_sxm", "encoder_attention")
    keys = {"heads": 20, "head_dim": 64, "batch": 1, "tokens": 1500}
    row = np.logical_and.reduce([columns[name] == value for name, value in keys.items()])
    told = dict(EncoderCost(H100, audio_of(QWEN2)).explain([(1500,)]))

    assert told["attention"].ns == pytest.approx(32 * float(columns["latency_ns"][row][0]), rel=1e-6)
    assert (told["attention"].source, told["attention"].table) == ("measured", "h100_sxm/encoder_attention")


def test_no_device_is_faster_than_its_peak() -> None:
    """Matrix products and attention at 16 bits."""
    for gpu in (H100, A100, load_gpu("l40s")):
        for name in (QWEN2, OMNI):
            rows = [audio_rows(audio_of(name), 30_000)] * 8
            flop = encoder_flop(audio_of(name), rows)
            assert EncoderCost(gpu, audio_of(name)).encode_ns(rows) / 1e9 > flop / gpu.peak_flops["bf16"]


def test_a_model_with_both_encodes_one_after_the_other() -> None:
    """An image and two sounds: a pass over the image, and one over both sounds; the tables behind both."""
    model = load_model(OMNI)
    assert model.vision is not None
    both = Encoders(H100, model, tensor_parallel_size=1, eager_ns_per_op=0)
    image, sound = Image(0, (4784,), 1196, 1), Image(1, (100, 50), 75, 1, "audio")
    seen, heard = EncoderCost(H100, model.vision).encode_ns([(4784,)]), encode_ns(OMNI, 3, 3)

    assert both.encode_ns([sound, image, sound]) == seen + heard
    assert both.encode_ns([image]) == seen
    assert both.encode_ns([]) == 0
    assert set(both.provenance()) == {"h100_sxm/gemm", "h100_sxm/encoder_attention", "roofline/elementwise"}


def test_ranks_take_less_and_pay_for_their_sums() -> None:
    """Two ranks: faster than one, slower than half of it."""
    one, two = (EncoderCost(H100, audio_of(QWEN2), tensor_parallel_size=n).encode_ns([(1500,)] * 4) for n in (1, 2))

    assert one / 2 < two < one
