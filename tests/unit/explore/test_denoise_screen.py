"""The screen of diffusion models: a scheduler's passes worked out by hand, estimates beside simulations, the best."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from simserve.errors import SpecError
from simserve.explore.candidates import candidates
from simserve.explore.denoise_screen import Program, program
from simserve.explore.evaluate import evaluate
from simserve.explore.load import Canvases
from simserve.explore.objective import recommend
from simserve.explore.runner import Inputs, prepare, run_search
from simserve.explore.space import from_study
from simserve.sim.confidence import Confidence
from simserve.spec.base import parse
from simserve.spec.confidence import ConfidenceSpec
from simserve.spec.study import StudySpec

SURE = ConfidenceSpec()
BASE: dict[str, Any] = {
    "name": "canvases",
    "model": "GSAI-ML/LLaDA-8B-Instruct",
    "workload": {
        "kind": "diffusion",
        "arrivals": {"kind": "poisson", "rate_rps": 0.8},
        "prompt_tokens": {"kind": "lognormal", "mean": 300, "std": 200, "max": 1500},
        "output_tokens": {"kind": "fixed", "value": 128},
        "requests": 30,
    },
    "slo": {"e2e_ms": 12_000, "percentile": 90},
    "deployment": {"gpu": "l40s", "scheduler": "dllm_serve"},
}
SPACE: dict[str, Any] = {
    "gpu": ["l40s", "rtx_4090"], "replicas": [1, 2], "scheduler": ["dllm_serve", "fast_dllm", "sparse_dllm", "sangam"],
    "max_num_seqs": [2, 16], "max_num_batched_tokens": 4096,
    "scheduler_options": {
        "dllm_serve": {"block_length": [16, 32], "retention_ratio": [0.5, 1.0]},
        "sangam": {"threshold": 0.0, "quantum": [1024, 4096]},
    },
}  # fmt: skip


def inputs_of(space: dict[str, Any], workload: dict[str, Any] | None = None, **search: Any) -> Inputs:
    """The study above with this space."""
    section = {"space": space, "max_gpus": 2, "trials": 1000, "objective": "cost", **search}
    study = {**BASE, "workload": {**BASE["workload"], **(workload or {})}, "search": section}
    return prepare(parse(StudySpec, study), base_dir=None)


def test_the_program_of_dllm_serve() -> None:
    """Two refreshes of 100 + 64 tokens and 30 reuses a block, beside half of the 132 tokens outside it."""
    found = program("dllm_serve", (), 100, 64, SURE)

    assert found == Program((((164, 0, 32), 4), ((32, 66, 32), 60)), 32, False)


def test_the_program_of_a_static_batch() -> None:
    """Fast-dLLM's prefix cache: one full pass a block, then the block and all behind it, beside what is before."""
    found = program("fast_dllm", (("block_length", 16),), 100, 32, SURE)

    assert found == Program((((132, 0, 132), 2), ((32, 100, 32), 15), ((16, 116, 16), 15)), 16, True)


@pytest.mark.parametrize("requests", [1, 4])
def test_a_threshold_takes_the_steps_that_it_takes_on_average(requests: int) -> None:
    """Of a long canvas: the blocks of 32 x the mean steps of the slowest of so many."""
    found = program("fast_dllm", (("threshold", 0.9),), 10, 3200, SURE, requests)

    blocks = 100 * Confidence(SURE, 0).block_steps(0.9, 32, requests)
    assert found.steps == pytest.approx(blocks, rel=0.02)
    assert (requests == 1) == (abs(found.steps * SURE.mean_tokens(0.9) / 3200 - 1) < 0.02)


def test_the_slowest_of_many_takes_as_long_as_without_luck() -> None:
    """At the lowest ease each step commits one position; one request takes block_length over the measured mean."""
    sure = Confidence(ConfidenceSpec(cv=1.0), 0)

    assert sure.block_steps(0.9, 32) == pytest.approx(32 / 3.25, rel=1e-3)
    assert 31 < sure.block_steps(0.9, 32, 10_000) <= 32


def test_the_longest_of_several_prompts() -> None:
    """Of 10 and 20, equally likely: 15 of one draw, 17.5 of two."""
    canvases = Canvases((10, 20), (4, 4), SURE)

    assert [canvases.longest_of(n)[0] for n in (1, 2, 50)] == [15, 18, 20]
    assert canvases.longest_of(3)[1] == 4


@pytest.mark.parametrize("scheduler", [*SPACE["scheduler"], "vanilla_dllm", "dllm_cache"])
def test_an_only_request_takes_what_is_estimated(scheduler: str) -> None:
    """In a closed loop of one, of equal lengths: the sum of its steps' prices."""
    alone = {"arrivals": {"kind": "closed_loop", "concurrency": 1}, "prompt_tokens": {"kind": "fixed", "value": 300},
             "requests": 3}  # fmt: skip
    options = {"threshold": 0.0} if scheduler == "sangam" else {}
    inputs = inputs_of({"scheduler": scheduler, "scheduler_options": {scheduler: options}}, alone)

    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo)
    played = evaluate(inputs.model, found.deployments[0], inputs.workload, inputs.study.slo)

    assert found.screen.e2e_ms[0] == pytest.approx(played.metrics["e2e_ms"]["mean"], rel=0.01)
    assert found.screen.ttft_ms[0] == pytest.approx(played.metrics["ttft_ms"]["mean"], rel=0.1)
    assert found.screen.tokens_per_s_per_gpu[0] == pytest.approx(played.tokens_per_s_per_gpu, rel=0.01)


def test_estimates_rank_and_the_search_ends_on_the_enumerated_best() -> None:
    """Of 64 configurations with and without overload; with a third of them simulated the same one wins."""
    inputs = inputs_of(SPACE)
    found = candidates(from_study(inputs.study), inputs.model, inputs.load, inputs.study.slo, objective="cost")
    every = [evaluate(inputs.model, d, inputs.workload, inputs.study.slo) for d in found.deployments]
    estimated = np.stack([found.screen.e2e_ms, found.screen.ttft_ms, found.screen.tokens_per_s_per_gpu], axis=1)
    measured = np.array([(o.metrics["e2e_ms"]["mean"], o.metrics["ttft_ms"]["mean"], o.tokens_per_s_per_gpu)
                         for o in every])  # fmt: skip

    assert len(every) == 64
    assert 10 < sum(o.meets_slo for o in every) < 54
    ranks = [spearmanr(estimated[:, k], measured[:, k]).statistic for k in range(3)]
    assert all(np.array(ranks) > [0.95, 0.9, 0.85])  # by the estimate all who keep up have the same throughput
    whole = run_search(inputs_of(SPACE, trials=64))
    some = run_search(inputs_of(SPACE, trials=18, batch=6))
    assert len(some.runs) == 18
    best, _ = recommend(every, "cost")
    assert best.deployment == whole.recommended.deployment == some.recommended.deployment


def test_pools_are_refused() -> None:
    """In one line, with the key."""
    with pytest.raises(SpecError, match=r"search.space.mode.*one pool"):
        run_search(inputs_of({"mode": ["aggregated", "disaggregated"]}))
