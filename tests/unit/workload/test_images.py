"""Images of drawn workloads, and as tokens, patches and bytes of a model."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from simserve.errors import SpecError
from simserve.explore.provenance import columns_digest
from simserve.explore.repeats import repeats, rotated
from simserve.explore.runner import play, prepare
from simserve.spec.base import parse
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.spec.workload import WorkloadSpec
from simserve.workload import inputs as module
from simserve.workload.build import build_workload
from simserve.workload.requests import RequestSet, generated_content, prompt_content
from simserve.workload.reshape import longer_prompts
from simserve.workload.shown import SHOWN_CONTENT, with_shown_tokens

QWEN25, QWEN3 = "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"
LLAMA = "meta-llama/Llama-3.2-11B-Vision-Instruct"
HD = {"kind": "fixed", "height": 720, "width": 1280}
DRAWN: dict[str, Any] = {
    "arrivals": {"kind": "poisson", "rate_rps": 4}, "requests": 400, "prompt_tokens": {"kind": "fixed", "value": 63},
    "output_tokens": {"kind": "fixed", "value": 64},
}  # fmt: skip


def drawn(images: dict[str, Any] | None, seed: int = 1, **more: Any) -> RequestSet:
    """The requests of a workload."""
    spec = parse(WorkloadSpec, {**DRAWN, **more, **({"images": images} if images else {})})
    return build_workload(spec, seed=seed)


def read(images: dict[str, Any], model: str = QWEN25, **more: Any) -> RequestSet:
    """The same, as a model reads them."""
    return with_shown_tokens(drawn(images, **more), load_model(model))


def rows_of(seen: RequestSet) -> list[tuple[tuple[int, ...], ...]]:
    """Of each request the rows of its images."""
    assert seen.shown is not None
    return [tuple(image.rows for image in images) for images in seen.shown]


def test_every_request_with_one_image_of_its_own() -> None:
    """EPD-Serve's 1280 x 720: 1,196 tokens beside 63 of text, 4,784 patches, 8.57 MB; nothing is shared."""
    plain, seen = drawn(None), read({"size": HD})

    assert seen.prompt_tokens.tolist() == [63 + 1196] * 400
    assert rows_of(seen) == [((4784,),)] * 400
    assert seen.image_tokens is not None
    assert seen.image_tokens.tolist() == [1196] * 400
    assert seen.shown is not None
    assert [image.feature_bytes for images in seen.shown for image in images] == [8_572_928] * 400
    assert list(seen.images or ()) == [((i, 720, 1280, 1),) for i in range(400)]
    assert seen.content is None
    assert seen.arrival_ns.tolist() == plain.arrival_ns.tolist()
    assert seen.output_tokens.tolist() == plain.output_tokens.tolist()


def test_a_share_of_the_requests_has_several() -> None:
    """Half of them one to three; the others are text as before."""
    seen = read({"size": HD, "share": 0.5, "per_request": {"kind": "uniform", "low": 1, "high": 3}})
    number = [len(images) for images in seen.images or ()]

    assert set(number) == {0, 1, 2, 3}
    assert 0.4 < np.mean([n > 0 for n in number]) < 0.6
    assert seen.prompt_tokens.tolist() == [63 + 1196 * n for n in number]
    assert rows_of(seen) == [((4784,),) * n for n in number]
    assert [image[0] for images in seen.images or () for image in images] == list(range(sum(number)))


def test_sizes_by_weight() -> None:
    """A quarter of 280 x 280, the rest of 560 x 560: 100 and 400 tokens."""
    sizes = [{"height": 280, "width": 280}, {"height": 560, "width": 560, "weight": 3}]
    seen = read({"size": {"kind": "listed", "sizes": sizes}})
    found = Counter((seen.prompt_tokens - 63).tolist())

    assert set(found) == {100, 400}
    assert found[100] / 400 == pytest.approx(0.25, abs=0.06)


def test_areas_are_lognormal() -> None:
    """Mean and spread of the area, at the ratios asked for, within the limits; unless clipped, which moves the mean."""
    size = {"kind": "lognormal", "mean_pixels": 523_000, "std_pixels": 200_000, "aspect_ratios": [1.0, 2.0]}
    shown = [image for images in drawn({"size": size}, requests=20_000).images or () for image in images]
    height, width = (np.array([image[side] for image in shown], dtype=np.float64) for side in (1, 2))

    assert (height * width).mean() == pytest.approx(523_000, rel=0.01)
    assert (height * width).std() == pytest.approx(200_000, rel=0.03)
    assert np.round(width / height, 1).min() == 1.0
    assert np.mean(width / height > 1.5) == pytest.approx(0.5, abs=0.02)
    clipped = drawn({"size": {**size, "min_pixels": 400_000, "max_pixels": 500_000}}, requests=2000).images or ()
    assert {399_000 < image[1] * image[2] < 501_000 for images in clipped for image in images} == {True}


