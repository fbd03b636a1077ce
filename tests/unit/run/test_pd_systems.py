"""Splitwise and P/D-Serve from spec to result."""

from __future__ import annotations

from typing import Any

import pytest

from simserve.cli.main import main
from simserve.errors import Infeasible, SpecError, UnknownName
from simserve.run import simulate
from simserve.sim import laws
from simserve.sim.request import Outcome
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.testing.builders import load

LLAMA = load_model("meta-llama/Llama-3.1-8B")
SPLITWISE: dict[str, Any] = {"system": "splitwise", "pools": {"prefill": {}, "decode": {"replicas": 2}}}
PD_SERVE: dict[str, Any] = {"system": "pd_serve", "pools": {"prefill": {}, "decode": {}}}
BURST = load([(1_000_000 * index, 1500, 40) for index in range(30)])


def deployment(asked: dict[str, Any], **options: Any) -> DeploymentSpec:
    """A validated deployment with system_options."""
    return parse(DeploymentSpec, {**asked, "system_options": options})


def test_layers_that_move_beside_the_prompt_come_sooner() -> None:
    """1,500 tokens: a thirty-second of the KV is left to move; without overlap all of it is."""
    one = load([(0, 1500, 40)])
    beside, after = (
        simulate(LLAMA, deployment(SPLITWISE, overlap_tokens=tokens), one).trace.requests for tokens in (512, 4096)
    )

    assert beside["first_token_ns"][0] == after["first_token_ns"][0]
    moved = [int(r["kv_arrived_ns"][0] - r["first_token_ns"][0]) for r in (beside, after)]
    assert moved[0] < moved[1] / 10


def test_a_burst_of_prompts_takes_token_machines() -> None:
    """With a mixed pool more than the prompt machine computes prompts, and the last first token comes sooner."""
    runs = [simulate(LLAMA, deployment(SPLITWISE, mixed_pool=mixed), BURST) for mixed in (True, False)]
    for run in runs:
        laws.check(run.trace)
    first = [int(run.trace.requests["first_token_ns"].max()) for run in runs]

    assert first[0] < 0.8 * first[1]
    assert {0} == set(runs[1].trace.requests["prefill_instance"].tolist())
    assert [3, 3] == [run.num_gpus for run in runs]


def test_a_gateway_rejects_what_it_cannot_place_in_time() -> None:
    """A burst of 30 prompts, a second of work: with 0.3 s some are turned away, and the others are served soon."""
    tight, loose = (simulate(LLAMA, deployment(PD_SERVE, ttft_budget_ms=ms), BURST) for ms in (300, 60_000))
    rejected = (tight.trace.requests["outcome"] == Outcome.REJECTED).sum()

    assert 0 < rejected == tight.metrics.rejected
    assert 0 == loose.metrics.rejected
    assert tight.metrics.ttft_ms.p99 < 0.7 * loose.metrics.ttft_ms.p99


def test_contiguous_kv_moves_faster_than_blocks() -> None:
    """94 blocks of 16 tokens, 50 us of control each."""
    one = load([(0, 1500, 4)])
    moved = []
    for transfer in ("contiguous", "block_fixed"):
        r = simulate(LLAMA, deployment(PD_SERVE, kv_transfer=transfer, control_us=50), one).trace.requests
        moved.append(int(r["kv_arrived_ns"][0] - r["first_token_ns"][0]))

    assert 93 * 50_000 == moved[1] - moved[0]


def test_bad_options_are_one_line() -> None:
    """The nearest knob, the choices, the range, pools that are missing."""
    with pytest.raises(UnknownName, match=r"deployment.system_options: unknown knob of splitwise 'mixed_pol'"):
        simulate(LLAMA, deployment(SPLITWISE, mixed_pol=True), BURST)
    with pytest.raises(SpecError, match=r"deployment.system_options.kv_transfer: must be one of contiguous, block_fix"):
        simulate(LLAMA, deployment(PD_SERVE, kv_transfer="blocks"), BURST)
    with pytest.raises(SpecError, match=r"deployment.system_options.prefill_slots: must be a number from 1 to 4096"):
        simulate(LLAMA, deployment(PD_SERVE, prefill_slots=0), BURST)
    with pytest.raises(SpecError, match="splitwise has pools prefill and decode"):
        simulate(LLAMA, parse(DeploymentSpec, {"system": "splitwise", "pools": {"prefill": {}}}), BURST)


def test_a_mixed_pool_has_no_pipelines() -> None:
    """Infeasible, in one line."""
    pools = {"prefill": {"pipeline_parallel_size": 2, "scheduler": "vllm"}, "decode": {}}
    asked = {"system": "splitwise", "pools": pools}
    with pytest.raises(Infeasible, match="splitwise is not modelled with pipeline_parallel_size"):
        simulate(LLAMA, parse(DeploymentSpec, asked), BURST)


@pytest.mark.parametrize(
    ("name", "knob"), [("semi_pd", "window_size"), ("splitwise", "max_pending_prompt_tokens"), ("pd_serve", "retry_ms")]
)
def test_each_system_is_explained_with_its_own_knobs(
    name: str, knob: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Header first, the knobs of the system as well as those of its scheduler."""
    assert 0 == main(["explain", name])
    page = capsys.readouterr().out

    assert "Source: " in page
    assert f"\n  {knob} = " in page
