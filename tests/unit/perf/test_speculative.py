"""Drafted tokens: what a step yields, and what a token then costs."""

import pytest

from simserve.perf.host import load_profile
from simserve.perf.model import TableCost, build_cost
from simserve.perf.speculative import Drafts
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model

PROFILE = load_profile("vllm", calibrated=False)


def cost(drafts: Drafts) -> TableCost:
    """DeepSeek-V3 on eight H200."""
    return build_cost(
        load_model("deepseek-ai/DeepSeek-V3"), load_gpu("h200_sxm"), tensor_parallel_size=8, dtype="fp8_block",
        profile=PROFILE, max_num_seqs=64, drafts=drafts,
    )  # fmt: skip


def test_tokens_of_a_step() -> None:
    """1 + 1/2 + 1/4 + 1/8; one without drafts."""
    assert Drafts(3, 0.5).tokens_per_step == 1.875
    assert Drafts().tokens_per_step == 1.0


def test_a_token_costs_its_share_of_drafting_and_verifying() -> None:
    """Never accepted: the step of four rows and three drafts, for one token; half accepted: over 1.875."""
    plain, never, half = cost(Drafts()), cost(Drafts(3, 0.0)), cost(Drafts(3, 0.5))
    slow = never.step_ns((), 8, 8000, 8)
    assert slow > plain.step_ns((), 8, 8000, 8)
    assert half.step_ns((), 8, 8000, 8) == pytest.approx(slow / 1.875, rel=1e-6)
    assert never.decode_run_ns(8, 8000, 3).tolist() == [never.step_ns((), 8, 8000 + 8 * i, 8) for i in range(3)]
    assert never.step_ns([(4000, 0)], 0, 0, 1) == plain.step_ns([(4000, 0)], 0, 0, 1)


def test_the_explanation_adds_up() -> None:
    """Within rounding, and marked as modelled."""
    some = cost(Drafts(2, 0.8))
    prices = [price for _, price in some.explain((), 8, 8000, 8)]
    assert sum(price.ns for price in prices) == pytest.approx(some.step_ns((), 8, 8000, 8), abs=1)
    assert {price.source for price in prices} == {"modelled"}
