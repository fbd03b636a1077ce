"""Costs of replicas that are more than a tensor-parallel group: laws of the contract, and sums worked out by hand."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest

from simserve.arch.layout import Layout, stage_layers, stage_model
from simserve.errors import Infeasible
from simserve.perf.attention_dp import AttentionDpCost
from simserve.perf.compile import Formats, Tables
from simserve.perf.context import ContextCost
from simserve.perf.cost import PricedCost
from simserve.perf.host import load_profile
from simserve.perf.internode import across
from simserve.perf.model import TableCost, build_cost
from simserve.perf.pipeline import PipelineCost
from simserve.perf.replica import build_replica
from simserve.perf.speculative import Drafts
from simserve.spec.hardware import load_gpu, load_link
from simserve.spec.model import ModelSpec, load_model

LLAMA, MIXTRAL = load_model("meta-llama/Llama-3.1-8B"), load_model("mistralai/Mixtral-8x7B-v0.1")
DEEPSEEK, QWEN = load_model("deepseek-ai/DeepSeek-V3"), load_model("Qwen/Qwen3-30B-A3B")
H100, H200 = load_gpu("h100_sxm"), load_gpu("h200_sxm")
DP4 = Layout(1, dp=4, expert_parallel=True)
LAYOUTS = [
    (QWEN, DP4),
    (QWEN, Layout(2, dp=2)),
    (LLAMA, Layout(2, pp=2)),
    (QWEN, Layout(1, dp=2, pp=3, expert_parallel=True)),
    (LLAMA, Layout(4, pcp=2)),
    (QWEN, Layout(8, dcp=2)),
    (DEEPSEEK, Layout(8, dcp=4, pcp=2, expert_parallel=True)),
]


@pytest.mark.parametrize(("model", "layout"), LAYOUTS)
def test_contract(model: ModelSpec, layout: Layout) -> None:
    """A run of steps is the list of the steps, bit for bit; prices add up; a mixed step costs more than its decodes."""
    cost = build_replica(model, H200, layout, dtype="fp8_block" if model is DEEPSEEK else "bf16")
    for seqs in (1, 5, 64):
        steps = [cost.step_ns((), seqs, seqs * 777 + 3 + i * seqs, seqs) for i in range(40)]
        assert steps == cost.decode_run_ns(seqs, seqs * 777 + 3, 40).tolist()
    prefill = [(900, 100), (17, 0), (300, 5000)]
    for call in (((), 10, 9000, 10), (prefill, 10, 9000, 12), (prefill, 0, 0, 1)):
        rows = cost.explain(*call)
        parts = 2 * layout.pp + 2
        assert sum(price.ns for _, price in rows) == pytest.approx(cost.step_ns(*call), abs=parts)
        assert all(price.table for _, price in rows)
    assert cost.step_ns(prefill, 10, 9000, 12) > cost.step_ns((), 10, 9000, 10)


@pytest.mark.parametrize(("model", "layout"), LAYOUTS)
def test_under_another_profile_is_as_built_with_it(model: ModelSpec, layout: Layout) -> None:
    """Host, time factors and launches of the profile, in every part once."""
    dtype = "fp8_block" if model is DEEPSEEK else "bf16"
    other = replace(load_profile("vllm"), host_ns_per_step=700_000, moe_time_factor=1.5, gemm_time_factor=0.8,
                    eager_ns_per_op=30_000, max_mixed_cudagraph_tokens=0)  # fmt: skip
    built = build_replica(model, H200, layout, dtype=dtype, profile=other)
    changed = build_replica(model, H200, layout, dtype=dtype).under(other)
    for call in (((), 10, 9000, 10), (((900, 100), (17, 0)), 10, 9000, 12)):
        assert changed.step_ns(*call) == built.step_ns(*call)
        assert built.step_ns(*call) != build_replica(model, H200, layout, dtype=dtype).step_ns(*call)
        assert sum(p.ns for _, p in built.explain(*call)) == pytest.approx(built.step_ns(*call), abs=2 * layout.pp + 4)


def test_a_plain_layout_is_the_plain_cost() -> None:
    """No wrapper around tensor parallelism alone."""
    cost = build_replica(LLAMA, H100, Layout(2))
    assert type(cost) is TableCost
    assert cost.step_ns((), 8, 8000, 8) == build_cost(LLAMA, H100, tensor_parallel_size=2).step_ns((), 8, 8000, 8)


def dp_cost(model: ModelSpec = QWEN, layout: Layout = DP4, **options: object) -> AttentionDpCost:
    """A replica of data-parallel ranks."""
    cost = build_replica(model, H100, layout, **options)  # type: ignore[arg-type]
    assert isinstance(cost, AttentionDpCost)
    return cost


def test_decodes_are_spread_evenly_and_padded_alike() -> None:
    """9 requests with 9,000 tokens over 4 ranks: the fullest has 3 with 3,000; captured at 4, the experts see 16."""
    cost = dp_cost()
    shared = sum(op.ns[16] for op in cost.shared)
    assert cost.step_ns((), 9, 9000, 9) == cost.rank.step_ns((), 3, 3000, 3) + int(shared + 0.5)


def test_the_slowest_rank_sets_the_pace() -> None:
    """Three chunks over 4 ranks, two decodes on each: the longest alone on a rank; the experts see all 3,508 tokens."""
    cost = dp_cost()
    shared = int(sum(op.ns[3508] for op in cost.shared) + 0.5)
    alone = cost.rank.step_ns([(2000, 0)], 2, 2000, 3)
    assert cost.step_ns([(500, 0), (2000, 0), (1000, 0)], 8, 8000, 11) == alone + shared
    # one more than ranks: the shortest goes to the rank with the fewest tokens
    five = [(2000, 0), (1000, 0), (900, 0), (800, 0), (700, 0)]
    ranks = [[(2000, 0)], [(1000, 0)], [(900, 0)], [(800, 0), (700, 0)]]
    slowest = max(cost.rank.step_ns(own, 0, 0, len(own)) for own in ranks)
    assert cost.step_ns(five, 0, 0, 5) == slowest + int(sum(op.ns[5400] for op in cost.shared) + 0.5)


def test_ranks_without_a_prompt_were_padded_to_the_longest() -> None:
    """In older versions the experts saw 4 x 2,002 tokens of a prompt of 2,000 beside two decodes on each rank."""
    cost = dp_cost()
    old = cost.under(replace(cost.profile, data_parallel_padding=1))
    alone = cost.rank.step_ns([(2000, 0)], 2, 2000, 3)
    assert old.step_ns([(2000, 0)], 8, 8000, 9) == alone + int(sum(op.ns[8008] for op in cost.shared) + 0.5)
    assert old.step_ns((), 9, 9000, 9) == cost.step_ns((), 9, 9000, 9)
    assert [load_profile("vllm", version).data_parallel_padding for version in ("0.12.0", "0.14.0")] == [1, 0]


def test_the_exchange_moves_every_token_to_every_rank() -> None:
    """All-gather and reduce-scatter of 16-bit rows among the data-parallel ranks, once an expert layer."""
    cost = dp_cost(layout=Layout(2, dp=4, expert_parallel=True))
    tables = Tables(H100, Formats("bf16", "auto", 64, 256))
    gather = tables.collective("x", "all_gather", row_bytes=2 * QWEN.hidden_size, count=48, ranks=4)
    by_name = {op.name: op for op in cost.shared}
    assert set(by_name) == {"experts", "moe_dispatch", "moe_combine"}
    assert np.allclose(by_name["moe_dispatch"].ns[:65], gather.ns)


def test_tokens_for_experts_in_nvfp4_are_gathered_quantised() -> None:
    """9 bits for two values, scales included; results are summed in 16 bits."""
    b200 = load_gpu("b200_sxm")
    cost = build_replica(DEEPSEEK, b200, Layout(1, dp=8, expert_parallel=True), dtype="nvfp4")
    assert isinstance(cost, AttentionDpCost)
    tables, shared = Tables(b200, Formats("nvfp4", "auto", 64, 256)), {op.name: op for op in cost.shared}
    for name, op, row in (("moe_dispatch", "all_gather", 4032), ("moe_combine", "reduce_scatter", 14336)):
        curve = tables.collective("x", op, row_bytes=row, count=DEEPSEEK.expert_layers, ranks=8)
        assert np.allclose(shared[name].ns[:65], curve.ns), name


def test_experts_are_shared_over_all_ranks() -> None:
    """tp 2 x dp 4 with whole experts is the expert layer split 8 ways; split both ways as asked."""
    tables = Tables(H100, Formats("bf16", "auto", 64, 256))
    from simserve.arch.decoder import decoder_ops

    for layout, split in ((Layout(2, dp=4, expert_parallel=True), (1, 8)), (Layout(2, dp=4), (8, 1)),
                          (Layout(2, dp=4, moe_tp=2), (2, 4)), (Layout(8, moe_tp=4), (4, 2))):  # fmt: skip
        ops = decoder_ops(QWEN, layout.tp, expert_parallel=layout.expert_parallel, expert_ranks=layout.expert_ranks,
                          moe_tp=layout.moe_tp)  # fmt: skip
        assert ops.experts is not None
        assert (ops.experts.tp, ops.experts.ep) == split
        whole = build_replica(QWEN, H100, layout, max_num_batched_tokens=512)
        rows = dict(whole.explain((), 8, 8000, 8))
        assert rows["experts"].ns == pytest.approx(tables.experts(ops.experts).ns[8])


@pytest.mark.parametrize("backend", ["deepep_high_throughput", "deepep_low_latency"])
def test_deepep_has_tables_of_its_own(backend: str) -> None:
    """Within a node they are measured; over two nodes each token crosses once if any of its 8 experts is there."""
    near = dp_cost(DEEPSEEK, Layout(1, dp=8, expert_parallel=True), all2all_backend=backend, dtype="fp8_block")
    far = dp_cost(DEEPSEEK, Layout(1, dp=16, expert_parallel=True), all2all_backend=backend, dtype="fp8_block")
    (one, two) = ({op.name: op for op in cost.shared}["moe_dispatch"] for cost in (near, far))
    assert one.table == "h100_sxm/moe_exchange"
    assert "16 ranks over ib_400g" in two.note
    crossing = 64 * 2 * 7168 * (1 - 0.5**8) / (50e9 * 0.7) * 1e9 + 10_000
    assert two.ns[1024] == pytest.approx(one.ns[512] + DEEPSEEK.expert_layers * crossing)


def test_drafts_go_through_the_experts_too() -> None:
    """Two drafted tokens, never accepted, cost more than none; nearly all accepted, less."""
    plain, wasted, good = (
        dp_cost(drafts=drafts).step_ns((), 32, 32_000, 32) for drafts in (Drafts(), Drafts(2, 0.0), Drafts(2, 0.99))
    )
    assert good < plain < wasted


def test_dense_models_are_told_to_replicate() -> None:
    """In one line."""
    with pytest.raises(Infeasible, match=r"4 shares experts out, and .* has none: use replicas: 4"):
        build_replica(LLAMA, H100, Layout(2, dp=4))


@pytest.mark.parametrize(
    ("layers", "stages", "sizes"),
    [(32, 4, [8, 8, 8, 8]), (32, 3, [11, 11, 10]), (61, 4, [15, 15, 16, 15]), (62, 4, [15, 16, 16, 15]), (5, 1, [5])],
)
def test_layers_of_stages_are_vllms(layers: int, stages: int, sizes: list[int]) -> None:
    """get_pp_indices: what is left over goes to the stages before the last, from the back."""
    ends = stage_layers(layers, stages)
    assert [last - first for first, last in ends] == sizes
    assert (ends[0][0], ends[-1][1]) == (0, layers)


def test_stages_add_up_to_the_model() -> None:
    """Layers, dense ones first; the stages' times and the send between them are the whole model's time and a send."""
    parts = [stage_model(DEEPSEEK, *pair) for pair in stage_layers(61, 4)]
    assert [p.dense_layers for p in parts] == [3, 0, 0, 0]
    assert sum(p.expert_layers for p in parts) == DEEPSEEK.expert_layers
    cost = build_replica(LLAMA, H100, Layout(2, pp=2))
    assert isinstance(cost, PipelineCost)
    whole = build_cost(LLAMA, H100, tensor_parallel_size=2)
    for call in (((), 16, 16_000, 16), (((1000, 50),), 3, 3000, 4)):
        stages = cost.stages_ns(*call)
        tokens = call[1] + sum(chunk for chunk, _ in call[0])
        assert sum(stages) - cost.sends[0].ns[tokens] == pytest.approx(whole.step_ns(*call), abs=3)
        assert sum(stages) == cost.step_ns(*call)


def test_a_send_is_bytes_over_the_link() -> None:
    """Hidden states and residual of 100 tokens, 2 bytes each, half on each of two ranks, then gathered."""
    cost = build_replica(LLAMA, H100, Layout(2, pp=2))
    assert isinstance(cost, PipelineCost)
    size = 100 * 2 * 2 * 4096
    gather = Tables(H100, Formats("bf16", "auto", 100, 1)).collective(
        "x", "all_gather", row_bytes=2 * 2 * 4096, count=1, ranks=2
    )
    wire = 10_000 + size / 2 / (450e9 * 0.7) * 1e9
    assert cost.sends[0].ns[100] == pytest.approx(wire + gather.ns[100])
    far = build_replica(LLAMA, H100, Layout(8, pp=2))
    assert isinstance(far, PipelineCost)
    assert "ib_400g" in far.sends[0].note


def test_all_reduce_over_two_nodes_by_hand() -> None:
    """16 ranks: scatter and gather among 8 as measured, and 1/8 of the vector twice half over each port."""
    size = np.array([8e6])
    tables = Tables(H100, Formats("bf16", "auto", 1, 1))
    found = across("all_reduce", H100, (H100, H100), load_link("ib_400g"), 16, 8, size).ns[0]
    passes = ("reduce_scatter", "all_gather")
    inside = sum(tables.collective("x", op, row_bytes=8_000_000, count=1, ranks=8).ns[1] for op in passes)
    port = 2 * (10_000 + 8e6 / 8 / 2 / (50e9 * 0.7) * 1e9)
    assert found == pytest.approx(inside + port)


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_more_nodes_and_slower_links_cost_more(op: str) -> None:
    """Monotone in bytes and nodes; within a rack of GB200, NVLink joins the nodes."""
    size = np.array([1e4, 1e6, 1e8])
    pair, link = (H100, H100), load_link("ib_400g")
    two, four = (across(op, H100, pair, link, ranks, 8, size) for ranks in (16, 32))
    assert (np.diff(two.ns) > 0).all()
    assert (four.ns >= two.ns).all()
    assert two.source_at(10_000) == "modelled"
    fast = across(op, H100, pair, load_link("nvlink4"), 16, 8, size)
    assert (fast.ns < two.ns).all()
    assert load_gpu("gb200").inter_node_link == "nvlink5"


def test_tensor_parallelism_over_two_nodes_is_priced_on_the_link_between() -> None:
    """Slower than one node's all-reduce at the same size, and 'modelled'."""
    one, two = (dict(build_cost(DEEPSEEK, H200, tensor_parallel_size=tp, dtype="fp8_block").explain((), 64, 64_000, 64))
                for tp in (8, 16))  # fmt: skip
    assert two["all_reduce"].ns > one["all_reduce"].ns
    assert (two["all_reduce"].source, "ib_400g" in two["all_reduce"].note) == ("modelled", True)
    fast = build_cost(DEEPSEEK, H200, tensor_parallel_size=16, dtype="fp8_block", inter_node_link="nvlink4")
    assert dict(fast.explain((), 64, 64_000, 64))["all_reduce"].ns < two["all_reduce"].ns


