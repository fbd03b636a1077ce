"""Block ledger, memory tiers, lanes, clock: small facts in integers."""

from fractions import Fraction

import pytest

from simserve.errors import Infeasible, SimserveError
from simserve.sim.clock import ARRIVAL, COMMIT, PLAN, Clock
from simserve.sim.kv import BlockLedger
from simserve.sim.lanes import demands, proportional, segment_ns
from simserve.sim.memory import Memory, MemoryObject, ObjectKind
from simserve.sim.plan import Lane, Segment, WorkKind, knobs
from simserve.sim.request import Seen
from simserve.sim.rng import stream
from simserve.systems.vllm import Vllm


def test_ledger_counts_whole_blocks_and_refuses_without_change() -> None:
    """One null block; a failed reservation leaves everything as it was."""
    ledger, request, other = BlockLedger(5, 16), Seen(0, 0, 40), Seen(1, 0, 40)

    assert (
        ledger.total, ledger.reserve(request, 33), ledger.free,
        ledger.reserve(other, 17), ledger.free, other.blocks,
    ) == (4, True, 1, False, 1, 0)  # fmt: skip
    ledger.release(request)
    assert (request.blocks, ledger.free) == (0, 4)


def test_a_cache_without_a_block_is_refused() -> None:
    """The null block alone is no cache."""
    with pytest.raises(SimserveError, match="needs 2 blocks"):
        BlockLedger(1, 16)


def test_memory_places_moves_and_refuses() -> None:
    """Bytes are conserved over tiers; what does not fit changes nothing."""
    memory = Memory({"hbm": 100, "dram": 50})
    memory.place("hbm", MemoryObject("weights", ObjectKind.WEIGHTS, 60))
    memory.place("hbm", MemoryObject("kv", ObjectKind.KV_CACHE, 30, pinned=False))

    with pytest.raises(Infeasible, match=r"activations needs 20 B of hbm, 10 B are free"):
        memory.place("hbm", MemoryObject("activations", ObjectKind.ACTIVATIONS, 20))
    memory.move("kv", "hbm", "dram")
    with pytest.raises(Infeasible):
        memory.move("weights", "hbm", "dram")

    assert (
        memory.free_bytes("hbm"), memory.free_bytes("dram"), list(memory.objects["hbm"])
    ) == (40, 20, ["weights"])  # fmt: skip


def test_a_segment_lasts_as_long_as_its_busiest_lane() -> None:
    """Lanes of one segment overlap; segments without demands share the step's price by layers."""
    segments = [
        Segment(WorkKind.DECODE, (0, 16), 8, {Lane.COMPUTE: 30, Lane.HBM: 70}),
        Segment(WorkKind.DECODE, (16, 32), 8, {Lane.COMPUTE: 40, Lane.PCIE_IN: 25}),
    ]

    assert [70, 40] == [segment_ns(s.demand_ns) for s in segments]
    shares = [Segment(WorkKind.PREFILL, layers, 8, {}) for layers in ((0, 3), (3, 6), (6, 10))]
    assert [30, 30, 41] == [segment_ns(d) for d in demands(shares, 101)]


def test_an_oversubscribed_lane_slows_its_users() -> None:
    """Shares of 1 and 1/2 of the compute lane: 2/3 pace each; another lane is not slowed."""
    rates = proportional([{Lane.COMPUTE: 10}, {Lane.COMPUTE: 5, Lane.HBM: 10}, {Lane.CPU: 9}])

    assert [Fraction(2, 3), Fraction(2, 3), 1] == rates


def test_equal_times_run_by_priority_then_order() -> None:
    """The written tie order; a cancelled call is not made."""
    clock, seen = Clock(), []
    clock.call_at(5, lambda: seen.append("plan"), PLAN)
    clock.call_at(5, lambda: seen.append("commit of 1"), COMMIT + 1)
    clock.call_at(5, lambda: seen.append("commit of 0"), COMMIT)
    clock.call_at(5, lambda: seen.append("arrival"), ARRIVAL)
    clock.call_at(5, lambda: seen.append("never"), ARRIVAL).cancel()
    clock.call_at(5, lambda: seen.append("second plan"), PLAN)
    clock.run()

    assert seen == ["arrival", "commit of 0", "commit of 1", "plan", "second plan"]
    assert clock.now_ns == 5


def test_knobs_are_the_fields_with_ranges() -> None:
    """Name, default and range come from the dataclass alone."""
    found = knobs(Vllm)

    assert tuple(found["max_num_batched_tokens"][k] for k in ("default", "low", "high")) == (8192, 64, 65536)
    assert found["policy"]["choices"] == ("fcfs", "priority")


def test_streams_are_independent_and_repeatable() -> None:
    """A stream depends on seed and name only."""
    first = stream(3, "arrivals").integers(0, 1 << 60, 4).tolist()

    assert first == stream(3, "arrivals").integers(0, 1 << 60, 4).tolist()
    assert first != stream(3, "lengths").integers(0, 1 << 60, 4).tolist()
    assert first != stream(4, "arrivals").integers(0, 1 << 60, 4).tolist()
