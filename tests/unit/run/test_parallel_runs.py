"""Whole simulations of replicas over data-parallel ranks, pipeline stages, context ranks and nodes."""

from typing import Any

import numpy as np
import pytest

from simserve.build import build_scheduler, deployment_blocks, max_model_len
from simserve.errors import Infeasible, SpecError
from simserve.run import RunResult, simulate
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.systems.vllm import Vllm
from simserve.workload.requests import RequestSet

QWEN, LLAMA = load_model("Qwen/Qwen3-30B-A3B"), load_model("meta-llama/Llama-3.1-8B")
H100 = load_gpu("h100_sxm")


def requests(count: int = 64, prompt: int = 1000, output: int = 60, concurrency: int = 32) -> RequestSet:
    """A closed loop of equal requests."""
    zero = np.zeros(count, dtype=np.int64)
    return RequestSet(zero, zero + prompt, zero + output, zero, concurrency, {})


def run(model: Any, load: RequestSet | None = None, **fields: Any) -> RunResult:
    """Simulate one replica; every law holds."""
    result = simulate(model, DeploymentSpec(gpu="h100_sxm", **fields), load or requests())
    laws.check(result.trace)
    assert result.metrics.finished == 64
    assert sum(result.cost_provenance["share_of_time_by_source"].values()) == pytest.approx(1, abs=1e-3)
    return result


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [
        ({"data_parallel_size": 4, "enable_expert_parallel": True}, 4),
        ({"data_parallel_size": 2, "tensor_parallel_size": 2}, 4),
        ({"data_parallel_size": 2, "pipeline_parallel_size": 2, "enable_expert_parallel": True}, 4),
        ({"tensor_parallel_size": 8, "decode_context_parallel_size": 2}, 8),
        ({"tensor_parallel_size": 2, "prefill_context_parallel_size": 2, "enable_expert_parallel": True}, 4),
        ({"tensor_parallel_size": 8, "data_parallel_size": 2, "enable_expert_parallel": True}, 16),
        ({"tensor_parallel_size": 4, "moe_tensor_parallel_size": 2}, 4),
    ],
)
def test_every_layout_runs_to_the_end(fields: dict[str, Any], gpus: int) -> None:
    """All requests finish under the laws; GPUs are counted; leap on and off agree; memory fits."""
    result = run(QWEN, **fields)
    assert result.num_gpus == gpus == DeploymentSpec(**fields).gpus_per_replica
    assert sum(result.memory_bytes.values()) < H100.memory_bytes
    stepping = simulate(QWEN, DeploymentSpec(gpu="h100_sxm", **fields), requests(), leap=False)
    assert np.array_equal(result.trace.requests["finish_ns"], stepping.trace.requests["finish_ns"])


def test_ranks_have_memory_and_limits_of_their_own() -> None:
    """Four ranks: blocks four times those of one, the null block of each apart; a request has one rank's at most."""
    spec = DeploymentSpec(gpu="h100_sxm", data_parallel_size=4, enable_expert_parallel=True, num_gpu_blocks=101)
    assert deployment_blocks(QWEN, spec, H100) == 401
    assert max_model_len(QWEN, spec, 401) == 1600
    engine = build_scheduler(spec)
    assert isinstance(engine, Vllm)
    assert (engine.max_num_batched_tokens, engine.max_num_seqs) == (32768, 1024)
    assert engine.long_prefill_token_threshold == 8192
    with pytest.raises(Infeasible, match="100 blocks of 16 tokens hold 1600 tokens"):
        max_model_len(QWEN, spec.model_copy(update={"max_model_len": 1601}), 401)


def test_a_shared_cache_holds_more_tokens() -> None:
    """Each block of 2 x 2 ranks holds four times 16 tokens."""
    spec = DeploymentSpec(tensor_parallel_size=8, decode_context_parallel_size=2, prefill_context_parallel_size=2)
    assert (spec.kv_block_tokens, spec.kv_capacity(101)) == (64, 6400)


def test_stages_overlap() -> None:
    """Two stages under load serve more than one GPU, and less than twice as much; a lone request is no faster."""
    load = requests(concurrency=64, prompt=500, output=100)
    one, two = (run(LLAMA, load, pipeline_parallel_size=stages) for stages in (1, 2))
    gain = two.metrics.output_tokens_per_s / one.metrics.output_tokens_per_s
    assert 1.2 < gain < 2
    lone = [
        simulate(LLAMA, DeploymentSpec(gpu="h100_sxm", pipeline_parallel_size=n), requests(4, concurrency=1))
        for n in (1, 2)
    ]
    assert lone[0].metrics.tpot_ms.mean < lone[1].metrics.tpot_ms.mean < 1.1 * lone[0].metrics.tpot_ms.mean


def test_more_prompt_ranks_prefill_faster() -> None:
    """A long prompt over two ranks: between half and nine tenths of the time."""
    load = requests(64, prompt=30_000, output=2, concurrency=1)
    one, two = (run(LLAMA, load, prefill_context_parallel_size=ranks) for ranks in (1, 2))
    assert 0.5 < two.metrics.ttft_ms.mean / one.metrics.ttft_ms.mean < 0.9


def test_a_pipelined_prefill_pool_hands_over() -> None:
    """Two stages prefill, one GPU decodes."""
    spec = parse(DeploymentSpec, {
        "gpu": "h100_sxm", "system": "distserve",
        "pools": {"prefill": {"pipeline_parallel_size": 2, "scheduler": "vllm"}, "decode": {}},
    }, file="test")  # fmt: skip
    result = simulate(LLAMA, spec, requests())
    laws.check(result.trace)
    assert (result.metrics.finished, result.num_gpus) == (64, 3)


@pytest.mark.parametrize(
    "fields", [{"pipeline_parallel_size": 2}, {"data_parallel_size": 2}, {"decode_context_parallel_size": 2}]
)
def test_swap_is_beside_tensor_parallelism_alone(fields: dict[str, Any]) -> None:
    """In one line."""
    with pytest.raises(SpecError, match="swap_space_gib are modelled beside tensor parallelism alone"):
        parse(DeploymentSpec, {"swap_space_gib": 4.0, **fields}, file="test")


def test_intervals_scale_every_stage() -> None:
    """Steps 10 % longer: a lone request's decode takes 10 % longer through the stages."""
    spec = DeploymentSpec(gpu="h100_sxm", pipeline_parallel_size=2)
    plain, slow = (
        simulate(LLAMA, spec, requests(2, concurrency=1), cost_factor=factor).metrics.tpot_ms.mean
        for factor in (1.0, 1.1)
    )
    assert slow == pytest.approx(1.1 * plain, rel=1e-4)
