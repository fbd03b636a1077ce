"""NEO and APEX on a model of two layers, worked out by hand.

GPU 20 tokens of KV in blocks of 4, host 80. Request 0 (14 tokens) leaves one block, request 1 (6) goes to the host.
"""

import pytest

from simserve.perf.hybrid import HybridCost
from simserve.policies.routers import RoundRobin
from simserve.policies.subbatches import SubBatch, fill
from simserve.sim import laws
from simserve.sim.hybrid import Strategy
from simserve.sim.hybrid_instance import HostTier
from simserve.sim.plan import Scheduler
from simserve.sim.request import Seen
from simserve.sim.trace import Trace
from simserve.systems.apex import Apex
from simserve.systems.fastdecode import FastDecode
from simserve.systems.neo import Neo
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyLayers


def played(
    scheduler: Scheduler, requests: list[tuple[int, int, int]], layers: ToyLayers, blocks: int, block_in_ns: float = 0.0
) -> Trace:
    """One instance with a host of 20 blocks; a block takes 10 ns to the host."""
    tier = HostTier(20, HybridCost(layers, block_out_ns=10, block_in_ns=block_in_ns))
    trace, _ = play(
        load(requests), [scheduler], RoundRobin(), layers, num_gpu_blocks=blocks + 1, block_size=4, tier=tier,
    )  # fmt: skip
    laws.check(trace)
    return trace


