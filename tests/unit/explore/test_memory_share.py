"""gpu_memory_utilization as a search dimension, of any engine and of a pool."""

from typing import Any

import pytest

from simserve.build import deployment_blocks
from simserve.errors import SpecError
from simserve.explore.columns import aggregated
from simserve.explore.space import SearchSpace, from_study
from simserve.spec.base import parse
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.study import SpaceSpec, StudySpec

STUDY: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B", "deployment": {"gpu": "h100_sxm"},
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1.0}, "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 10}, "requests": 10,
    },
}  # fmt: skip


def space_of(space: dict[str, Any], **deployment: Any) -> SearchSpace:
    """The space of the study with these choices."""
    own = {**STUDY["deployment"], **deployment}
    return from_study(parse(StudySpec, {**STUDY, "deployment": own, "search": {"space": space}}))


@pytest.mark.parametrize("scheduler", ["vllm", "sglang", "trtllm"])
def test_a_larger_share_holds_more_blocks(scheduler: str) -> None:
    """Both ways of listing the space have all shares, each with its combination; blocks grow with the share."""
    space = space_of({"gpu_memory_utilization": [0.6, 0.75, 0.9], "max_num_seqs": [64, 128]}, scheduler=scheduler)
    rows = aggregated(space)
    assert rows is not None
    found = [rows.deployment(row) for row in range(len(rows))]
    model, gpu = load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm")
    blocks = [deployment_blocks(model, d, gpu) for d in found if d.max_num_seqs == 64]

    assert {d.gpu_memory_utilization for d in found} == {0.6, 0.75, 0.9}
    assert sorted(map(str, found)) == sorted(map(str, space.deployments()))
    assert [space.deployment(space.combination(d)) for d in found] == found
    assert blocks == sorted(set(blocks))


def test_each_pool_has_a_share_of_its_own() -> None:
    """The decode pool chooses, the prefill pool stays as it is."""
    space = space_of({"mode": "disaggregated", "decode": {"gpu_memory_utilization": [0.8, 0.95]}})

    found = [{name: own.gpu_memory_utilization for name, own in d.engines()} for d in space.deployments()]

    assert found == [{"prefill": None, "decode": 0.8}, {"prefill": None, "decode": 0.95}]


def test_a_fixed_number_of_blocks_leaves_no_choice() -> None:
    """One line, with the key."""
    with pytest.raises(SpecError, match=r"gpu_memory_utilization.*num_gpu_blocks"):
        space_of({"gpu_memory_utilization": [0.8, 0.9]}, num_gpu_blocks=100)
    with pytest.raises(SpecError, match="gpu_memory_utilization"):
        space_of({"gpu_memory_utilization": [1.2]})


def test_spaces_without_it_are_written_as_before() -> None:
    """So that a journal of an older search is still known by its study."""
    assert "gpu_memory_utilization" not in SpaceSpec(prefill={"max_num_seqs": [4]}).model_dump_json()
    assert SpaceSpec(gpu_memory_utilization=[0.9]).model_dump()["gpu_memory_utilization"] == (0.9,)
