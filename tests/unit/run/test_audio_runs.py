"""Requests with sounds, and with images beside them, on an engine that is encoder too."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.arch.encoder import encoder_weight_bytes
from simserve.errors import Infeasible
from simserve.explore.runner import play, prepare
from simserve.perf.host import load_profile
from simserve.run import RunResult
from simserve.sim import laws
from simserve.sim.images import Image
from simserve.spec.base import parse
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec

QWEN2, OMNI = "Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2.5-Omni-7B"
TEN = {"duration_s": {"kind": "fixed", "value": 10}}
HD = {"size": {"kind": "fixed", "height": 720, "width": 1280}}


def run(shown: dict[str, Any], model: str = QWEN2, text_tokens: int = 63, requests: int = 1, **more: Any) -> RunResult:
    """One request after another, of 64 output tokens."""
    study = parse(StudySpec, {
        "model": model,
        "workload": {
            "arrivals": {"kind": "closed_loop", "concurrency": 1}, "requests": requests,
            "prompt_tokens": {"kind": "fixed", "value": text_tokens}, "output_tokens": {"kind": "fixed", "value": 64},
            **shown,
        },
        "deployment": {"gpu": "h100_sxm", **more},
    })  # fmt: skip
    return play(prepare(study, base_dir=None))


def first_token_ns(result: RunResult) -> list[int]:
    """Per request, from when it was scheduled."""
    r = result.trace.requests
    return (r["first_token_ns"] - r["first_scheduled_ns"]).tolist()  # type: ignore[no-any-return]


def test_the_first_step_of_a_prompt_encodes_its_sounds() -> None:
    """As long as a prompt of as many tokens of text and a pass over a window of 30 s; decoding is what it was."""
    heard, text = run({"audio": TEN}), run({}, text_tokens=63 + 250)
    encoders = heard.engines[0].encoder
    assert encoders is not None

    more = encoders.by_name["audio"].encode_ns([(1500,)])
    assert heard.trace.requests["prompt_tokens"].tolist() == [313]
    assert first_token_ns(heard)[0] == first_token_ns(text)[0] + more
    assert heard.metrics.tpot_ms.mean == text.metrics.tpot_ms.mean
    assert more > 2_000_000
    laws.check(heard.trace)


def test_both_encoders_of_a_prompt_of_mixed_modality() -> None:
    """An image and a sound: 1,196 and 250 tokens, a pass of each encoder."""
    both, text = run({"audio": TEN, "images": HD}, OMNI), run({}, OMNI, text_tokens=63 + 1196 + 250)
    encoders = both.engines[0].encoder
    assert encoders is not None

    image, sound = Image(0, (4784,), 1196, 0), Image(1, (100,) * 5, 250, 0, "audio")
    assert first_token_ns(both)[0] == first_token_ns(text)[0] + encoders.encode_ns([image, sound])
    assert encoders.encode_ns([image, sound]) > encoders.encode_ns([image]) > 0
    assert "h100_sxm/encoder_attention" in both.cost_provenance["encoder_tables"]


def test_sounds_whose_tokens_are_cached_are_not_encoded_again() -> None:
    """The same sound for everybody: with a prefix cache the first request alone waits for the encoder."""
    one = {"audio": {"duration_s": {"kind": "fixed", "value": 16}, "distinct": 1}}  # 400 tokens, 25 blocks
    cached, anew = run(one, requests=3, enable_prefix_caching=True), run(one, requests=3)
    encoders = cached.engines[0].encoder
    assert encoders is not None

    assert first_token_ns(cached)[1] <= first_token_ns(cached)[0] - encoders.by_name["audio"].encode_ns([(1500,)])
    assert first_token_ns(anew)[1] == first_token_ns(anew)[0]


def test_all_encoders_take_memory_from_kv() -> None:
    """Those of images and of sounds, whether anybody brings some or not."""
    result, model = run({}, OMNI), load_model(OMNI)

    assert result.memory_bytes["encoder"] == encoder_weight_bytes(model.vision, model.audio)
    assert result.memory_bytes["encoder"] > encoder_weight_bytes(model.vision) > 1_000_000_000
    assert result.engines[0].encoder is None, "no prompt has any"


@pytest.mark.parametrize(("model", "shown"), [(QWEN2, {"audio": TEN}), (OMNI, {"audio": TEN, "images": HD})])
def test_a_stage_of_encoders_encodes_sounds(model: str, shown: dict[str, Any]) -> None:
    """E-P-D: a GPU that is busy with a request for as long as a pass of each encoder and the host take."""
    result = run(shown, model, scheduler="vllm", system="epd_serve", stages="E-P-D")
    encoders = next(engine.encoder for engine in result.engines if engine.encoder is not None)
    sound = Image(1, (1500,) if model == QWEN2 else (100,) * 5, 250, 0, "audio")
    passes = encoders.encode_ns([sound] if model == QWEN2 else [Image(0, (4784,), 1196, 0), sound])
    spans = result.trace.spans
    own = spans["resource"] == result.trace.resources.index("encoder 0")

    assert (spans["end_ns"] - spans["start_ns"])[own].tolist() == [passes + load_profile("vllm").encode_host_ns]
    laws.check(result.trace)


def test_what_is_not_modelled_with_sounds_says_so() -> None:
    """In one line."""
    with pytest.raises(Infeasible, match="images and sounds are not modelled with pipeline_parallel_size"):
        run({"audio": TEN}, pipeline_parallel_size=2)
    with pytest.raises(Infeasible, match="tensor_parallel_size 8 does not divide the 20 heads of the audio encoder"):
        run({"audio": TEN}, tensor_parallel_size=8)
