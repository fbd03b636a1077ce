"""Requests with images on an engine that is encoder too."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.arch.encoder import encoder_weight_bytes
from simserve.arch.layout import Layout
from simserve.arch.replica import Engine, rank_blocks
from simserve.errors import Infeasible
from simserve.explore.runner import play, prepare
from simserve.perf.host import load_profile
from simserve.run import RunResult
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec

QWEN = "Qwen/Qwen3-VL-8B-Instruct"
HD = {"kind": "fixed", "height": 720, "width": 1280}


def run(images: dict[str, Any] | None, text_tokens: int = 63, requests: int = 1, **deployment: Any) -> RunResult:
    """One request after another, of 64 output tokens."""
    study = parse(StudySpec, {
        "model": QWEN,
        "workload": {
            "arrivals": {"kind": "closed_loop", "concurrency": 1}, "requests": requests,
            "prompt_tokens": {"kind": "fixed", "value": text_tokens}, "output_tokens": {"kind": "fixed", "value": 64},
            **({"images": images} if images else {}),
        },
        "deployment": {"gpu": "h100_sxm", **deployment},
    })  # fmt: skip
    return play(prepare(study, base_dir=None))


def first_token_ns(result: RunResult) -> list[int]:
    """Per request, from when it was scheduled."""
    r = result.trace.requests
    return (r["first_token_ns"] - r["first_scheduled_ns"]).tolist()  # type: ignore[no-any-return]


def test_the_first_step_of_a_prompt_encodes_its_images() -> None:
    """As long as a prompt of as many tokens of text and the pass of the encoder; decoding is what it was."""
    shown = run({"size": HD})
    tokens = int(shown.trace.requests["prompt_tokens"][0])
    text = run(None, tokens)
    encoder = shown.engines[0].encoder
    assert encoder is not None

    more = encoder.by_name["vision"].encode_ns([(3520,)])  # 44 x 80 patches of 16 pixels
    assert tokens > 900
    assert first_token_ns(shown)[0] == first_token_ns(text)[0] + more
    assert shown.metrics.tpot_ms.mean == text.metrics.tpot_ms.mean
    assert more > 2_000_000
    laws.check(shown.trace)


def test_images_whose_tokens_are_cached_are_not_encoded_again() -> None:
    """The same image for everybody: with a prefix cache the first request alone waits for the encoder."""
    one = {"size": HD, "distinct": 1}
    cached, anew = run(one, requests=3, enable_prefix_caching=True), run(one, requests=3)

    assert first_token_ns(cached)[1] < first_token_ns(cached)[0] / 2
    assert first_token_ns(anew)[1] == first_token_ns(anew)[0]


def test_text_alone_needs_no_encoder() -> None:
    """num_encoders: 0 leaves its memory to KV, and refuses images."""
    assert "encoder" not in run(None, num_encoders=0).memory_bytes
    with pytest.raises(Infeasible, match="images and sounds need an encoder"):
        run({"size": HD}, num_encoders=0)


def test_the_encoder_takes_memory_from_kv() -> None:
    """Its weights, in whole blocks, whether anybody shows it anything or not."""
    result, model = run(None), load_model(QWEN)
    size = 16 * 147_456
    without = rank_blocks(
        model, load_gpu("h100_sxm"), Layout(1), Engine("bf16", "auto", "", 8192, 256),
        gpu_memory_utilization=load_profile("vllm").gpu_memory_utilization, block_size=16, rule="utilization",
    )  # fmt: skip

    assert result.memory_bytes["encoder"] == encoder_weight_bytes(model.vision)
    assert without - result.num_gpu_blocks == -(-encoder_weight_bytes(model.vision) // size)
    assert result.engines[0].encoder is None, "no prompt has images"


def test_pools_encode_where_they_prefill() -> None:
    """EP-D: the decode pool has no encoder."""
    pools = {"prefill": {}, "decode": {}}
    result = run({"size": HD}, system="distserve", pools=pools)
    assert [engine.encoder is not None for engine in result.engines] == [True, False]
    assert first_token_ns(result)[0] > 5_000_000


def test_what_is_not_modelled_with_images_says_so() -> None:
    """In one line."""
    with pytest.raises(Infeasible, match="images and sounds are not modelled with pipeline_parallel_size"):
        run({"size": HD}, pipeline_parallel_size=2)
