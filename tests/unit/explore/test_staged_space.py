"""The space over layouts of stages: what is chosen with which layout, and that it can be read back."""

from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.explore.space import from_study
from simserve.explore.staged_space import StagedSpace
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "layouts",
    "model": "Qwen/Qwen3-VL-8B-Instruct",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 4},
        "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 50},
        "requests": 40,
        "images": {"size": {"kind": "fixed", "height": 720, "width": 1280}},
    },
    "slo": {"ttft_ms": 1000, "tpot_ms": 40},
    "deployment": {"gpu": "a100_sxm", "system": "epd_serve", "stages": "E-P-D"},
}


def space_of(space: dict[str, Any], most: int | None = 4, **deployment: Any) -> StagedSpace:
    """The space of the study above."""
    own = {**STUDY["deployment"], **deployment}
    found = from_study(parse(StudySpec, {**STUDY, "deployment": own, "search": {"space": space, "max_gpus": most}}))
    assert isinstance(found, StagedSpace)
    return found


def test_every_layout_of_images() -> None:
    """`all` is what `every_layout` counts; a workload of text has no encoders."""
    text = {**STUDY["workload"]}
    text.pop("images")
    study = {**STUDY, "workload": text, "search": {"space": {"stages": "all"}, "max_gpus": 3}}

    assert len(space_of({"stages": "all"}).deployments()) == 36
    assert [d.stages for d in from_study(parse(StudySpec, study)).deployments()] == [
        "TP1x1", "P-D", "TP1x2", "2P-D", "P-2D", "TP1x3"
    ]  # fmt: skip


def test_a_layout_with_a_width_has_no_other() -> None:
    """TP2x2 is 4 GPUs whatever tensor_parallel_size is chosen for others, and whatever the base has."""
    found = space_of({"stages": ["TP2x2", "TP1x4", "EP-D"], "tensor_parallel_size": [1, 2]}, tensor_parallel_size=2)

    assert [(d.stages, d.tensor_parallel_size, d.num_gpus) for d in found.deployments()] == [
        ("TP2x2", 1, 4), ("TP1x4", 1, 4), ("EP-D", 1, 2), ("EP-D", 2, 4)
    ]  # fmt: skip


def test_knobs_of_a_system_only_where_something_is_handed_over() -> None:
    """KV where a process prefills for another, features where a process encodes only."""
    options = {"epd_serve": {"prefetch": [True, False], "kv_transfer": ["grouped", "layerwise"]}}
    found = space_of({"stages": ["TP1x3", "E-2PD", "2EP-D", "E-P-D"], "system_options": options})
    names = {d.stages: {n for n in found.combination(d) if "." in n} for d in found.deployments()}
    counts = [d.stages for d in found.deployments()]

    assert names == {"TP1x3": set(), "E-2PD": {"epd_serve.prefetch"}, "2EP-D": {"epd_serve.kv_transfer"},
                     "E-P-D": {"epd_serve.prefetch", "epd_serve.kv_transfer"}}  # fmt: skip
    assert [counts.count(stages) for stages in names] == [1, 2, 2, 4]


def test_options_of_the_base_stay() -> None:
    """What is chosen is put over what the deployment has."""
    found = space_of({"stages": ["E-P-D"], "system_options": {"epd_serve": {"prefetch": [False]}}},
                     system_options={"prefetch": True, "schedule_ms": 5})  # fmt: skip

    assert [dict(d.system_options) for d in found.deployments()] == [{"prefetch": False, "schedule_ms": 5}]


def test_combinations_are_the_inverse_of_deployments() -> None:
    """What the sampler is told of a deployment makes the deployment."""
    found = space_of({"stages": "all", "tensor_parallel_size": [1, 2], "max_num_seqs": [32, 64], "dtype": "bf16",
                      "scheduler": ["vllm", "vllm_v0"], "system_options": {"epd_serve": {"prefetch": [True, False]}}})

    assert all(found.deployment(found.combination(d)) == d for d in found.deployments())


