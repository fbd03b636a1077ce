"""Sounds of drawn workloads, alone and beside images, and as tokens and rows of a model."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from simserve.errors import SpecError
from simserve.explore.provenance import columns_digest
from simserve.explore.repeats import repeats, rotated
from simserve.explore.runner import prepare
from simserve.spec.base import parse
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.spec.workload import WorkloadSpec
from simserve.workload import inputs as module
from simserve.workload.build import build_workload
from simserve.workload.requests import RequestSet, prompt_content
from simserve.workload.reshape import longer_prompts
from simserve.workload.shown import SHOWN_CONTENT, with_shown_tokens

QWEN2, OMNI = "Qwen/Qwen2-Audio-7B-Instruct", "Qwen/Qwen2.5-Omni-7B"
TEN = {"kind": "fixed", "value": 10}
HD = {"kind": "fixed", "height": 720, "width": 1280}
DRAWN: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_rps": 4}, "requests": 400, "prompt_tokens": {"kind": "fixed", "value": 63},
    "output_tokens": {"kind": "fixed", "value": 64},
}  # fmt: skip
SOUND_CONTENT = SHOWN_CONTENT + (1 << 40)


def drawn(seed: int = 1, **more: Any) -> RequestSet:
    """The requests of a workload."""
    return build_workload(parse(WorkloadSpec, {**DRAWN, **more}), seed=seed)


def read(audio: dict[str, Any], model: str = QWEN2, **more: Any) -> RequestSet:
    """The same, as a model reads them."""
    return with_shown_tokens(drawn(audio=audio, **more), load_model(model))


def test_every_request_with_ten_seconds_of_its_own() -> None:
    """250 tokens beside 63 of text, a full window of rows; nothing is shared, nothing else changes."""
    plain, heard = drawn(), read({"duration_s": TEN})

    assert heard.prompt_tokens.tolist() == [63 + 250] * 400
    assert heard.image_tokens is not None
    assert heard.image_tokens.tolist() == [250] * 400
    assert {sound[1:] for sounds in heard.shown or () for sound in sounds} == {((1500,), 250, 250 * 4096 * 2, "audio")}
    assert list(heard.audio or ()) == [((i, 10_000),) for i in range(400)]
    assert heard.content is None
    assert heard.arrival_ns.tolist() == plain.arrival_ns.tolist()
    assert heard.output_tokens.tolist() == plain.output_tokens.tolist()


def test_a_share_of_the_requests_has_several() -> None:
    """Half of them one to three."""
    heard = read({"duration_s": TEN, "share": 0.5, "per_request": {"kind": "uniform", "low": 1, "high": 3}})
    number = [len(sounds) for sounds in heard.audio or ()]

    assert set(number) == {0, 1, 2, 3}
    assert 0.4 < np.mean([n > 0 for n in number]) < 0.6
    assert heard.prompt_tokens.tolist() == [63 + 250 * n for n in number]


def test_durations_are_drawn_to_the_millisecond() -> None:
    """Mean and spread of a lognormal, within its limits; ends of a uniform; values as they are."""
    count = {"requests": 20_000}
    some = drawn(audio={"duration_s": {"kind": "lognormal", "mean": 12.3, "std": 4, "max": 20}}, **count)
    ms = np.array([sound[1] for sounds in some.audio or () for sound in sounds])
    assert ms.max() == 20_000
    free = drawn(audio={"duration_s": {"kind": "lognormal", "mean": 12.3, "std": 4}}, **count)
    ms = np.array([sound[1] for sounds in free.audio or () for sound in sounds])
    assert ms.mean() == pytest.approx(12_300, rel=0.01)
    assert ms.std() == pytest.approx(4_000, rel=0.03)
    assert len(set((ms % 1000).tolist())) == 1000
    ends = drawn(audio={"duration_s": {"kind": "uniform", "low": 0.5, "high": 0.502}}).audio or ()
    assert {sound[1] for sounds in ends for sound in sounds} == {500, 501, 502}
    values = drawn(audio={"duration_s": {"kind": "empirical", "values": [1, 2.5]}}).audio or ()
    assert {sound[1] for sounds in values for sound in sounds} == {1000, 2500}


def test_repeated_sounds_are_the_same_content() -> None:
    """Equal ids have one duration, come first in the prompt, and the popular ones come most often."""
    heard = read({"duration_s": {"kind": "uniform", "low": 1, "high": 30}, "distinct": 10, "zipf": 1.0})
    sounds = [each[0] for each in heard.audio or ()]
    often = Counter(sound[0] for sound in sounds)

    assert len(set(sounds)) == len(often) == 10
    assert often[0] > 2 * often[9]
    assert heard.content is not None
    assert heard.content[7] == (
        (SOUND_CONTENT + sounds[7][0], int(heard.prompt_tokens[7]) - 63), (prompt_content(7), 63)
    )  # fmt: skip


def test_images_and_sounds_in_one_workload() -> None:
    """Images first, each by its own share; an image and a sound of the same id are not the same content."""
    images = {"size": HD, "share": 0.5, "distinct": 3}
    both = read({"duration_s": TEN, "share": 0.6, "distinct": 3}, OMNI, images=images)
    kinds = Counter((len(i), len(a)) for i, a in zip(both.images or (), both.audio or (), strict=True))

    assert set(kinds) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert kinds[1, 1] / 400 == pytest.approx(0.3, abs=0.07)
    expected = [63 + 1196 * len(i) + 250 * len(a) for i, a in zip(both.images or (), both.audio or (), strict=True)]
    assert both.prompt_tokens.tolist() == expected
    assert both.shown is not None
    whole = next(row for row, shown in enumerate(both.shown) if len(shown) == 2)
    assert [each.modality for each in both.shown[whole]] == ["vision", "audio"]
    assert both.content is not None
    first, second, text = both.content[whole]
    assert (first[1], second[1], text) == (1196, 250, (prompt_content(whole), 63))
    seen = {each.content for shown in both.shown for each in shown if each.modality == "vision"}
    heard = {each.content for shown in both.shown for each in shown if each.modality == "audio"}
    assert (len(seen), len(heard), len(seen & heard)) == (3, 3, 0)
    told = json.loads(json.dumps(dict(both.provenance)))
    assert (told["images_read_by"], told["audio_read_by"]) == (OMNI, OMNI)


def test_sounds_change_nothing_of_images() -> None:
    """Streams of their own: the images beside them are those without them."""
    images = {"size": HD, "share": 0.5, "distinct": 9}

    assert drawn(images=images, audio={"duration_s": TEN}).images == drawn(images=images).images


def test_heads_rotations_and_longer_prompts_keep_sounds() -> None:
    """Every column of them, request by request; twice the text alone."""
    seconds = {"kind": "uniform", "low": 1, "high": 9}
    heard = read({"duration_s": seconds, "distinct": 50, "share": 0.7}, requests=20)
    few, turned = heard.head(5), rotated(heard, 3)

    for name in ("audio", "shown", "content"):
        whole = getattr(heard, name)
        assert list(getattr(few, name)) == list(whole[:5])
        assert list(getattr(turned, name)) == [*whole[3:], *whole[:3]]
    for more in ({}, {"distinct": 3}):
        assert set(longer_prompts(read({"duration_s": TEN, **more}), 2.0).prompt_tokens.tolist()) == {126 + 250}


def test_workloads_without_sounds_are_as_they_were() -> None:
    """No key in what they dump, no column, the same digest; with sounds they change; a spec survives its JSON."""
    heard = drawn(audio={"duration_s": TEN})
    spec = parse(WorkloadSpec, {**DRAWN, "audio": {"duration_s": {"kind": "fixed", "value": 7.33}, "distinct": 3}})

    assert "audio" not in parse(WorkloadSpec, DRAWN).model_dump(mode="json")
    assert "audio" not in drawn().columns()
    assert len({columns_digest(r) for r in (drawn(), heard, read({"duration_s": TEN}))}) == 3
    assert parse(WorkloadSpec, spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"audio": {}}, "audio.duration_s: this key is missing"),
        ({"audio": {"duration_s": {"kind": "fixed"}}}, "fixed needs value"),
        ({"audio": {"duration_s": {**TEN, "mean": 3}}}, "fixed has no mean"),
        ({"audio": {"duration_s": {**TEN, "max": 3}}}, "fixed has no max"),
        ({"audio": {"duration_s": {"kind": "uniform", "low": 3, "high": 2}}}, "low 3.0 is larger than high 2.0"),
        ({"audio": {"duration_s": {"kind": "fixed", "value": 0}}}, "audio.duration_s.value"),
        ({"audio": {"duration_s": TEN, "zipf": 1.0}}, "zipf needs distinct"),
        ({"audio": {"duration_s": TEN, "frames": 3}}, "audio.frames: unknown key"),
        ({"audio": {"duration_s": TEN}, "kind": "diffusion"}, "a workload of kind diffusion has no audio"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(fields: dict[str, Any], problem: str) -> None:
    """Naming what is wrong."""
    with pytest.raises(SpecError) as raised:
        parse(WorkloadSpec, {**DRAWN, **fields}, file="w.yaml")

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_traces_have_no_sounds() -> None:
    """They do not say which."""
    with pytest.raises(SpecError, match="a workload with a trace has no audio"):
        parse(WorkloadSpec, {"trace": {"path": "t.csv"}, "audio": {"duration_s": TEN}})


def test_too_many_sounds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any is drawn."""
    monkeypatch.setattr(module, "MOST_INPUTS", 799)
    with pytest.raises(SpecError, match=r"workload.audio.per_request: 800 audio, more than 799"):
        drawn(audio={"duration_s": TEN, "per_request": {"kind": "fixed", "value": 2}})


