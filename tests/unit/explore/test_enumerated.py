"""Spaces small enough to enumerate: the search ends on the enumerated best and front, in one pool and in two."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from simserve.explore.candidates import candidates
from simserve.explore.evaluate import evaluate
from simserve.explore.feasible import split
from simserve.explore.objective import recommend
from simserve.explore.pareto import front
from simserve.explore.runner import Inputs, prepare, run_search
from simserve.explore.space import from_study
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec

BASE: dict[str, Any] = {
    "name": "small",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 12},
        "prompt_tokens": {"kind": "lognormal", "mean": 1500, "std": 800, "max": 8000},
        "output_tokens": {"kind": "lognormal", "mean": 150, "std": 100, "max": 600},
        "requests": 200,
    },
    "slo": {"ttft_ms": 400, "tpot_ms": 10, "percentile": 90},
}
ONE = {"gpu": ["h100_sxm", "a100_sxm"], "tensor_parallel_size": [1, 2], "replicas": [1, 2],
       "max_num_batched_tokens": [1024, 8192]}  # fmt: skip
TWO = {
    "mode": "disaggregated", "tensor_parallel_size": [1, 2], "replicas": [1, 2],
    "prefill": {"gpu": "h100_sxm"}, "decode": {"gpu": ["h100_sxm", "a100_sxm"]},
}  # fmt: skip


def inputs_of(space: dict[str, Any], **search: Any) -> Inputs:
    """The study above with this space."""
    study = {**BASE, "search": {"space": space, "max_gpus": 5, "trials": 1000, **search}}
    return prepare(parse(StudySpec, study), base_dir=None)


@pytest.mark.parametrize("space", [ONE, TWO, {**TWO, **ONE, "mode": ["aggregated", "disaggregated"], "replicas": 1}])
@pytest.mark.parametrize("prune", [False, True])
def test_the_search_ends_on_the_enumerated_front(space: dict[str, Any], prune: bool) -> None:
    """Best and front of half the trials, or of those that pruning leaves, are those of everything simulated."""
    inputs = inputs_of(space)
    possible = split(inputs.model, from_study(inputs.study).deployments(), longest_tokens=inputs.load.longest_tokens)
    every = [evaluate(inputs.model, d, inputs.workload, inputs.study.slo) for d in possible.deployments]
    assert any(o.meets_slo for o in every)
    assert not all(o.meets_slo for o in every)

    found = run_search(inputs_of(space, prune=prune, trials=1000 if prune else len(every)))

    assert found.complete
    assert found.configurations == len(every)
    assert recommend(every)[0].deployment == found.recommended.deployment
    assert [o.deployment for o in front(every)] == [o.deployment for o in found.front]


def test_half_the_trials_find_the_best_of_two_pools() -> None:
    """The screen and TPE lead to what the enumeration recommends."""
    whole, half = run_search(inputs_of(TWO)), run_search(inputs_of(TWO, trials=8))

    assert whole.configurations > 2 * len(half.runs) - 1
    assert half.recommended.deployment == whole.recommended.deployment


@pytest.mark.parametrize("space", [ONE, TWO])
def test_the_screen_ranks_as_the_simulation_does(space: dict[str, Any]) -> None:
    """Rank correlation of TPOT and of TTFT over the whole space, and the same order of throughput per GPU."""
    inputs = inputs_of(space)
    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)
    assert len(found.deployments) == found.configurations
    played = [evaluate(inputs.model, d, inputs.workload, inputs.study.slo) for d in found.deployments]
    estimated = np.stack([found.screen.tpot_ms, found.screen.ttft_ms, found.screen.tokens_per_s_per_gpu], axis=1)
    measured = np.array([(o.metrics["tpot_ms"]["mean"], o.metrics["ttft_ms"]["mean"], o.tokens_per_s_per_gpu)
                         for o in played])  # fmt: skip

    assert all(spearmanr(estimated[:, k], measured[:, k]).statistic > 0.9 for k in range(3))


def test_the_promising_part_is_bounded() -> None:
    """Only so many become deployments; the size of the space is still known."""
    inputs = inputs_of(ONE)
    few = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo, most=3)
    every = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)

    assert few.deployments == every.deployments[:3]
    assert few.configurations == every.configurations == len(every.deployments)


def test_pools_may_have_other_gpus() -> None:
    """Every pair of the grid within the limit, and nothing else."""
    found = from_study(inputs_of(TWO).study).deployments()
    engines = [dict(d.engines()) for d in found]

    assert {(e["prefill"].gpu, e["decode"].gpu) for e in engines} == {("h100_sxm", g) for g in ("h100_sxm", "a100_sxm")}
    assert all(isinstance(d, DeploymentSpec) and d.num_gpus <= 5 for d in found)
    # of pools of 1, 2, 2 and 4 GPUs, one of 1 goes with all, one of 2 with those of 1 and 2, one of 4 with that of 1
    assert len(found) == 2 * (4 + 3 + 3 + 1)