def test_a_prompt_is_cut_into_equal_pairs() -> None:
    """1,000 tokens after 600 over 2 ranks: 500 after 850, as many pairs as half of the whole; keys are gathered."""
    cost = build_replica(LLAMA, H100, Layout(4, pcp=2))
    assert isinstance(cost, ContextCost)
    whole = 1000 * 600 + 1000 * 1001 // 2
    assert abs(2 * (500 * 850 + 500 * 501 // 2) - whole) <= 1000
    own = cost.rank.step_ns([(500, 850)], 0, 0, 1)
    assert cost.step_ns([(1000, 600)], 0, 0, 1) == own + int(cost.gather[0].ns[1600] + 0.5)


def test_a_shared_cache_is_read_in_parts() -> None:
    """Two ranks that hold the same heads: twice the query heads, half of the context, and two exchanges."""
    cost = build_replica(QWEN, H200, Layout(8, dcp=2))
    assert isinstance(cost, ContextCost)
    exchanged = int(sum(op.ns[10] for op in cost.combine) + 0.5)
    assert cost.step_ns((), 10, 100_001, 10) == cost.rank.step_ns((), 10, ceil(100_001 / 2), 10) + exchanged
    assert [op.name for op in cost.combine] == ["query_gather", "attention_combine"]
    plain = dict(build_replica(QWEN, H200, Layout(8)).explain((), 64, 64 * 100_000, 64))
    shared = dict(build_replica(QWEN, H200, Layout(8, dcp=2)).explain((), 64, 64 * 100_000, 64))
    assert shared["decode_attention"].ns < 0.75 * plain["decode_attention"].ns


def test_what_cannot_be_combined_says_so() -> None:
    """Drafts in a pipeline, windows over ranks, more ranks than copies of the cache."""
    for model, layout, drafts, problem in (
        (LLAMA, Layout(1, pp=2), Drafts(1, 0.5), "num_speculative_tokens is not modelled with pipeline"),
        (load_model("openai/gpt-oss-20b"), Layout(1, pcp=2), Drafts(), "sliding windows"),
        (LLAMA, Layout(8, dcp=2), Drafts(), "decode_context_parallel_size 2 needs"),
        (LLAMA, Layout(8, moe_tp=2), Drafts(), "moe_tensor_parallel_size 2 does not divide the experts"),
        (QWEN, Layout(2, dp=3, moe_tp=4), Drafts(), "moe_tensor_parallel_size 4 does not divide the 6 ranks"),
    ):
        with pytest.raises(Infeasible, match=problem):
            build_replica(model, H100, layout, drafts=drafts)


def _protocol(cost: PricedCost) -> PricedCost:
    """All of them are cost models that explain themselves (checked by mypy)."""
    return cost
