"""Transfers that share a link, and objects that compete for a tier: worked out by hand, in integers."""

import pytest

from simserve.errors import Infeasible, SimserveError
from simserve.policies.eviction import LargestFirst
from simserve.sim.clock import ARRIVAL, Clock
from simserve.sim.link import Link
from simserve.sim.memory import EvictionOrder, Memory, MemoryObject, ObjectKind, least_recently_used

GB_PER_S = 1_000_000_000  # one byte per ns


def arrivals(transfers: list[tuple[int, int]], **settings: int) -> list[int]:
    """End of each (start_ns, bytes) transfer on one link of 1 byte per ns."""
    clock = Clock()
    link = Link(clock, bandwidth_bytes_per_s=GB_PER_S, **settings)
    ends = [-1] * len(transfers)

    def send(index: int, size: int) -> None:
        link.transfer(size, lambda: ends.__setitem__(index, clock.now_ns))

    for index, (start, size) in enumerate(transfers):
        clock.call_at(start, lambda i=index, s=size: send(i, s), ARRIVAL)  # type: ignore[misc]
    clock.run()
    assert link.moved_bytes == sum(size for _, size in transfers)
    return ends


def test_a_lone_transfer_takes_latency_launch_and_bytes() -> None:
    """10 + 7 + 100."""
    assert [117] == arrivals([(0, 100)], latency_ns=10, launch_ns=7)


def test_concurrent_transfers_share_the_bandwidth() -> None:
    """Second starts at 50: both at half pace; the first ends at 150, the second alone from there to 250."""
    assert [150, 250] == arrivals([(0, 100), (50, 150)])


def test_three_transfers() -> None:
    """Thirds until the short one is done at 90, halves until 150, then alone."""
    assert [90, 150, 190] == arrivals([(0, 30), (0, 60), (0, 100)])


def test_pieces_cost_launches_and_a_fraction_of_a_byte_time_rounds_up() -> None:
    """8 pieces of 3 ns each, and 10 bytes at 3 bytes per ns in 4 ns."""
    link = Link(Clock(), bandwidth_bytes_per_s=3 * GB_PER_S, latency_ns=1, launch_ns=3)

    assert 1 + 24 + 4 == link.alone_ns(10, pieces=8)
    with pytest.raises(SimserveError, match="needs bandwidth"):
        Link(Clock(), bandwidth_bytes_per_s=0)


def blocks(*items: tuple[str, int, int], order: EvictionOrder = least_recently_used) -> Memory:
    """A tier of 100 bytes with unpinned KV objects of (name, bytes, last use)."""
    memory = Memory({"dram": 100, "ssd": 30}, order)
    for name, size, used in items:
        memory.place("dram", MemoryObject(name, ObjectKind.KV_CACHE, size, pinned=False, last_used_ns=used))
    return memory


def test_eviction_follows_its_order() -> None:
    """Least recently used by default; any other order as a policy."""
    items = (("a", 20, 5), ("b", 50, 9), ("c", 30, 1))
    by_use, by_size = blocks(*items), blocks(*items, order=LargestFirst().key)

    assert ["c", "a"] == [o.name for o in by_use.make_room("dram", 40, now_ns=10)]
    assert ["b"] == [o.name for o in by_size.make_room("dram", 40, now_ns=10)]


def test_use_renews() -> None:
    """What was used last stays longest."""
    memory = blocks(("a", 50, 1), ("b", 50, 2))
    memory.use("dram", "a", 3)

    assert ["b"] == [o.name for o in memory.make_room("dram", 10, now_ns=4)]


def test_pins_and_their_expiry() -> None:
    """A pin holds until it expires; if not enough may go, nothing goes."""
    memory = blocks(("a", 40, 1))
    memory.place("dram", MemoryObject("pinned", ObjectKind.ADAPTER, 60, expires_ns=50))

    with pytest.raises(Infeasible, match="80 B of dram are wanted, 40 B can be freed; the rest is pinned"):
        memory.make_room("dram", 80, now_ns=49)
    assert {"a", "pinned"} == set(memory.objects["dram"])
    assert ["pinned", "a"] == [o.name for o in memory.make_room("dram", 100, now_ns=50)]


def test_what_another_object_needs_stays() -> None:
    """An adapter needs its base weights; the weights can go only after it."""
    memory = Memory({"hbm": 100})
    memory.place("hbm", MemoryObject("base", ObjectKind.WEIGHTS, 60, pinned=False, last_used_ns=0))
    memory.place("hbm", MemoryObject("lora", ObjectKind.ADAPTER, 10, pinned=False, needs=("base",), last_used_ns=9))

    with pytest.raises(SimserveError, match="'base' is needed in hbm by lora"):
        memory.remove("hbm", "base")
    with pytest.raises(SimserveError, match="'other' needs nothing_here in hbm"):
        memory.place("hbm", MemoryObject("other", ObjectKind.ADAPTER, 1, needs=("nothing_here",)))
    assert ["lora", "base"] == [o.name for o in memory.make_room("hbm", 100, now_ns=10)]


def test_a_move_that_fails_changes_nothing() -> None:
    """Neither tier changes, whichever side refuses."""
    memory = blocks(("big", 40, 0), ("small", 10, 0))
    memory.place("dram", MemoryObject("child", ObjectKind.KV_CACHE, 5, needs=("small",)))

    with pytest.raises(Infeasible):
        memory.move("big", "dram", "ssd")
    with pytest.raises(SimserveError, match="is needed"):
        memory.move("small", "dram", "ssd")
    assert (["big", "small", "child"], []) == (list(memory.objects["dram"]), list(memory.objects["ssd"]))
