"""Drafted tokens: what a step yields, and what a token then costs."""

from dataclasses import replace

import pytest

from simserve.arch.layout import Layout
from simserve.errors import OutOfRange
from simserve.perf.host import load_profile
from simserve.perf.model import TableCost, build_cost
from simserve.perf.replica import build_replica
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


def test_verifying_takes_the_host_a_while_for_each_request() -> None:
    """100 us for each of 8 requests, of which a token pays its share; nothing without drafts, nor on prompts."""
    profile = replace(PROFILE, verify_ns_per_seq=100_000)
    for drafts, more_ns in ((Drafts(2, 1.0), 800_000 / 3), (Drafts(), 0)):
        free, some = cost(drafts), cost(drafts).under(profile)
        assert some.step_ns((), 8, 8000, 8) - free.step_ns((), 8, 8000, 8) == pytest.approx(more_ns, abs=1)
        assert some.step_ns([(4000, 0)], 8, 8000, 9) == free.step_ns([(4000, 0)], 8, 8000, 9)
        assert sum(p.ns for _, p in some.explain((), 8, 8000, 8)) == pytest.approx(some.step_ns((), 8, 8000, 8), abs=1)


@pytest.mark.parametrize("layout", [Layout(1), Layout(1, dp=2, expert_parallel=True)])
def test_a_small_token_budget_changes_no_price_of_decoding(layout: Layout) -> None:
    """300 requests of 4 rows, budgets of 512 and 8192 tokens: neither kernels nor attention know where one ended."""
    small, large = (
        build_replica(
            load_model("Qwen/Qwen3-30B-A3B"), load_gpu("h100_sxm"), layout, profile=PROFILE, max_num_seqs=300,
            max_num_batched_tokens=budget, drafts=Drafts(3, 0.9),
        )
        for budget in (512, 8192)
    )  # fmt: skip
    ranks = layout.dp
    for seqs in (1, 127, 128, 129, 255, 257, 300):
        asked = ((), seqs * ranks, 1000 * seqs * ranks, seqs * ranks)
        assert small.step_ns(*asked) == large.step_ns(*asked)


def test_no_jump_where_rows_once_ended() -> None:
    """128 requests fill 512 rows exactly; one more costs as much more as without drafts, for 3.4 tokens each."""
    prices = [
        build_cost(
            load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm"), profile=PROFILE, max_num_seqs=256,
            max_num_batched_tokens=512, drafts=drafts,
        )
        for drafts in (Drafts(), Drafts(3, 0.9))
    ]  # fmt: skip
    plain, drafted = ([cost.step_ns((), b, 1000 * b, b) for b in (120, 128, 136)] for cost in prices)

    assert drafted[2] / drafted[1] < 1.1
    assert all(d < p for d, p in zip(drafted, plain, strict=True))


def test_more_requests_than_were_asked_for_have_no_price() -> None:
    """Neither with drafts: 64 have, 65 have not, and the line says 64."""
    for drafts in (Drafts(), Drafts(3, 0.5)):
        some = cost(drafts)
        assert some.step_ns((), 64, 64_000, 64) > 0
        with pytest.raises(OutOfRange, match="64 requests"):
            some.step_ns((), 65, 65_000, 65)
        with pytest.raises(OutOfRange, match="64 requests"):
            some.decode_run_ns(65, 65_000, 3)


@pytest.mark.parametrize(("pieces", "drafts", "alone_ms", "ranks_ms"), [
    (0, 0, 1746, 1623), (0, 3, 1746 + 85, 1623 + 79), (1, 3, 427 + 85, 427 + 79),
])  # fmt: skip
def test_draft_modules_are_launched_beside_prompts(pieces: int, drafts: int, alone_ms: int, ranks_ms: int) -> None:
    """1 ms an operation: 61 layers of 1,746 in all (1,623 without tensor parallelism), 85 (79) for three modules.

    Where the pieces are captured attention, three projections, two passes that quantise and a norm of each layer: 427.
    """
    slow = replace(PROFILE, eager_ns_per_op=1_000_000, max_mixed_cudagraph_tokens=0, piecewise_capture=pieces,
                   host_ns_per_step=0, host_ns_per_seq=0)  # fmt: skip
    drafted = Drafts(drafts, 0.5) if drafts else Drafts()
    assert cost(drafted).under(slow).step_ns([(1000, 0)], 0, 0, 1) == alone_ms * 1_000_000
    model, layout = load_model("deepseek-ai/DeepSeek-V3"), Layout(1, dp=8, expert_parallel=True)
    ranks = build_replica(model, load_gpu("h200_sxm"), layout, dtype="fp8_block", profile=slow, max_num_seqs=64,
                          drafts=drafted)  # fmt: skip
    assert ranks.step_ns([(1000, 0)], 0, 0, 1) == ranks_ms * 1_000_000


def test_kernels_of_prompts_are_those_without_drafts() -> None:
    """Also where reading their cached context is what counts."""
    plain, drafted = cost(Drafts()), cost(Drafts(3, 0.9))
    for prompts in ([(4000, 0)], [(2, 100_000)], [(2, 100_000)] * 8):
        sampled = len(prompts)
        assert plain.step_ns(prompts, 0, 0, sampled) == drafted.step_ns(prompts, 0, 0, sampled)