@pytest.mark.parametrize(
    ("model", "fields", "problem"),
    [
        ("Qwen/Qwen3-8B", {"audio": {"duration_s": TEN}}, "workload.audio: Qwen/Qwen3-8B reads text alone; audio "
         "needs a model with an audio encoder, such as Qwen/Qwen2-Audio-7B-Instruct"),
        ("Qwen/Qwen3-VL-8B-Instruct", {"audio": {"duration_s": TEN}, "images": {"size": HD}},
         "workload.audio: Qwen/Qwen3-VL-8B-Instruct reads text and images; audio needs a model with an audio encoder"),
        (QWEN2, {"images": {"size": HD}}, "workload.images: Qwen/Qwen2-Audio-7B-Instruct reads text and audio; images "
         "need a model with a vision encoder, such as Qwen/Qwen3-VL-8B-Instruct"),
    ],
)  # fmt: skip
def test_models_refuse_what_they_have_no_encoder_for(model: str, fields: dict[str, Any], problem: str) -> None:
    """In one line, before anything is played."""
    study = {"name": "s", "model": model, "workload": {**DRAWN, **fields}, "deployment": {"gpu": "h100_sxm"}}
    with pytest.raises(SpecError) as raised:
        prepare(parse(StudySpec, study), base_dir=None)

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_repeats_of_a_study_have_sounds() -> None:
    """Drawn anew, as tokens of prompts; the first repeat is the study's own."""
    study = parse(StudySpec, {
        "name": "s", "model": QWEN2, "seed": 3, "deployment": {"gpu": "h100_sxm"},
        "workload": {**DRAWN, "requests": 30, "audio": {"duration_s": {"kind": "uniform", "low": 1, "high": 30}}},
    })  # fmt: skip
    inputs, again = prepare(study, base_dir=None), repeats(study, 2, base_dir=None)

    assert columns_digest(again[0].workload) == columns_digest(inputs.workload)
    assert columns_digest(again[1].workload) != columns_digest(inputs.workload)
    assert min(again[1].workload.prompt_tokens.tolist()) > 63
