"""Host memory for KV as a search dimension: asked for only where a scheduler keeps KV on a host."""

from typing import Any

import pytest

from simserve.build import build_tier, deployment_blocks, deployment_cost, give_predictor, layout_of
from simserve.errors import Infeasible, SpecError
from simserve.explore.columns import aggregated
from simserve.explore.space import SearchSpace, from_study
from simserve.perf.layers import PredictedTimes
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.systems.apex import Apex
from simserve.units import GIB

HYBRID: dict[str, Any] = {"host": "xeon_gold_6130_x2", "kv_gib": 32}
STUDY: dict[str, Any] = {
    "name": "hybrid", "model": "meta-llama/Llama-2-7b-hf",
    "deployment": {
        "gpu": "t4", "dtype": "fp16", "hybrid": HYBRID, "num_gpu_blocks": 166, "max_num_batched_tokens": 1024,
    },
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1.0}, "prompt_tokens": {"kind": "fixed", "value": 100},
        "output_tokens": {"kind": "fixed", "value": 10}, "requests": 10,
    },
}  # fmt: skip
SPACE: dict[str, Any] = {
    "scheduler": ["vllm", "apex", "neo"], "hybrid_kv_gib": [16.0, 64.0],
    "scheduler_options": {"apex": {"min_cohort": [4, 8]}},
}


def space_of(space: dict[str, Any], **deployment: Any) -> SearchSpace:
    """The space of the study with these choices."""
    own = {**STUDY["deployment"], **deployment}
    return from_study(parse(StudySpec, {**STUDY, "deployment": own, "search": {"space": space}}))


def deployment(**fields: Any) -> DeploymentSpec:
    """The study's deployment with other fields."""
    return parse(DeploymentSpec, {**STUDY["deployment"], **fields})


def test_memory_is_asked_for_with_schedulers_that_use_it() -> None:
    """vllm once, apex 2 x 2, neo twice; columns hold the same deployments, each with its combination."""
    space = space_of(SPACE)
    rows = aggregated(space)
    assert rows is not None
    found = [rows.deployment(row) for row in range(len(rows))]

    assert 7 == len(space) == len(found)
    assert [space.combination(d) for d in found] == list(space.combinations())
    memory = [(d.scheduler, d.hybrid.kv_gib) for d in found if d.hybrid is not None]
    assert memory == [("vllm", 32), *[("apex", 16)] * 2, *[("apex", 64)] * 2, ("neo", 16), ("neo", 64)]


def test_memory_alone_is_a_choice_of_a_scheduler_that_uses_it() -> None:
    """With one scheduler the values are those of the space, or none."""
    assert 2 == len(space_of({"hybrid_kv_gib": [16.0, 64.0]}, scheduler="neo"))
    assert 1 == len(space_of({"hybrid_kv_gib": [16.0, 64.0]}, scheduler="vllm"))


def test_memory_needs_a_host() -> None:
    """The size alone names no host."""
    with pytest.raises(SpecError, match=r"hybrid_kv_gib: needs deployment.hybrid"):
        space_of(SPACE, hybrid=None)


def test_the_staging_layer_takes_its_share_of_the_gpu() -> None:
    """166 blocks x 32 / 33 for those that stage, all for others [N]."""
    model, gpu = load_model("meta-llama--Llama-2-7b-hf"), load_gpu("t4")
    blocks = {name: deployment_blocks(model, deployment(scheduler=name), gpu) for name in ("vllm", "neo", "apex")}

    assert {"vllm": 166, "neo": 160, "apex": 160} == blocks


def test_a_tier_and_its_predictor() -> None:
    """32 GiB in blocks of 8 MiB; the scheduler believes the true times, or others if asked."""
    model, gpu = load_model("meta-llama--Llama-2-7b-hf"), load_gpu("t4")
    exact = deployment(scheduler="apex")
    cost = deployment_cost(model, exact, gpu)
    tier = build_tier(model, exact, gpu, cost)
    assert tier is not None
    wrong = deployment(scheduler="apex", hybrid={**HYBRID, "prediction_error": 0.3})
    believed = [give_predictor(Apex(), d, tier).predictor for d in (exact, wrong)]  # type: ignore[attr-defined]

    assert 32 * GIB // (8 << 20) == tier.num_blocks
    assert believed[0] is tier.cost.times
    assert isinstance(believed[1], PredictedTimes)
    assert build_tier(model, deployment(scheduler="vllm"), gpu, cost) is None


def test_what_is_not_modelled_is_refused_in_one_line() -> None:
    """A scheduler without its host, several GPUs, and other uses of host memory."""
    model, gpu = load_model("meta-llama--Llama-2-7b-hf"), load_gpu("t4")
    alone = deployment(scheduler="neo", hybrid=None)
    with pytest.raises(SpecError, match=r"deployment.hybrid: neo keeps KV on a host"):
        build_tier(model, alone, gpu, deployment_cost(model, alone, gpu))
    with pytest.raises(Infeasible, match="one GPU per replica, not 2"):
        layout_of(deployment(scheduler="neo").model_copy(update={"tensor_parallel_size": 2}))
    beside = {"swap_space_gib": 4.0, "async_scheduling": True, "tensor_parallel_size": 2}
    for name, value in beside.items():
        with pytest.raises(SpecError, match="hybrid is not modelled with"):
            deployment(**{name: value})
