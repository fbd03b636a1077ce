"""What metrics make of denoising steps, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.check.metrics import check_metric
from simserve.errors import SpecError
from simserve.metrics.diffusion import DiffusionMetrics, diffusion_metrics
from simserve.metrics.stats import Stats
from simserve.metrics.summary import compute
from simserve.policies.routers import RoundRobin
from simserve.sim.denoise import DenoiseUse, PassKind
from simserve.spec.base import parse
from simserve.spec.study import StudySpec
from simserve.systems.dllm_serve import DllmServe
from simserve.systems.vanilla_dllm import VanillaDllm
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.denoising import denoised
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=10, per_token_ns=1)
E2E = Stats(3.0, 2.0, 5.0, 6.0, 8.0)
NOTHING = Stats(None, None, None, None, None)


def test_over_all_instances() -> None:
    """10 passes in 4 steps, 210 query tokens of which 60 are reuses, 25 positions."""
    first = DenoiseUse(
        {PassKind.FULL: 1, PassKind.BUILD: 1, PassKind.REUSE: 4},
        {PassKind.FULL: 50, PassKind.BUILD: 40, PassKind.REUSE: 40}, 15, 3,
    )  # fmt: skip
    second = DenoiseUse(
        {PassKind.FULL: 2, PassKind.BUILD: 0, PassKind.REUSE: 2},
        {PassKind.FULL: 60, PassKind.BUILD: 0, PassKind.REUSE: 20}, 10, 1,
    )  # fmt: skip

    assert DiffusionMetrics(4, 2.5, 52.5, 150 / 210, 2.5, 4.0) == diffusion_metrics([first, second], E2E)


def test_without_diffusion_and_without_steps() -> None:
    """None, and zeros."""
    assert diffusion_metrics([], E2E) is None
    assert DiffusionMetrics(0, 0.0, 0.0, 0.0, 0.0, None) == diffusion_metrics([DenoiseUse()], NOTHING)


def test_of_a_run() -> None:
    """S = 13, blocks of 4: a full step, a build and 2 reuses, twice: 52 + 16 query tokens in 8 steps of one request."""
    scheduler = DllmServe(max_num_batched_tokens=64, max_num_seqs=8, block_length=4)
    _, trace = denoised([(0, 5, 8)], scheduler, COST)

    assert DiffusionMetrics(8, 1.0, 68 / 8, 52 / 68, 1.0, 1.0) == compute(trace, num_gpus=1).diffusion
    assert 8 == compute(trace, num_gpus=1).to_dict()["diffusion"]["steps"]


def test_padding_and_waiting_rows_are_in_it() -> None:
    """Canvases of 4 and 6 in a batch, 2 a step: 3 steps of 2 passes over 11, 12 positions of which 10 come out."""
    scheduler = VanillaDllm(max_num_batched_tokens=64, max_num_seqs=2, block_length=4, tokens_per_step=2)
    _, trace = denoised([(0, 3, 4), (0, 5, 6)], scheduler, COST)

    assert DiffusionMetrics(3, 2.0, 22.0, 1.0, 2.0, 1.0) == compute(trace, num_gpus=1).diffusion


def test_other_models_have_none() -> None:
    """Nor does their document."""
    trace, _ = play(load([(0, 5, 8)]), [Vllm()], RoundRobin(), COST)
    found = compute(trace, num_gpus=1)

    assert found.diffusion is None
    assert "diffusion" not in found.to_dict()


def test_they_have_names_where_canvases_are_served() -> None:
    """As in `expect` and paper studies."""
    lengths = {"prompt_tokens": {"kind": "fixed", "value": 9}, "output_tokens": {"kind": "fixed", "value": 9}}
    plain: dict[str, Any] = {"arrivals": {"kind": "closed_loop", "concurrency": 1}, "requests": 1, **lengths}
    study = {"name": "s", "model": "m", "deployment": {"gpu": "l40s"}}
    canvases, tokens = (parse(StudySpec, {**study, "workload": w}) for w in ({**plain, "kind": "diffusion"}, plain))

    check_metric("diffusion.tokens_per_step", "expect", canvases)
    with pytest.raises(SpecError, match="no run has a metric"):
        check_metric("diffusion.tokens_per_step", "expect", tokens)
