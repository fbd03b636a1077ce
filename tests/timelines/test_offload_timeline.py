"""Prefix offload to host memory and SSD: timelines worked out by hand, in integers."""

import pytest

from simserve.errors import SimserveError
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.cluster import Cluster
from simserve.sim.link import Link
from simserve.sim.memory import Memory
from simserve.sim.offload import Channels, OffloadTiers
from simserve.sim.prefix import PrefixLedger
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost
from simserve.workload.requests import RequestSet

COST = ToyCost(base_ns=100, per_token_ns=10)
A, B = 1, 2  # contents of prompts


def played(
    requests: RequestSet, *, gpu_blocks: int = 4, dram: int = 100, ssd: int = 0, retention_ns: int = 0,
    bytes_per_s: int = 10**9,
) -> tuple[Trace, dict[str, Link]]:  # fmt: skip
    """Blocks of 10 tokens and 100 bytes; links of 1 byte per ns, 7 ns latency and 3 ns per block."""
    cluster = Cluster(RoundRobin())
    links = {
        name: cluster.link(name, bandwidth_bytes_per_s=bytes_per_s, latency_ns=7, launch_ns=3)
        for name in ("to_host", "from_host", *(("to_ssd", "from_ssd") if ssd else ()))
    }

    def tiers(ledger: PrefixLedger) -> OffloadTiers:
        memory = Memory({"dram": dram * 100, "ssd": ssd * 100})
        return OffloadTiers(
            cluster.clock, ledger, memory, Channels(**links), block_bytes=100, retention_ns=retention_ns
        )

    cluster.add(Vllm(), COST, num_gpu_blocks=gpu_blocks + 1, block_size=10, enable_prefix_caching=True, offload=tiers)
    trace = cluster.play(requests)
    laws.check(trace)
    assert cluster.instances[0].ledger.used == 0
    return trace, links


def prompts(*rows: tuple[int, int, int]) -> RequestSet:
    """Requests of one output token from (arrival_ns, content, prompt tokens)."""
    content = [((name, tokens),) for _, name, tokens in rows]
    return load([(at, tokens, 1) for at, _, tokens in rows], content=content)


def spans(trace: Trace) -> list[tuple[str, int, int, int, int]]:
    """(resource, start_ns, end_ns, request, bytes) of all transfers."""
    columns = (trace.spans[name].tolist() for name in ("resource", "start_ns", "end_ns", "request", "size_bytes"))
    return [(trace.resources[r], *rest) for r, *rest in zip(*columns, strict=True)]


def test_a_prefix_comes_back_from_the_host() -> None:
    """A's two full blocks are stored while B pushes them out of the GPU; then A fetches them.

    A: 21 tokens to 310; 2 blocks go out: 7 + 2 x 3 + 200, to 523. B takes the whole GPU from 1000 to 1410 (31 tokens).
    A again at 2000: 213 ns to fetch 20 tokens, then 1 token in 110.
    """
    trace, _ = played(prompts((0, A, 21), (1000, B, 31), (2000, A, 21)))

    assert [310, 1410, 2000 + 213 + 110] == trace.requests["finish_ns"].tolist()
    assert [0, 0, 20] == trace.requests["cached_tokens"].tolist()
    assert [-1, -1, 2213] == trace.requests["kv_arrived_ns"].tolist()
    assert [
        ("to_host", 310, 523, 0, 200),
        ("to_host", 1410, 1410 + 7 + 9 + 300, 1, 300),
        ("from_host", 2000, 2213, 2, 200),
    ] == spans(trace)


def test_what_the_gpu_has_is_not_fetched() -> None:
    """Nobody pushed A out: its two blocks are found in the GPU's own cache, and are not stored twice."""
    trace, links = played(prompts((0, A, 21), (2000, A, 21)))

    assert [310, 2110] == trace.requests["finish_ns"].tolist()
    assert (200, 0) == (links["to_host"].moved_bytes, links["from_host"].moved_bytes)


def test_only_what_the_gpu_lacks_is_fetched() -> None:
    """B of 21 tokens leaves A's first block on the GPU, so one is fetched.

    The GPU has 4 blocks, A held 3: its third has no hash and goes first, then the one never used, then A's second.
    """
    trace, links = played(prompts((0, A, 21), (1000, B, 21), (2000, A, 21)))

    assert 100 == links["from_host"].moved_bytes
    assert 2000 + 7 + 3 + 100 + 110 == trace.requests["finish_ns"][2]