def test_repeated_images_are_the_same_content() -> None:
    """Equal ids have one size, come first in the prompt, and the popular ones come most often."""
    size = {"kind": "lognormal", "mean_pixels": 300_000, "std_pixels": 300_000}
    seen = read({"size": size, "distinct": 10, "zipf": 1.0})
    shown = [images[0] for images in seen.images or ()]
    often = Counter(image[0] for image in shown)

    assert len(set(shown)) == len(often) == 10
    assert often[0] > 2 * often[9]
    assert seen.content is not None
    assert seen.content[7] == (
        (SHOWN_CONTENT + shown[7][0], int(seen.prompt_tokens[7]) - 63), (prompt_content(7), 63)
    )  # fmt: skip
    alike = Counter(image[0] for images in drawn({"size": HD, "distinct": 4}).images or () for image in images)
    assert min(alike.values()) > 70


def test_later_turns_still_hold_the_images_of_earlier_ones() -> None:
    """A prompt is the one before, what was generated, its own images and text; only its own are encoded."""
    turns, prefixes = {"turns": {"kind": "fixed", "value": 2}}, {"count": 1, "tokens": {"kind": "fixed", "value": 9}}
    seen = read({"size": HD}, sessions=turns, requests=4, prefixes=prefixes)

    first = ((0, 9), (SHOWN_CONTENT, 1196), (prompt_content(0), 63))
    assert list(seen.content or ())[:2] == [
        first, (*first, (generated_content(0), 64), (SHOWN_CONTENT + 1, 1196), (prompt_content(1), 63)),
    ]  # fmt: skip
    assert seen.prompt_tokens.tolist() == [1268, 2591] * 2
    assert seen.image_tokens is not None
    assert seen.image_tokens.tolist() == [1196, 2392] * 2
    assert rows_of(seen) == [((4784,),)] * 4


def test_models_read_the_same_images_differently() -> None:
    """Qwen3-VL: 880 tokens of 32 KiB; Llama 3.2 by cross attention: a marker, and two tiles of 1601 rows."""
    qwen, llama = read({"size": HD}, QWEN3), read({"size": HD}, LLAMA)

    assert set(qwen.prompt_tokens.tolist()) == {63 + 880}
    assert qwen.shown is not None
    assert {sum(image.feature_bytes for image in images) for images in qwen.shown} == {880 << 15}
    assert set(llama.prompt_tokens.tolist()) == {64}
    assert rows_of(llama)[0] == ((4 * 1601,),)
    assert qwen.images == llama.images


def test_videos_have_frames() -> None:
    """Eight frames of 560 x 560: four groups of 1,600 patches, 1,600 tokens."""
    size = {"kind": "fixed", "height": 560, "width": 560}
    seen = read({"size": size, "frames": {"kind": "fixed", "value": 8}})

    assert rows_of(seen) == [((1600,) * 4,)] * 400
    assert set(seen.prompt_tokens.tolist()) == {1663}


def test_heads_and_rotations_keep_images() -> None:
    """Every column of them, request by request."""
    size = {"kind": "listed", "sizes": [{"height": 280, "width": 280}, {"height": 560, "width": 560}]}
    seen = read({"size": size, "distinct": 50, "share": 0.7}, requests=20)
    few, turned = seen.head(5), rotated(seen, 3)

    for name in ("images", "shown", "content"):
        whole = getattr(seen, name)
        assert list(getattr(few, name)) == list(whole[:5])
        assert list(getattr(turned, name)) == [*whole[3:], *whole[:3]]
    for name in ("image_tokens", "prompt_tokens"):
        assert getattr(few, name).tolist() == getattr(seen, name)[:5].tolist()
        assert getattr(turned, name).tolist() == np.roll(getattr(seen, name), -3).tolist()


def test_longer_prompts_have_the_same_images() -> None:
    """Twice the text, shared images or not."""
    for more in ({}, {"distinct": 3}):
        assert set(longer_prompts(read({"size": HD, **more}), 2.0).prompt_tokens.tolist()) == {126 + 1196}


def test_workloads_without_images_are_as_they_were() -> None:
    """No key in what they dump or tell, no column, the same digest; with images all of them change."""
    plain = parse(WorkloadSpec, DRAWN)
    seen = drawn({"size": HD})

    assert "images" not in plain.model_dump(mode="json")
    assert "images" not in drawn(None).columns()
    assert with_shown_tokens(drawn(None), load_model("Qwen/Qwen3-8B")).provenance == drawn(None).provenance
    assert len({columns_digest(r) for r in (drawn(None), seen, read({"size": HD}))}) == 3
    assert columns_digest(seen) == columns_digest(drawn({"size": HD}))
    told = json.loads(json.dumps(dict(read({"size": HD}).provenance)))
    assert (told["images"]["size"], told["images_read_by"]) == (HD, QWEN25)


