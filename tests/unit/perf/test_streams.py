"""Shared experts beside the routed ones, in integers."""

import numpy as np
import pytest

from simserve.perf.compile import TokenOp
from simserve.perf.host import load_profile
from simserve.perf.model import build_cost
from simserve.perf.streams import beside_experts
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model


def op(name: str, *ns: float) -> TokenOp:
    """An operation of 0, 1, 2, ... tokens."""
    return TokenOp(name, np.array(ns), lambda m: "measured", "here/gemm", "")


def test_only_what_outlasts_the_routed_experts_counts() -> None:
    """30 + 10 beside 20: half of each is left; beside 50: nothing; above the limit: all."""
    ops = [op("qkv_proj", 0, 5, 5, 5), op("experts", 0, 20, 50, 50), op("shared_up", 0, 30, 30, 30),
           op("shared_down", 0, 10, 10, 10)]  # fmt: skip
    found = {o.name: o.ns.tolist() for o in beside_experts(ops, 2)}
    assert found == {
        "qkv_proj": [0, 5, 5, 5], "experts": [0, 20, 50, 50], "shared_up": [0, 15, 0, 30], "shared_down": [0, 5, 0, 10]
    }  # fmt: skip


def test_without_either_or_a_limit_nothing_changes() -> None:
    """Dense models, models without shared experts, and a limit of 0."""
    routed, shared = op("experts", 0, 20), op("shared_up", 0, 30)
    assert beside_experts([routed], 8) == [routed]
    assert beside_experts([shared], 8) == [shared]
    assert beside_experts([routed, shared], 0) == [routed, shared]


@pytest.mark.parametrize(("engine", "limit"), [("vllm", 256), ("sglang", 1024), ("trtllm", 512)])
def test_every_engine_has_its_limit_and_the_price_adds_up(engine: str, limit: int) -> None:
    """DeepSeek-V3 decodes faster than the sum of its operations; the explanation says why."""
    profile = load_profile(engine, calibrated=False)
    assert profile.shared_expert_stream_tokens == limit
    cost = build_cost(load_model("deepseek-ai/DeepSeek-V3"), load_gpu("b200_sxm"), tensor_parallel_size=8,
                      dtype="fp8_block", max_num_batched_tokens=2048, profile=profile)  # fmt: skip
    rows = dict(cost.explain((), 8, 8000, 8))
    assert abs(sum(price.ns for price in rows.values()) - cost.step_ns((), 8, 8000, 8)) <= 1
    assert rows["shared_down_proj"].ns < 0.2 * rows["experts"].ns
    assert f"beside the routed experts in steps of up to {limit} tokens" in rows["shared_down_proj"].note
    alone = dict(cost.explain([(limit + 200, 0)], 0, 0, 1))
    assert alone["shared_down_proj"].ns > rows["shared_down_proj"].ns
