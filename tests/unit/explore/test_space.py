"""The search space: a grid around a base deployment, within the GPU limit."""

import pytest

from simserve.errors import SpecError
from simserve.explore.space import SearchSpace, from_study
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

STUDY = {
    "name": "s",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 1},
        "prompt_tokens": {"kind": "fixed", "value": 10},
        "output_tokens": {"kind": "fixed", "value": 10},
        "requests": 10,
    },
    "deployment": {"block_size": 32},
}


def test_enumerates_all_combinations_within_the_gpu_limit() -> None:
    """TP 1, 2, 4 by replicas 1, 2, 4 has six combinations of at most 4 GPUs."""
    space = SearchSpace(DeploymentSpec(), {"tensor_parallel_size": (1, 2, 4), "replicas": (1, 2, 4)}, 4)

    sizes = [(d.tensor_parallel_size, d.replicas) for d in space.deployments()]

    assert sizes == [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]


def test_a_single_replica_has_no_choice_of_router() -> None:
    """Two routers double the configurations of two replicas only."""
    space = SearchSpace(DeploymentSpec(), {"replicas": (1, 2), "router": ("least_loaded", "round_robin")})

    found = [(d.replicas, d.router) for d in space.deployments()]

    assert found == [(1, "least_loaded"), (2, "least_loaded"), (2, "round_robin")]


def test_combination_inverts_deployment() -> None:
    """A deployment of the space gives back its choices."""
    space = SearchSpace(DeploymentSpec(), {"replicas": (1, 2), "dtype": ("bf16", "fp8")})

    assert all(space.deployment(space.combination(d)) == d for d in space.deployments())


def test_a_limit_that_leaves_nothing_is_an_error() -> None:
    """max_gpus below every configuration names the key."""
    with pytest.raises(SpecError, match=r"search\.max_gpus"):
        SearchSpace(DeploymentSpec(), {"tensor_parallel_size": (4, 8)}, 2).deployments()


def test_study_without_search_is_one_deployment() -> None:
    """The space is then the deployment itself."""
    study = parse(StudySpec, STUDY)

    assert from_study(study).deployments() == [study.deployment]


def test_gpu_aliases_are_one_gpu() -> None:
    """'h100' and 'H100-SXM' are the same choice; other fields stay as in the study's deployment."""
    study = parse(StudySpec, {**STUDY, "search": {"space": {"gpu": ["h100", "H100-SXM", "l40s"]}}})

    found = [(d.gpu, d.block_size) for d in from_study(study).deployments()]

    assert found == [("h100_sxm", 32), ("l40s", 32)]
