"""Laws for schedulers whose requests fetch KV: in decode pools, and with offload tiers."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.diffusion import denoises
from simserve.policies.eviction import Fifo, LargestFirst, Lru
from simserve.policies.routers import LeastKv, LeastLoaded, RoundRobin
from simserve.sim import laws
from simserve.sim.cluster import Cluster
from simserve.sim.memory import Memory
from simserve.sim.offload import Channels, OffloadTiers
from simserve.sim.plan import Eviction
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.prefix import PrefixLedger
from simserve.sim.trace import Trace
from simserve.systems import SCHEDULERS
from simserve.testing.builders import load
from simserve.testing.conformance import same as as_before
from simserve.testing.toy import ToyCost
from simserve.workload.requests import RequestSet

COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)
BLOCK, BLOCK_BYTES = 4, 100
LIMITS = {"max_num_batched_tokens": 33, "max_num_seqs": 8}
# those that keep KV on a host stand alone, and so do those of diffusion models
FETCHING = [
    name for name in SCHEDULERS.names() if not denoises(name) and not hasattr(SCHEDULERS.get(name), "cpu_kernel")
]


@st.composite
def loads(draw: st.DrawFn) -> RequestSet:
    """Up to 25 requests of four families that share long prefixes."""
    rows, content, now = [], [], 0
    for index in range(draw(st.integers(1, 25))):
        now += draw(st.sampled_from([0, 0, 3, 900, 20_000]))
        shared, own, output = draw(st.integers(0, 60)), draw(st.integers(1, 20)), draw(st.integers(1, 30))
        rows.append((now, shared + own, output))
        content.append(((draw(st.integers(0, 3)), shared), (100 + index, own)))
    return load(rows, content=content)


def with_tiers(cluster: Cluster, *, dram: int, ssd: int, retention_ns: int, order: Eviction) -> Callable[
    [PrefixLedger], OffloadTiers
]:  # fmt: skip
    """Tiers of so many blocks, on links of 1 byte per ns."""

    def link(name: str) -> object:
        return cluster.link(name, bandwidth_bytes_per_s=10**9, latency_ns=5, launch_ns=2)

    def build(ledger: PrefixLedger) -> OffloadTiers:
        memory = Memory({"dram": dram * BLOCK_BYTES, "ssd": ssd * BLOCK_BYTES}, order.key)
        far = (link("to ssd"), link("from ssd")) if ssd else (None, None)
        channels = Channels(link("to host"), link("from host"), *far)  # type: ignore[arg-type]
        return OffloadTiers(
            cluster.clock, ledger, memory, channels, block_bytes=BLOCK_BYTES, retention_ns=retention_ns
        )

    return build


def same(first: Trace, second: Trace) -> bool:
    """Equal spans besides."""
    return as_before(first, second) and all(first.spans[k].tolist() == second.spans[k].tolist() for k in first.spans)


@pytest.mark.parametrize("name", FETCHING)
@settings(max_examples=60, deadline=None)
@given(
    requests=loads(), blocks=st.sampled_from([30, 45, 400]), dram=st.sampled_from([3, 12, 400]),
    ssd=st.sampled_from([0, 5, 400]), retention_ns=st.sampled_from([0, 5_000]),
    order=st.sampled_from([Lru(), Fifo(), LargestFirst()]),
)  # fmt: skip
def test_offload_keeps_the_laws(
    name: str, requests: RequestSet, blocks: int, dram: int, ssd: int, retention_ns: int, order: Eviction
) -> None:
    """Under pressure in every tier: all end, all blocks come back, nobody stands still, leap on == leap off."""
    traces = []
    for leap in (True, False):
        cluster = Cluster(RoundRobin(), leap=leap)
        cluster.add(
            SCHEDULERS.get(name)(**LIMITS), COST, num_gpu_blocks=blocks, block_size=BLOCK, enable_prefix_caching=True,
            offload=with_tiers(cluster, dram=dram, ssd=ssd, retention_ns=retention_ns, order=order),
        )  # fmt: skip
        traces.append(cluster.play(requests))
        assert cluster.instances[0].ledger.used == 0
        laws.check(traces[-1])

    assert (traces[0].requests["outcome"] != 2).all()
    assert same(*traces)


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("name", FETCHING)
@settings(max_examples=60, deadline=None)
@given(
    requests=loads(), prefill_blocks=st.sampled_from([30, 400]), decode_blocks=st.sampled_from([30, 45, 400]),
    router=st.sampled_from([LeastLoaded, LeastKv]), interval_ns=st.sampled_from([0, 3_000]),
)  # fmt: skip
def test_every_scheduler_can_prefill_and_decode_in_pools(
    name: str, caching: bool, requests: RequestSet, prefill_blocks: int, decode_blocks: int,
    router: type[LeastLoaded] | type[LeastKv], interval_ns: int,
) -> None:  # fmt: skip
    """Handed-over KV is fetched by all of them, under pressure on both sides, with fresh and stale views."""
    traces = []
    for leap in (True, False):
        cluster = DisaggregatedCluster(
            RoundRobin(), router(), kv_bytes_per_token=3, snapshot_interval_ns=interval_ns, leap=leap
        )
        for index, size in enumerate((prefill_blocks, decode_blocks, decode_blocks)):
            instance = cluster.add(
                SCHEDULERS.get(name)(**LIMITS), COST, num_gpu_blocks=size, block_size=BLOCK,
                enable_prefix_caching=caching,
            )  # fmt: skip
            if index:
                cluster.decodes(instance)
            else:
                cluster.prefills(instance, cluster.link("kv", bandwidth_bytes_per_s=10**8, latency_ns=5))
        traces.append(cluster.play(requests))
        assert [0, 0, 0] == [i.ledger.used for i in cluster.instances]
        laws.check(traces[-1])

    assert (traces[0].requests["outcome"] != 2).all()
    assert same(*traces)


def test_blocks_that_make_room_for_promoted_ones_end_a_leap() -> None:
    """Found by the law above: what request 4 could have fetched goes to the SSD while request 11 decodes."""
    prompts = [45, 31, 1, 1, 40, 49, 1, 1, 1, 5, 12, 32, 25, 61]
    outputs = [1, 30, 1, 1, 26, 1, 1, 1, 1, 20, 21, 6, 1, 1]
    shared = [(0, 44), (1, 24), (0, 0), (0, 0), (1, 22), (0, 40), *[(0, 0)] * 3]
    shared += [(2, 4), (0, 0), (2, 12), (1, 24), (0, 44)]
    content = [(part, (100 + i, prompts[i] - part[1])) for i, part in enumerate(shared)]
    requests = load([(0, *pair) for pair in zip(prompts, outputs, strict=True)], content=content)
    test_offload_keeps_the_laws.hypothesis.inner_test("sglang", requests, 30, 12, 400, 0, Lru())  # type: ignore[attr-defined]
