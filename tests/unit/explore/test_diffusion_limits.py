"""What limits a run of a diffusion model, in words that fit: seats, KV pages, query tokens, a batch on its way."""

from typing import Any

import pytest

from simserve.explore.evaluate import reduce
from simserve.explore.limits import limits
from simserve.explore.objective import Outcome
from simserve.explore.pressure import gauges
from simserve.explore.rivals import lines, rivals
from simserve.explore.runner import prepare
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "model": "GSAI-ML/LLaDA-8B-Instruct",
    "workload": {
        "kind": "diffusion", "arrivals": {"kind": "closed_loop", "concurrency": 12},
        "prompt_tokens": {"kind": "fixed", "value": 300}, "output_tokens": {"kind": "fixed", "value": 64},
        "requests": 36,
    },
    "slo": {"e2e_ms": 10_000},
}  # fmt: skip


def played(**deployment: Any) -> tuple[Outcome, Any]:
    """12 requests at a time, of 364 tokens each, on one L40S."""
    from simserve.run import simulate

    inputs = prepare(parse(StudySpec, {**STUDY, "deployment": {"gpu": "l40s", **deployment}}), base_dir=None)
    study = inputs.study
    run = simulate(inputs.model, study.deployment, inputs.workload, slo=study.slo)
    return reduce(run, inputs.model, study.deployment, study.slo), run


@pytest.mark.parametrize(
    ("deployment", "name", "words"),
    [
        ({"scheduler": "dllm_serve", "max_num_seqs": 4}, "seqs", "4 requests run already"),
        # 182 tokens are a page of 256: 6 pages hold 6 of the 12
        ({"scheduler": "dllm_serve", "num_gpu_blocks": 7}, "kv", "too few of the 6 KV pages"),
        # a second refresh does not fit beside one of 364 tokens
        ({"scheduler": "dllm_serve", "max_num_batched_tokens": 512, "max_num_seqs": 64}, "tokens",
         "no room for one more refresh, a pass over all of a request, in its 512 query tokens"),
        ({"scheduler": "sparse_dllm", "max_num_seqs": 64, "max_num_batched_tokens": 1456}, "policy",
         "a batch, of 4 requests on average, runs to its end"),
        ({"scheduler": "fast_dllm", "max_num_seqs": 4}, "seqs", "a batch that runs to its end"),
        ({"scheduler": "sangam", "scheduler_options": {"quantum": 64}}, "policy", "still being gathered"),
    ],
)  # fmt: skip
def test_what_requests_wait_for(deployment: dict[str, Any], name: str, words: str) -> None:
    """The first thing that is named, with the numbers."""
    outcome, _ = played(**deployment)
    first = limits(outcome).found[0]

    assert first.name == name
    assert first.share > 0.2
    assert words in first.text


def test_a_step_is_told_by_its_query_tokens() -> None:
    """Four refreshes of 364 tokens and 60 reuses of 32, of 12 requests at a time; the rest is the words."""
    outcome, run = played(scheduler="dllm_serve", max_num_seqs=12)
    told = limits(outcome)
    queries = next(limit for limit in told.found if limit.name == "queries")
    refreshes = 4 * 364 / (4 * 364 + 60 * 32)

    assert queries.share == pytest.approx(refreshes)
    assert f"{100 * refreshes:.0f} % of them in refreshes" in queries.text
    assert queries.text.endswith("a pass commits 1 position")
    assert "waiting for the first step" in told.summary
    assert "token" not in told.summary
    assert "query tokens that are refreshes" in [gauge.name for gauge in gauges(run)]
    assert not [gauge.name for gauge in gauges(run) if "prompts" in gauge.name]
    assert "steps with prompts" not in " ".join(limit.text for limit in told.found)


def test_steps_with_refreshes_and_without_are_told_apart() -> None:
    """Shares of the busy time by kind of step add up to 1, and steps with refreshes have the larger GEMMs."""
    outcome, _ = played(scheduler="dllm_serve", max_num_seqs=1)
    (use,) = outcome.usage
    parts = [sum(use["time"][phase].values()) for phase in ("prompts", "decode")]

    assert use["denoises"] is True
    assert sum(parts) == pytest.approx(1, abs=1e-3)
    assert 0.05 < parts[0] < parts[1]  # 4 of 64 steps, of 364 queries each


def test_no_calibration_is_claimed() -> None:
    """Those of the engine profiles are of models that decode."""
    from simserve.run import run_residuals

    _, run = played(scheduler="sangam", max_num_seqs=4)

    assert run.engines[0].cost.inner.profile.tpot_spread > 0
    assert run_residuals(run, 0.1) == {}


def test_other_schedulers_are_told_beside_the_chosen_one() -> None:
    """The first run of each other scheduler with its place, what it misses and what limits it; none of its own."""
    sangam, slow, batch, again = (
        played(**own)[0] for own in (
            {"scheduler": "sangam", "scheduler_options": {"threshold": 0.0}},
            {"scheduler": "dllm_serve", "max_num_seqs": 1},
            {"scheduler": "sparse_dllm", "max_num_seqs": 4},
            {"scheduler": "dllm_serve", "max_num_seqs": 2},
        )
    )  # fmt: skip
    found = rivals([sangam, slow, batch, again], sangam, "throughput")
    told = lines(found, sangam, "throughput")

    assert [(one.scheduler, one.place) for one in found] == [("dllm_serve", 1), ("sparse_dllm", 2)]
    assert found[0].goal == slow.tokens_per_s_per_gpu
    assert found[0].misses.startswith("its P90 E2E is")
    assert "1 requests run already" in found[0].limits[0]
    assert told[0].startswith("dllm_serve, best of 2 simulated: 1 x l40s TP1 bf16, dllm_serve, ")
    assert f"tokens/s/GPU against {sangam.tokens_per_s_per_gpu:.4g}; its P90" in told[0]
    assert rivals([sangam], sangam, "throughput") == []