def test_a_block_on_its_way_out_cannot_be_found() -> None:
    """A comes back at 400, before its blocks are in the host at 523: it waits behind B.

    B runs from 310 (waiting since 5) to 720 and takes the GPU; A waits for its blocks, and then they have arrived.
    """
    trace, links = played(prompts((0, A, 21), (5, B, 31), (400, A, 21)))

    assert 720 == trace.requests["finish_ns"][1]
    # B's own blocks leave from 720 on in the other direction: the fetch does not feel it
    assert (200, 720 + 213 + 110) == (links["from_host"].moved_bytes, trace.requests["finish_ns"][2])


def test_what_is_still_leaving_is_computed_again() -> None:
    """At a tenth of the pace A's blocks are in the host at 310 + 13 + 2000: too late for A at 720."""
    trace, links = played(prompts((0, A, 21), (5, B, 31), (400, A, 21)), bytes_per_s=10**8)

    assert (0, 720 + 310) == (links["from_host"].moved_bytes, trace.requests["finish_ns"][2])


def test_what_is_on_its_way_in_is_no_hit_for_another() -> None:
    """Two requests want A: both fetch it, sharing the channel, though the first has blocks for it since 3000.

    The first has 50 of 206 ns when the second begins at 3057; then both get half: to 3369 and to 3419. One token each:
    110 from 3369, then 110 from 3479.
    """
    rows = prompts((0, A, 21), (1000, B, 71), (3000, A, 21), (3050, A, 21))
    trace, links = played(rows, gpu_blocks=8)

    assert [3369, 3419] == trace.requests["kv_arrived_ns"][2:].tolist()
    assert [3479, 3589] == trace.requests["finish_ns"][2:].tolist()
    assert 400 == links["from_host"].moved_bytes


def test_a_leap_ends_where_blocks_arrive_in_the_host() -> None:
    """What a plan finds has changed: A's blocks leave at 320 and arrive at 533, so 49 decode steps are 2 and 47."""
    trace, _ = played(load([(0, 21, 1), (0, 1, 50)]), gpu_blocks=20)

    assert [1, 2, 47] == trace.steps["steps"].tolist()
    assert 540 == trace.steps["end_ns"][1]


def test_the_least_recently_used_goes_first_and_a_full_host_is_no_error() -> None:
    """Two blocks of host memory: B's blocks push A's out, so A is computed again."""
    trace, links = played(prompts((0, A, 21), (1000, B, 31), (3000, A, 21)), dram=2)

    assert 0 == links["from_host"].moved_bytes
    assert 3000 + 310 == trace.requests["finish_ns"][2]


def test_retention_pins_what_was_stored() -> None:
    """With A's blocks pinned for 5,000 ns, B finds no room in the host, and A comes back from there."""
    rows = prompts((0, A, 21), (1000, B, 31), (3000, A, 21))
    trace, links = played(rows, dram=2, retention_ns=5000)

    assert (200, 200) == (links["to_host"].moved_bytes, links["from_host"].moved_bytes)
    assert 3000 + 213 + 110 == trace.requests["finish_ns"][2]


def test_from_the_ssd_over_the_host() -> None:
    """What B pushes out of the host is written to the SSD from 1410 on, and read back in two hops of 213.

    Two of B's blocks make room in the host for them and are written to the SSD in turn.
    """
    trace, links = played(prompts((0, A, 21), (1000, B, 31), (5000, A, 21)), dram=3, ssd=10)

    assert (400, 200) == (links["to_ssd"].moved_bytes, links["from_ssd"].moved_bytes)
    assert 5000 + 213 + 213 + 110 == trace.requests["finish_ns"][2]


def test_offload_needs_hashes() -> None:
    """Without prefix caching there is nothing to find blocks by."""
    cluster = Cluster(RoundRobin())

    with pytest.raises(SimserveError, match="needs enable_prefix_caching"):
        cluster.add(Vllm(), COST, num_gpu_blocks=9, block_size=10, offload=lambda ledger: pytest.fail("no tiers"))