def rows(trace: Trace) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of each step, leaps expanded."""
    e = laws.expanded(trace.steps)
    ends = (e["start_ns"] + e["duration_ns"]).tolist()
    return list(zip(e["start_ns"].tolist(), ends, e["tokens"].tolist(), strict=True))


def spans(trace: Trace, lane: str) -> list[tuple[int, int]]:
    """(start, end) of what a lane did."""
    own = trace.spans["resource"] == trace.resources.index(f"instance 0 {lane}")
    return list(zip(trace.spans["start_ns"][own].tolist(), trace.spans["end_ns"][own].tolist(), strict=True))


LIMITS = {"max_num_batched_tokens": 64, "max_num_seqs": 8}
PAIR = [(0, 14, 3), (0, 6, 4)]
FLAT = ToyLayers(linear_base_ns=10, down_ns=1, up_ns=1)


def test_neo_hides_the_cpu_in_two_stages() -> None:
    """Both prompts: 2 (10 + 20). Then batch-0 is request 0 and batch-1 request 1, stages max(10, 1 + 2 + 7) and 10 +
    15, then max(10, 1 + 2 + 8) and 10 + 16. Request 0 ends; request 1 comes back to the empty GPU, 3 blocks in 60 ns.
    """
    trace = played(Neo(**LIMITS, launch_ms=1e-6), PAIR, FLAT, 5, block_in_ns=20)

    assert [(0, 60, 20), (60, 130, 2), (130, 204, 2), (204, 264, 1)] == rows(trace)
    assert [(60, 74), (130, 146)] == spans(trace, "cpu")
    assert [(0, 20)] == spans(trace, "pcie_out")
    assert [(204, 264)] == spans(trace, "pcie_in")


def test_what_neo_did_with_its_host() -> None:
    """The same run: of three steps of decodes two pipelined, 2 of 7 tokens by the CPU, which attends for 14 + 16. It
    delays the second one by 2 (11 - 10), the copy back the last one, 2 (10 + 9), by 22. Two blocks until 204.
    """
    (use,) = played(Neo(**LIMITS, launch_ms=1e-6), PAIR, FLAT, 5, block_in_ns=20).hosts

    assert {Strategy.GPU: 1, Strategy.PIPELINE: 2, Strategy.OVERLAP: 0} == use.decode_steps
    assert use.hosted_steps == 2  # the last one runs with the host empty
    assert (2, 7, 30, 264) == (use.cpu_tokens, use.tokens, use.cpu_ns, use.busy_ns)
    assert (2, 22) == (use.cpu_wait_ns, use.copy_wait_ns)
    assert (20, 2 * 204) == (use.blocks, use.block_ns)


def test_what_a_step_beside_a_cohort_counts_as() -> None:
    """With a slow CPU one of four steps of decodes goes on without the cohort: overlapped too. The last waits."""
    slow = ToyLayers(linear_base_ns=10, linear_token_ns=1, cpu_context_ns=10, down_ns=1, up_ns=1)
    (use,) = played(Apex(**APEX), [(0, 14, 5), (0, 6, 2)], slow, 5).hosts

    assert {Strategy.GPU: 0, Strategy.PIPELINE: 0, Strategy.OVERLAP: 4} == use.decode_steps
    assert use.hosted_steps == 4
    assert (1, 7, 140, 25, 0) == (use.cpu_tokens, use.tokens, use.cpu_ns, use.cpu_wait_ns, use.copy_wait_ns)


def test_neo_falls_back_to_the_gpu_where_the_launch_leaves_no_window() -> None:
    """remain[1] = 10 - (7 + 4): request 1 waits on the host while request 0 decodes alone, 2 (10 + 15), 2 (10 + 16)."""
    trace = played(Neo(**LIMITS, launch_ms=4e-6), PAIR, FLAT, 5)

    assert [(0, 60, 20), (60, 110, 1), (110, 162, 1)] == rows(trace)[:3]


def test_neos_base_mode_never_attends_on_the_cpu() -> None:
    """Request 1 waits for the GPU, which request 0 fills: three steps, then its prompt."""
    trace = played(Neo(**LIMITS, always_gpu=True), PAIR, FLAT, 5)

    assert [(0, 48, 14), (48, 98, 1), (98, 150, 1), (150, 182, 6)] == rows(trace)[:4]
    assert "instance 0 cpu" not in trace.resources


def test_neos_base_mode_fills_the_gpu_with_who_comes_back() -> None:
    """All of 20 slots taken by prompts; requests 1 and 2 leave for request 0, then take all 5 blocks together again."""
    trace = played(Neo(**LIMITS, always_gpu=True), [(0, 8, 3), (0, 8, 3), (0, 4, 3)], FLAT, 5)

    assert [tokens for *_, tokens in rows(trace)] == [20, 1, 1, 2, 2]


def test_neos_base_mode_admits_nobody_while_somebody_comes_back() -> None:
    """Request 1 comes back alone; request 2, whose prompt would fit beside it, is computed a step later."""
    trace = played(Neo(**LIMITS, always_gpu=True), [(0, 8, 3), (0, 8, 3), (0, 8, 1)], FLAT, 5)

    assert [tokens for *_, tokens in rows(trace)] == [16, 1, 1, 1, 9]


SLOPED = ToyLayers(linear_base_ns=10, linear_token_ns=1, down_ns=1, up_ns=1)
APEX = {**LIMITS, "decision": "overlap", "min_cohort": 1}


def test_an_apex_cohort_goes_one_layer_per_step() -> None:
    """Request 0 alone: 2 (24 + 14); beside the prompt of 1: 2 (17 + 15 + 6). Then steps of request 0, 2 (11 + 16) and
    so on, with one row more at one layer: +1. Layer 1 on the CPU from 152 + 12 + 1 for 7, layer 2 a step later; the
    third step has its token.
    """
    trace = played(Apex(**APEX), [(0, 14, 5), (0, 6, 2)], SLOPED, 5)

    assert [(0, 76, 14), (76, 152, 7), (152, 207, 1), (207, 264, 1), (264, 323, 2)] == rows(trace)
    assert [(165, 172), (220, 227)] == spans(trace, "cpu")
    assert [323 - 152] == trace.itl_gaps_ns.tolist()


def test_the_gpu_does_not_wait_for_a_late_cohort() -> None:
    """Ten times slower, the result of layer 1 is there at 236: the step at 207 goes without it (56), that at 263 takes
    it. At 322 the GPU has nothing else to do and waits for 347, then 1 for the step and 11 for the row.
    """
    slow = ToyLayers(linear_base_ns=10, linear_token_ns=1, cpu_context_ns=10, down_ns=1, up_ns=1)
    trace = played(Apex(**APEX), [(0, 14, 5), (0, 6, 2)], slow, 5)

    assert [(152, 207, 1), (207, 263, 1), (263, 322, 1), (322, 359, 1)] == rows(trace)[2:]
    assert [(165, 235), (276, 346)] == spans(trace, "cpu")


def test_a_cohort_below_the_minimum_is_not_started() -> None:
    """One request on the host and a minimum of two: it waits until the GPU is free."""
    trace = played(Apex(**{**APEX, "min_cohort": 2}), [(0, 14, 5), (0, 6, 2)], SLOPED, 5)

    assert "instance 0 cpu" not in trace.resources


def test_fastdecode_decodes_nothing_on_the_gpu() -> None:
    """Prompts 2 (10 + 20); then one request in each sub-batch, launch 0: max(10, 2 + 15) + max(10, 2 + 7), twice."""
    trace = played(FastDecode(**LIMITS, launch_ms=0.0), [(0, 14, 2), (0, 6, 2)], FLAT, 6)

    assert [(0, 60, 20), (60, 60 + 2 * (17 + 10), 2)] == rows(trace)
    assert [(60, 60 + 2 * 22)] == spans(trace, "cpu")


def test_a_request_that_breaks_a_window_is_skipped_with_all_as_long() -> None:
    """Window of batch-1: 20 of linear work less 2 of launch. 9 fits, then batch-0 has the larger one; 30 fits neither
    (2 + 20 + 0 - 2 - 30 < 0) and keeps 31 out, not 5.
    """
    layers = ToyLayers(linear_base_ns=20)
    batches = SubBatch(layers, [Seen(0, 0, 3)]), SubBatch(layers)
    fill(batches, [Seen(1, 0, 9), Seen(2, 0, 30), Seen(3, 0, 31), Seen(4, 0, 5)], 8, 2)

    assert ([4], [1]) == ([r.id for r in batches[0].cpu], [r.id for r in batches[1].cpu])


@pytest.mark.parametrize(("threshold", "prompts"), [(128, [130]), (185, [130, 60]), (1000, [130, 60, 50])])
def test_neo_drops_prompts_for_the_host_while_enough_tokens_stay(threshold: int, prompts: list[int]) -> None:
    """A GPU of 140 tokens: 130 go there, 60 and 50 would go to the host, unless enough tokens stay without them."""
    neo = Neo(max_num_batched_tokens=2048, max_num_seqs=8, linear_threshold=threshold)
    tier = HostTier(200, HybridCost(FLAT))
    trace, _ = play(
        load([(0, 130, 2), (0, 60, 2), (0, 50, 2)]), [neo], RoundRobin(), FLAT, num_gpu_blocks=36, block_size=4,
        tier=tier,
    )  # fmt: skip

    assert sum(prompts) == rows(trace)[0][2]