def test_an_images_spec_survives_its_json() -> None:
    """As journals and results hold it."""
    spec = parse(WorkloadSpec, {**DRAWN, "images": {"size": HD, "distinct": 3, "zipf": 1.5}})

    assert parse(WorkloadSpec, spec.model_dump(mode="json")) == spec
    assert hash(spec) != hash(parse(WorkloadSpec, DRAWN))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"images": {}}, "images.size: this key is missing"),
        ({"images": {"size": HD, "share": 0}}, "images.share"),
        ({"images": {"size": {"kind": "fixed", "height": 3}}}, "fixed needs width"),
        ({"images": {"size": {**HD, "mean_pixels": 3}}}, "fixed has no mean_pixels"),
        ({"images": {"size": {"kind": "lognormal", "mean_pixels": 9}}}, "lognormal needs std_pixels"),
        ({"images": {"size": {"kind": "lognormal", "mean_pixels": 9, "std_pixels": 1, "min_pixels": 5,
                              "max_pixels": 4}}}, "min_pixels 5 is larger than max_pixels 4"),
        ({"images": {"size": {"kind": "listed", "sizes": []}}}, "is empty"),
        ({"images": {"size": {**HD, "height": 0}}}, "images.size.height"),
        ({"images": {"size": HD, "zipf": 1.0}}, "zipf needs distinct"),
        ({"images": {"size": HD, "number": 3}}, "images.number: unknown key"),
        ({"images": {"size": HD}, "kind": "diffusion"}, "a workload of kind diffusion has no images"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(fields: dict[str, Any], problem: str) -> None:
    """Naming what is wrong."""
    with pytest.raises(SpecError) as raised:
        parse(WorkloadSpec, {**DRAWN, **fields}, file="w.yaml")

    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_traces_have_no_images() -> None:
    """They do not say which."""
    with pytest.raises(SpecError, match="a workload with a trace has no images"):
        parse(WorkloadSpec, {"trace": {"path": "t.csv"}, "images": {"size": HD}})


def test_too_many_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any is drawn."""
    monkeypatch.setattr(module, "MOST_INPUTS", 799)
    with pytest.raises(SpecError, match=r"per_request: 800 images, more than 799"):
        drawn({"size": HD, "per_request": {"kind": "fixed", "value": 2}})


STUDY: dict[str, Any] = {
    "name": "s", "model": QWEN3, "seed": 3, "workload": {**DRAWN, "requests": 30, "images": {"size": HD}},
    "deployment": {"gpu": "h100_sxm", "scheduler": "vllm"}, "slo": {"ttft_ms": 2000},
}  # fmt: skip


def test_a_study_plays_images_as_prompt_tokens() -> None:
    """They count as tokens of the prompt, of repeats too, and are encoded; the first repeat is the study's own."""
    study = parse(StudySpec, STUDY)
    inputs = prepare(study, base_dir=None)
    again = repeats(study, 2, base_dir=None)

    assert set(inputs.workload.prompt_tokens.tolist()) == {943}
    assert inputs.load.prompt_tokens == 943
    assert columns_digest(again[0].workload) == columns_digest(inputs.workload)
    assert set(again[1].workload.prompt_tokens.tolist()) == {943}
    alone = {**STUDY["workload"], "prompt_tokens": {"kind": "fixed", "value": 943}}
    alone.pop("images")
    plain = prepare(parse(StudySpec, {**STUDY, "workload": alone}), base_dir=None)
    shown, text = play(inputs).metrics, play(plain).metrics
    assert shown.total_tokens_per_s * shown.duration_s == pytest.approx(text.total_tokens_per_s * text.duration_s)
    assert shown.ttft_ms.p50 is not None
    assert text.ttft_ms.p50 is not None
    assert shown.ttft_ms.p50 > text.ttft_ms.p50 + 5


def test_repeated_images_are_found_in_the_prefix_cache() -> None:
    """880 tokens, 55 blocks, of nearly every prompt; of images that nobody shares nothing is."""
    caching = {**STUDY["deployment"], "enable_prefix_caching": True}
    rates = []
    for more in ({}, {"distinct": 2}):
        workload = {**STUDY["workload"], "images": {"size": HD, **more}}
        study = parse(StudySpec, {**STUDY, "workload": workload, "deployment": caching})
        rates.append(play(prepare(study, base_dir=None)).metrics.prefix_hit_rate)

    assert rates == [0.0, pytest.approx(28 / 30 * 880 / 943, abs=0.04)]


def test_a_model_of_text_alone_refuses_them() -> None:
    """In one line, before anything is played."""
    with pytest.raises(SpecError) as raised:
        prepare(parse(StudySpec, {**STUDY, "model": "Qwen/Qwen3-8B"}), base_dir=None)

    assert str(raised.value) == (
        "workload.images: Qwen/Qwen3-8B reads text alone; images need a model with a vision encoder, such as "
        "Qwen/Qwen3-VL-8B-Instruct"
    )


def test_areas_of_a_known_mean() -> None:
    """exact_mean: a small draw has it too, but for whole pixels; without, it is some per cent off."""
    size = {"kind": "lognormal", "mean_pixels": 523_000, "std_pixels": 260_000}

    def mean(**more: bool) -> float:
        shown = [image for images in drawn({"size": {**size, **more}}, requests=50).images or () for image in images]
        return float(np.mean([image[1] * image[2] for image in shown]))

    assert mean(exact_mean=True) == pytest.approx(523_000, rel=1e-3)
    assert abs(mean() / 523_000 - 1) > 5e-3
