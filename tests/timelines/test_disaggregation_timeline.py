"""Prefill and decode pools with KV hand-over: timelines worked out by hand, in integers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.errors import LawBroken
from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.sim import laws
from simserve.sim.link import Link
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)
FAST = ToyCost(base_ns=10, per_token_ns=10)


def played(
    requests: list[tuple[int, int, int]], *, prefills: int = 1, decode_costs: tuple[ToyCost, ...] = (COST,),
    decode_blocks: int = 101, leap: bool = True,
) -> tuple[Trace, list[Link]]:  # fmt: skip
    """Links of 1 byte per ns and 5 ns latency, KV of 10 bytes per token."""
    cluster = DisaggregatedCluster(RoundRobin(), LeastLoaded(), kv_bytes_per_token=10, leap=leap)
    links = []
    for _ in range(prefills):
        instance = cluster.add(Vllm(), COST, num_gpu_blocks=101, block_size=16)
        links.append(Link(cluster.clock, bandwidth_bytes_per_s=10**9, latency_ns=5))
        cluster.prefills(instance, links[-1])
    for cost in decode_costs:
        cluster.decodes(cluster.add(Vllm(), cost, num_gpu_blocks=decode_blocks, block_size=16))
    trace = cluster.play(load(requests))
    assert [0] * len(cluster.instances) == [i.ledger.used for i in cluster.instances]
    for law in (laws.conservation, laws.causality, laws.lanes, laws.memory):
        law(trace)
    return trace, links


def times(trace: Trace) -> list[tuple[int, int]]:
    """(first token, finish) per request."""
    return list(zip(trace.requests["first_token_ns"].tolist(), trace.requests["finish_ns"].tolist(), strict=True))


def test_one_request_by_hand() -> None:
    """Prefill 20 tokens to 300; 200 bytes of KV take 5 + 200, to 505; two decode steps of 110 to 725."""
    trace, links = played([(0, 20, 3)])

    assert [(300, 725)] == times(trace)
    assert [315] == trace.itl_gaps_ns.tolist()
    assert [1] == trace.requests["instance"].tolist()
    assert [200] == [link.moved_bytes for link in links]


def test_a_request_of_one_token_never_leaves_the_prefill_pool() -> None:
    """It is done with its first token."""
    trace, links = played([(0, 20, 1)])

    assert ([(300, 300)], [0]) == (times(trace), [link.moved_bytes for link in links])


def test_hand_overs_share_the_link() -> None:
    """Two prompts of 20 prefill together to 500; both transfers at half pace arrive at 905, decode to 1025."""
    trace, _ = played([(0, 20, 2), (0, 20, 2)])

    assert [(500, 1025), (500, 1025)] == times(trace)


def test_prefill_goes_on_while_decode_decodes() -> None:
    """No interference: the second prompt's first token comes as if it were alone."""
    trace, _ = played([(0, 20, 50), (1000, 30, 1)])

    assert 1400 == trace.requests["first_token_ns"][1]
    assert 300 + 205 + 49 * 110 == trace.requests["finish_ns"][0]


def test_a_full_decode_pool_pushes_back() -> None:
    """Room for one request: the second's KV waits on the prefill side until the first has finished.

    Both are prefilled at 700 (60 tokens). The first: 300 bytes, alone on the link, to 1005; 9 steps of 110 to 1995.
    Then the second fetches to 2300 and decodes to 3290.
    """
    trace, _ = played([(0, 30, 10), (0, 30, 10)], decode_blocks=4)

    assert [(700, 1995), (700, 3290)] == times(trace)


def test_heterogeneous_decode_instances() -> None:
    """Two decode instances, one faster: least loaded sends one request to each."""
    trace, _ = played([(0, 20, 2), (0, 20, 2)], decode_costs=(COST, FAST))

    assert [(500, 905 + 110), (500, 905 + 20)] == times(trace)


def test_a_request_that_no_decode_instance_can_hold_is_rejected_and_leaves_nothing() -> None:
    """Its blocks on the prefill side are freed."""
    trace, _ = played([(0, 64, 3), (0, 10, 2)], decode_blocks=4)

    assert [1, 0] == trace.requests["outcome"].tolist()


def test_what_the_decode_side_has_cached_is_not_moved() -> None:
    """Two equal prompts of 20 tokens, one after the other: of the second only 4 tokens are moved."""
    cluster = DisaggregatedCluster(RoundRobin(), LeastLoaded(), kv_bytes_per_token=10)
    first, second = (
        cluster.add(Vllm(), COST, num_gpu_blocks=101, block_size=16, enable_prefix_caching=True) for _ in range(2)
    )
    cluster.prefills(first, cluster.link("kv", bandwidth_bytes_per_s=10**9))
    cluster.decodes(second)
    trace = cluster.play(load([(0, 20, 2), (5000, 20, 2)], content=[((7, 20),), ((7, 20),)]))

    assert [200, 40] == trace.spans["size_bytes"].tolist()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([0, 3, 400, 5000]), st.integers(1, 60), st.integers(1, 30)),
                  min_size=1, max_size=25),
    prefills=st.integers(1, 2), decode_blocks=st.sampled_from([8, 12, 101]),
)  # fmt: skip
def test_laws_hold_and_leaps_are_exact(
    rows: list[tuple[int, int, int]], prefills: int, decode_blocks: int
) -> None:
    """Random loads, also under KV pressure on the decode side: leap on == leap off."""
    at, requests = 0, []
    for gap, prompt, output in rows:
        at += gap
        requests.append((at, prompt, output))
    runs = [
        played(requests, prefills=prefills, decode_costs=(COST, FAST), decode_blocks=decode_blocks, leap=leap)[0]
        for leap in (True, False)
    ]

    assert runs[0].requests["finish_ns"].tolist() == runs[1].requests["finish_ns"].tolist()
    expanded = [laws.expanded(t.steps) for t in runs]
    assert all(expanded[0][k].tolist() == expanded[1][k].tolist() for k in expanded[0])
    assert sorted(runs[0].itl_gaps_ns.tolist()) == sorted(runs[1].itl_gaps_ns.tolist())


def test_fetching_without_a_source_is_a_broken_law() -> None:
    """An ordinary instance has nothing to fetch from."""
    cluster = DisaggregatedCluster(RoundRobin(), RoundRobin(), kv_bytes_per_token=1)
    first, second = (cluster.add(Vllm(), COST, num_gpu_blocks=101, block_size=16) for _ in range(2))
    cluster.prefills(first, Link(cluster.clock, bandwidth_bytes_per_s=1))
    cluster.decodes(second)
    second.fetch = None

    with pytest.raises(LawBroken, match=r"^law broken: fetch"):
        cluster.play(load([(0, 10, 2)]))
