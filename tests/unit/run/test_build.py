"""What a deployment builds: scheduler knobs, and errors that name them."""

from typing import cast

import pytest

from simserve.build import build_scheduler, memory_share
from simserve.errors import Infeasible, SpecError
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.systems.sglang import SgLang
from simserve.systems.trtllm import TrtLlm
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load


def deployment(**options: object) -> DeploymentSpec:
    """A deployment with scheduler options."""
    return DeploymentSpec.model_validate({"max_num_seqs": 9, "scheduler_options": options})


def test_knobs_come_from_fields_and_options() -> None:
    """Fields of the same name, and scheduler_options for the rest; the deployment stays hashable."""
    built = build_scheduler(deployment(policy="priority", watermark=0.1))

    assert Vllm(8192, 9, policy="priority", watermark=0.1) == built
    assert hash(deployment(watermark=0.1)) == hash(deployment(watermark=0.1))


def test_iterations_with_drafts_are_several_steps() -> None:
    """Two drafts, half accepted: 1 + 1/2 + 1/4 tokens an iteration, so 40 iterations are 70 steps of a token."""
    drafts = {"scheduler": "sglang", "num_speculative_tokens": 2, "acceptance_rate": 0.5}
    options = {"scheduler_recv_interval": 40, "max_prefill_tokens": 4096}
    for given, interval in (({}, 40), (drafts, 70)):
        spec = {"scheduler": "sglang", "scheduler_options": options, **given}
        built = cast(SgLang, build_scheduler(DeploymentSpec.model_validate(spec)))
        assert (built.scheduler_recv_interval, built.max_prefill_tokens) == (interval, 4096)


def test_ranks_are_told_how_many_they_are() -> None:
    """TensorRT-LLM's ranks wait for one another; their limits are those of all together."""
    spec = DeploymentSpec(scheduler="trtllm", data_parallel_size=4, max_num_seqs=8)
    built = cast(TrtLlm, build_scheduler(spec))
    assert (built.attention_dp_size, built.max_num_seqs) == (4, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"watermrk": 0.1}, "scheduler_options: unknown knob of vllm 'watermrk'; did you mean 'watermark'?"),
     ({"policy": "lifo"}, "scheduler_options.policy: must be one of fcfs, priority (got 'lifo')"),
     ({"watermark": 3}, "scheduler_options.watermark: must be a number from 0.0 to 0.5 (got 3)"),
     ({"watermark": "much"}, "scheduler_options.watermark: must be a number from 0.0 to 0.5 (got 'much')")],
)  # fmt: skip
def test_a_wrong_option_is_named(options: dict[str, object], message: str) -> None:
    """Name, value, range."""
    with pytest.raises(SpecError) as caught:
        build_scheduler(deployment(**options))
    assert f"deployment.{message}" == str(caught.value)


def test_a_context_that_the_cache_cannot_hold_is_infeasible() -> None:
    """With the counts in words."""
    small = DeploymentSpec(num_gpu_blocks=11, max_model_len=200)

    with pytest.raises(Infeasible, match=r"max_model_len 200 .* 10 blocks of 16 tokens hold 160 tokens"):
        simulate(load_model("meta-llama/Llama-3.1-8B"), small, load([(0, 5, 2)]))


def test_memory_adds_up() -> None:
    """Weights, activations and KV lie within the share of the GPU that the engine may use."""
    result = simulate(load_model("meta-llama/Llama-3.1-8B"), DeploymentSpec(), load([(0, 500, 20)]))
    placed = sum(result.memory_bytes.values())

    assert placed <= 0.92 * 84_943_715_697
    assert placed > 0.88 * 84_943_715_697
    assert 1 == result.metrics.finished


def test_every_engine_has_its_own_share_of_memory() -> None:
    """0.92 of vLLM, 0.9 of what is free under TensorRT-LLM, SGLang's rule; and what is asked for wins."""
    gpu = load_gpu("h100_sxm")
    shares = {name: memory_share(DeploymentSpec(scheduler=name), gpu) for name in ("vllm", "trtllm", "sglang")}
    assert shares == {"vllm": 0.92, "trtllm": 0.9, "sglang": 0.834}
    assert memory_share(DeploymentSpec(scheduler="sglang", gpu_memory_utilization=0.7), gpu) == 0.7
