"""Whole searches on small real spaces: exhaustive answers, and the same front from fewer trials."""

from typing import Any

import pytest

from simserve.errors import SpecError
from simserve.explore.runner import play, prepare, run_search, simulated
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "small",
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {
        "arrivals": {"kind": "poisson", "rate_rps": 12},
        "prompt_tokens": {"kind": "lognormal", "mean": 1000, "std": 800, "max": 8000},
        "output_tokens": {"kind": "lognormal", "mean": 150, "std": 100, "max": 600},
        "requests": 250,
    },
    "slo": {"ttft_ms": 400, "tpot_ms": 25, "percentile": 90},
    "search": {
        "space": {
            "gpu": ["h100_sxm", "a100_sxm", "l40s"],
            "tensor_parallel_size": [1, 2],
            "replicas": [1, 2, 3],
            "max_num_batched_tokens": [1024, 8192],
        },
        "max_gpus": 4,
        "trials": 200,
    },
}


def searched(trials: int) -> Any:
    """The result of the study with so many trials."""
    study = parse(StudySpec, {**STUDY, "search": {**STUDY["search"], "trials": trials}})
    return run_search(prepare(study, base_dir=None))


def test_a_small_space_is_simulated_completely() -> None:
    """3 GPUs x (TP 1: 3 counts, TP 2: 2 counts) x 2 budgets = 30, all simulated, the best recommended."""
    result = searched(200)
    best = max(r.tokens_per_s_per_gpu for r in result.runs if r.meets_slo)

    assert (len(result.runs), result.complete) == (30, True)
    assert result.recommended is result.runs[0]
    assert result.recommended.tokens_per_s_per_gpu >= 0.99 * best


def test_half_of_the_trials_find_the_same_answer() -> None:
    """The screen and TPE lead to what the enumeration recommends."""
    assert searched(15).recommended.deployment == searched(200).recommended.deployment


def test_simulation_of_one_deployment() -> None:
    """A study as one run: no recommendation, all requests counted."""
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None, requests=50)
    result = simulated(inputs, play(inputs))

    assert (result.kind, result.recommended, result.runs[0].metrics["requests"]) == ("simulate", None, 50)


def test_a_time_limit_ends_the_search_between_batches() -> None:
    """After the limit no further batch is asked for, and the result says so."""
    study = parse(StudySpec, {**STUDY, "search": {**STUDY["search"], "timeout_s": 1e-6}})
    result = run_search(prepare(study, base_dir=None))

    assert len(result.runs) == 8
    assert result.provenance["execution"]["stopped"] == "after the time limit of 1e-06 s"
    whole = run_search(prepare(parse(StudySpec, STUDY), base_dir=None))
    assert "stopped" not in whole.provenance["execution"]


def test_requests_beyond_the_context_are_an_error_only_if_all_are() -> None:
    """Nothing can be served: one clear error before any simulation."""
    workload = {**STUDY["workload"], "prompt_tokens": {"kind": "fixed", "value": 200_000}}

    with pytest.raises(SpecError, match="every request is longer than the context"):
        prepare(parse(StudySpec, {**STUDY, "workload": workload}), base_dir=None)


def test_provenance_says_what_the_result_rests_on() -> None:
    """Study, model, workload digest, versions and seed; no path outside the study."""
    inputs = prepare(parse(StudySpec, STUDY), base_dir=None, requests=20)
    record = simulated(inputs, play(inputs)).provenance

    assert {"simserve", "python", "packages", "seed", "study", "model", "workload", "workload_sha256"} == set(record)
    assert record["packages"]["optuna"]