def test_a_sampler_chooses_among_the_layouts_that_are_left() -> None:
    """In their order, with all that may be beside them."""
    found = space_of({"stages": "all", "max_num_seqs": [32, 64]})
    some = [d for d in found.deployments() if d.stages in ("EP-D", "E-P-D")]
    left = found.among(some[::-1])

    assert left.choices == {"stages": ("EP-D", "E-P-D"), "max_num_seqs": (32, 64)}
    assert [left.deployment(left.combination(d)) for d in some] == some


def test_what_processes_are_given_goes_with_them() -> None:
    """Pools of the base that a layout has keep what they say; a scheduler of the space is everybody's."""
    pools = {"D": {"max_num_seqs": 16, "scheduler": "vllm_v0"}}
    plain = space_of({"stages": ["E-P-D", "EP-D", "E-PD"]}, pools=pools).deployments()
    chosen = space_of({"stages": ["EP-D"], "scheduler": ["vllm"]}, pools=pools).deployments()

    assert [{name: (e.max_num_seqs, e.scheduler) for name, e in d.engines()} for d in plain] == [
        {"P": (256, "vllm"), "D": (16, "vllm_v0")}, {"EP": (256, "vllm"), "D": (16, "vllm_v0")}, {"PD": (256, "vllm")}
    ]  # fmt: skip
    assert dict(chosen[0].engines())["D"].scheduler == "vllm"


def test_one_layout_in_two_ways_of_writing_is_one() -> None:
    """1E1P1D is E-P-D."""
    assert [d.stages for d in space_of({"stages": ["E-P-D", "1E1P1D", "E-2P-D"]}).deployments()] == ["E-P-D", "E-2P-D"]


def test_a_base_with_stages_is_searched_as_it_is() -> None:
    """Other knobs around one layout; without a search the one deployment."""
    found = space_of({"max_num_seqs": [32, 64]}).deployments()
    alone = from_study(parse(StudySpec, STUDY)).deployments()

    assert [(d.stages, d.max_num_seqs) for d in found] == [("E-P-D", 32), ("E-P-D", 64)]
    assert [d.stages for d in alone] == ["E-P-D"]


@pytest.mark.parametrize(
    ("space", "most", "problem"),
    [
        ({"stages": ["E-P-D"], "engine": ["vllm"]}, 4, "search.space.engine: does not go with stages: use deployment"),
        ({"stages": ["E-P-D"], "pipeline_parallel_size": [2]}, 4, "pipeline_parallel_size: .* it is not modelled"),
        ({"stages": ["E-P-D"], "decode": {"replicas": 2}}, 4, "search.space.decode: .* e.g. E-P-2D"),
        ({"stages": "all"}, None, "search.space.stages: needs search.max_gpus"),
        ({"stages": ["E-P-D"], "system_options": {"distserve": {}}}, 4, "no deployment of the space has this system"),
        ({"stages": ["E-P-D"], "system_options": {"epd_serve": {"prefetch": ["yes"]}}}, 4, "must be one of True, Fal"),
    ],
)
def test_what_does_not_go_with_stages(space: dict[str, Any], most: int | None, problem: str) -> None:
    """One line that names the key."""
    with pytest.raises(SpecError, match=problem):
        space_of(space, most)


def test_knobs_of_a_system_without_stages_are_not_searched() -> None:
    """One line that names the key which was written."""
    with pytest.raises(SpecError, match=r"search\.space\.system_options: are searched for systems of stages"):
        from_study(parse(StudySpec, {**STUDY, "deployment": {}, "search": {"space": {"system_options": {"epd": {}}}}}))


def test_spaces_without_stages_are_told_as_before() -> None:
    """Journals of earlier studies stay theirs."""
    study = parse(StudySpec, {**STUDY, "deployment": {}, "search": {"space": {"max_num_seqs": [32]}}})

    assert study.search is not None
    assert {"stages", "system_options"}.isdisjoint(study.search.space.model_dump())
