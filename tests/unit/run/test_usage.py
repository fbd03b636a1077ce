"""What a run's time is said to go to, beside the steps of its own trace."""

import pytest

from simserve.explore.usage import usage
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.spec.workload import WorkloadSpec
from simserve.workload.build import build_workload


def test_leaps_that_arrivals_end_count_with_what_they_took() -> None:
    """The sampled share of steps with prompts is the trace's, where every arrival ends a leap of decode steps."""
    workload = WorkloadSpec.model_validate({
        "arrivals": {"kind": "poisson", "rate_rps": 8}, "prompt_tokens": {"kind": "fixed", "value": 1000},
        "output_tokens": {"kind": "fixed", "value": 100}, "requests": 2000,
    })  # fmt: skip
    model = load_model("meta-llama/Llama-3.1-8B")
    run = simulate(model, DeploymentSpec(gpu="h100_sxm"), build_workload(workload, seed=0))
    steps = run.trace.steps
    took, prompts = steps["end_ns"] - steps["start_ns"], steps["tokens"] > steps["running"]

    assert usage(run, model)[0]["prompt_steps"] == pytest.approx(took[prompts].sum() / took.sum(), abs=0.02)
