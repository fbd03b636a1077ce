"""DistServe's two stage schedulers: timelines worked out by hand, in integers."""

from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.sim import laws
from simserve.sim.instance import Instance, Observer
from simserve.sim.plan import Plan
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.swap import Copies, SwapSpace
from simserve.sim.trace import Trace
from simserve.systems.distserve import DistServe
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


def played(
    requests: list[tuple[int, int, int]], *, decode_blocks: int = 1001, swap_blocks: int = 0, **knobs: int | float
) -> tuple[Trace, list[tuple[int, list[int], list[int]]]]:
    """One instance each, blocks of 10 tokens, 1 byte per token and ns; (ns, decoded, fetched) of the decode side."""
    cluster = DisaggregatedCluster(RoundRobin(), LeastLoaded(), kv_bytes_per_token=1)
    seen: list[tuple[int, list[int], list[int]]] = []

    def note(start: int, duration: int, plan: Plan, free: int) -> None:
        seen.append((start, [r.id for r in plan.tokens], [r.id for r in plan.fetched]))

    def instance(blocks: int, observer: Observer | None, swap: SwapSpace | None) -> Instance:
        scheduler = DistServe(**knobs)  # type: ignore[arg-type]
        return cluster.add(scheduler, COST, num_gpu_blocks=blocks, block_size=10, observer=observer, swap=swap)

    copies = Copies(5, 10**9)
    swap = SwapSpace(swap_blocks, 10, out=copies, back=copies) if swap_blocks else None
    cluster.prefills(instance(1001, None, None), cluster.link("kv", bandwidth_bytes_per_s=10**9))
    cluster.decodes(instance(decode_blocks, note, swap))
    trace = cluster.play(load(requests))
    laws.check(trace)
    return trace, seen


def test_prompts_are_batched_whole_up_to_the_budget() -> None:
    """Budget 50: 20 + 30 to 600, then 40 alone to 1100, though 10 would have had room with the first two."""
    trace, _ = played([(0, 20, 1), (0, 30, 1), (0, 40, 1)], max_num_batched_tokens=50, max_num_seqs=9)

    assert [600, 600, 1100] == trace.requests["first_token_ns"].tolist()


def test_accepted_prompts_may_hold_a_twentieth_of_the_blocks() -> None:
    """20 blocks: a fetched prompt of 2 blocks fills the twentieth, so the next is fetched when it decodes.

    Both prompts are done at 500. The first moves 20 bytes to 520 and decodes; the second is asked for at 520, when the
    first runs, and moves to 540; it joins at 630.
    """
    trace, seen = played([(0, 20, 4), (0, 20, 4)], decode_blocks=21)

    assert [520, 540] == trace.requests["kv_arrived_ns"].tolist()
    assert [(520, [0], [1]), (630, [0, 1], []), (750, [0, 1], []), (870, [1], [])] == seen


def test_without_the_threshold_both_are_fetched_at_once() -> None:
    """The same with a threshold of all blocks: the link is shared, both arrive at 540."""
    trace, seen = played([(0, 20, 4), (0, 20, 4)], decode_blocks=21, waiting_block_prop_threshold=1.0)

    assert [540, 540] == trace.requests["kv_arrived_ns"].tolist()
    assert (540, [0, 1], []) == seen[0]


def test_the_last_one_is_swapped_and_comes_back_first() -> None:
    """6 blocks, two requests of 3 that grow at 31 tokens: the second goes to the host, and back when the first is done.

    Both decode from 540 in steps of 120; at 1740 the first needs a fourth block. 3 blocks of 10 bytes leave in 3 x 5 +
    30 = 45 ns before its last step of 110; then they come back in 45 before the second's.
    """
    trace, seen = played([(0, 20, 12), (0, 20, 12)], decode_blocks=7, swap_blocks=9, waiting_block_prop_threshold=1.0)

    assert [0, 1] == trace.requests["preemptions"].tolist()
    assert [1740 + 45 + 110, 1895 + 45 + 110] == trace.requests["finish_ns"].tolist()
    assert [[0, 1]] * 10 + [[0], [1]] == [tokens for _, tokens, _ in seen]
    copies = [trace.resources.index(f"instance 1 {lane}") for lane in ("pcie_out", "pcie_in")]
    rows = zip(*(trace.spans[name].tolist() for name in ("resource", "start_ns", "end_ns")), strict=True)
    assert [(copies[0], 1740, 1785), (copies[1], 1895, 1940)] == [row for row in rows if row[0] in copies]


def test_without_swap_space_the_last_one_is_recomputed() -> None:
    """The same without a host: its 31 tokens are a prompt again, on the decode instance."""
    trace, seen = played([(0, 20, 12), (0, 20, 12)], decode_blocks=7, waiting_block_prop_threshold=1.0)

    assert [0, 1] == trace.requests["preemptions"].tolist()
    assert [1740 + 110, 1850 + 410] == trace.requests["finish_ns"].tolist()
    assert [[0, 1]] * 10 + [[0], [1]] == [tokens for _, tokens, _ in seen]
