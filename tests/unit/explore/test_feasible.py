"""Every rejected configuration has its reason, and when nothing is left the commonest one is said."""

import pytest

from simserve.errors import Infeasible
from simserve.explore.feasible import check, reasons, split
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model

LLAMA = load_model("meta-llama/Llama-3.1-8B")


def test_split_keeps_the_possible_and_says_why_not() -> None:
    """Of seven: one fits, one over two nodes too; one divides nothing, one has no fp8, one has more stages than layers,
    one shares out experts that there are not, one shares a KV cache that no two ranks have alike."""
    asked = [
        DeploymentSpec(gpu="h100_sxm"),
        DeploymentSpec(gpu="h100_sxm", tensor_parallel_size=16),
        DeploymentSpec(gpu="h100_sxm", tensor_parallel_size=3),
        DeploymentSpec(gpu="a100_sxm", dtype="fp8"),
        DeploymentSpec(gpu="h100_sxm", pipeline_parallel_size=33),
        DeploymentSpec(gpu="h100_sxm", data_parallel_size=2),
        DeploymentSpec(gpu="h100_sxm", tensor_parallel_size=8, decode_context_parallel_size=2),
    ]
    found = split(LLAMA, asked)

    assert found.deployments == asked[:2]
    assert [r.deployment for r in found.rejected] == asked[2:]
    assert "3 does not divide" in found.rejected[0].reason
    assert "does not compute in fp8" in found.rejected[1].reason
    assert "33 is more than the 32 layers" in found.rejected[2].reason
    assert "has none: use replicas: 2" in found.rejected[3].reason
    assert "needs so many of 8 tensor-parallel ranks with the same of the 8" in found.rejected[4].reason


def test_pipelines_are_for_the_scheduler_that_fills_them() -> None:
    """The others do not know of a request in flight."""
    with pytest.raises(Infeasible, match="modelled with the scheduler vllm, not sglang"):
        check(LLAMA, DeploymentSpec(pipeline_parallel_size=2, scheduler="sglang"))


def test_blocks_do_not_depend_on_replicas() -> None:
    """The count is that of one replica."""
    assert check(LLAMA, DeploymentSpec()) == check(LLAMA, DeploymentSpec(replicas=4, router="least_loaded"))


def test_the_longest_request_must_fit_the_kv_cache() -> None:
    """An A10 has room for the weights and a few 10,000 tokens."""
    with pytest.raises(Infeasible, match="the longest request needs 100000 tokens of KV cache"):
        check(LLAMA, DeploymentSpec(gpu="a10"), longest_tokens=100_000)


def test_what_the_model_cannot_hold_is_not_asked_of_the_cache() -> None:
    """A request beyond max_model_len is turned away by every deployment, so it rules none out."""
    assert check(LLAMA, DeploymentSpec(gpu="a10", max_model_len=8192), longest_tokens=100_000) > 0


def test_a_budget_below_the_sequences_is_impossible() -> None:
    """vLLM's own rule, also for combinations that only the search makes."""
    combination = DeploymentSpec().model_copy(update={"max_num_batched_tokens": 64})

    with pytest.raises(Infeasible, match="max_num_batched_tokens 64 is below max_num_seqs 256"):
        check(LLAMA, combination)


def test_reasons_are_counted() -> None:
    """The commonest first."""
    asked = [DeploymentSpec(), *(DeploymentSpec(gpu="a100_sxm", dtype="fp8", replicas=n) for n in (1, 2)),
             DeploymentSpec(tensor_parallel_size=3)]  # fmt: skip

    assert [count for _, count in reasons(split(LLAMA, asked).rejected)] == [2, 1]


def test_nothing_possible_says_the_commonest_reason() -> None:
    """One line with the count."""
    asked = [DeploymentSpec(gpu="a100_sxm", dtype="fp8", replicas=n) for n in (1, 2)]

    with pytest.raises(Infeasible, match="none of 2 configurations is possible: a100_sxm does not compute in fp8"):
        split(LLAMA, asked)
