"""What a diffusion configuration does to the answers, told from its options and its scheduler's defaults."""

from typing import Any

import pytest

from simserve.asked.diffusion import OPTIONS
from simserve.explore.quality import quality_note, shown_options
from simserve.explore.result import describe_deployment
from simserve.spec.deployment import DeploymentSpec
from simserve.systems import SCHEDULERS

CONFIDENCE = "positions per step come from workload.confidence, Fast-dLLM's figure on GSM8K unless given"


def of(scheduler: str, **options: Any) -> DeploymentSpec:
    """One replica."""
    return DeploymentSpec(scheduler=scheduler, scheduler_options=tuple(options.items()))


@pytest.mark.parametrize(
    ("deployment", "note"),
    [
        (of("sangam"), f"Quality is not judged: threshold 0.9 changes the answers; {CONFIDENCE}"),
        (of("sangam", threshold=0.0), ""),
        (of("fast_dllm"), ""),
        (of("fast_dllm", threshold=0.8), f"Quality is not judged: threshold 0.8 changes the answers; {CONFIDENCE}"),
        (of("dllm_serve"), "Quality is not judged: retention_ratio 0.5 changes the answers"),
        (of("dllm_serve", retention_ratio=1.0), ""),
        (of("vanilla_dllm", tokens_per_step=2, threshold=0.9),
         f"Quality is not judged: threshold 0.9 and tokens_per_step 2 change the answers; {CONFIDENCE}"),
        (of("vanilla_dllm"), ""),
        (DeploymentSpec(), ""),
    ],
)  # fmt: skip
def test_options_that_change_the_answers_are_named_with_defaults(deployment: DeploymentSpec, note: str) -> None:
    """Sangam's threshold is 0.9 and dllm_serve's retention_ratio 0.5 where a study gives none."""
    assert quality_note(deployment) == note


def test_a_configuration_shows_its_threshold_also_by_default() -> None:
    """Once, and only of schedulers that have one."""
    assert describe_deployment(of("sangam")).endswith("threshold 0.9")
    assert describe_deployment(of("sangam", threshold=0.5)).count("threshold 0.5") == 1
    assert "threshold" not in describe_deployment(of("dllm_serve"))
    assert shown_options(of("vllm")) == {}


def test_a_search_by_options_compares_schedulers_that_commit_one_position_a_step() -> None:
    """Every scheduler with a threshold is given 0, so that none is fast by other answers."""
    from simserve.asked import diffusion as diffusion_space
    from simserve.sim.plan import knobs

    with_threshold = [name for name in diffusion_space.SCHEDULERS if "threshold" in knobs(SCHEDULERS.get(name))]

    assert with_threshold == ["fast_dllm", "sangam"]
    assert {name: OPTIONS[name]["threshold"] for name in with_threshold} == {"fast_dllm": [0.0], "sangam": [0.0]}
