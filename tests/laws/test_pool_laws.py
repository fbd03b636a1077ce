"""Laws of clusters with a mixed pool or a gateway, over random loads."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simserve.policies.routers import LeastLoaded
from simserve.sim import laws
from simserve.sim.gateway import GatewayCluster
from simserve.sim.mixed_pools import MixedPoolCluster, SplitMachine
from simserve.sim.plan import Role
from simserve.sim.request import Outcome
from simserve.sim.trace import Trace
from simserve.systems.pd_serve import PdServe
from simserve.systems.splitwise import Splitwise, SplitwiseMachine
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

Rows = list[tuple[int, int, int]]
COST = ToyCost(1000, 7, 1)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Up to 30 requests in bursts and with gaps."""
    gap, length = st.sampled_from([0, 0, 1, 500, 1007, 20_000]), st.integers(1, 90)
    found, now = [], 0
    for _ in range(draw(st.integers(1, 30))):
        now += draw(gap)
        found.append((now, draw(length), draw(st.integers(1, 60))))
    return found


def split(requests: Rows, system: Splitwise, machine: dict[str, int], blocks: int, counts: tuple[int, int], leap: bool,
          rate: int) -> Trace:  # fmt: skip
    """Machines with blocks of 4 tokens, which must be free at the end."""
    cluster = MixedPoolCluster(system, layers=3, kv_bytes_per_token=5, leap=leap)
    for role in [Role.PREFILL] * counts[0] + [Role.DECODE] * counts[1]:
        made = cluster.add(SplitwiseMachine(**machine), COST, num_gpu_blocks=blocks, block_size=4, make=SplitMachine)
        cluster.place(made, role, lambda: cluster.link("kv", bandwidth_bytes_per_s=rate, latency_ns=3))
    trace = cluster.play(load(requests))
    assert [0] * sum(counts) == [i.ledger.used for i in cluster.instances]
    assert not cluster.assigned
    return trace


@settings(max_examples=120, deadline=None)
@given(
    requests=rows(), counts=st.tuples(*[st.integers(1, 3)] * 2), blocks=st.sampled_from([41, 50, 400]),
    tokens=st.sampled_from([8, 33, 2048]), seqs=st.sampled_from([1, 3, 8]), pending=st.sampled_from([1, 60, 8192]),
    mixed=st.booleans(), overlap=st.sampled_from([1, 512]), rate=st.sampled_from([10**7, 10**10]),
)  # fmt: skip
@example(
    requests=[(0, 1, 17), (0, 10, 2), (0, 1, 4), (0, 48, 2), (20000, 18, 1), (20000, 85, 2), (20000, 1, 1),
              (20001, 73, 2), (20001, 1, 1), (20001, 1, 1)],
    counts=(3, 1), blocks=41, tokens=8, seqs=1, pending=1, mixed=True, overlap=1, rate=10**7,
)  # two machines that held KV for one another waited for ever
def test_mixed_pools_keep_the_laws(
    requests: Rows, counts: tuple[int, int], blocks: int, tokens: int, seqs: int, pending: int, mixed: bool,
    overlap: int, rate: int,
) -> None:  # fmt: skip
    """Every request ends once; blocks come back; leap on == leap off."""
    system = Splitwise(max_pending_prompt_tokens=pending, mixed_pool=mixed, overlap_tokens=overlap)
    machine = {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}
    leaping, stepping = (split(requests, system, machine, blocks, counts, leap, rate) for leap in (True, False))

    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(leaping)
    assert (leaping.requests["outcome"] == Outcome.FINISHED).all()
    assert all(np.array_equal(leaping.requests[name], stepping.requests[name]) for name in leaping.requests)


@settings(max_examples=120, deadline=None)
@given(
    requests=rows(), counts=st.tuples(*[st.integers(1, 3)] * 2), blocks=st.sampled_from([41, 50, 400]),
    slots=st.sampled_from([1, 3, 8]), budget_us=st.sampled_from([0, 5, 100]), fixed=st.booleans(),
    rebalance_us=st.sampled_from([0, 3, 20]), leap=st.booleans(),
)  # fmt: skip
def test_gateways_keep_the_laws(
    requests: Rows, counts: tuple[int, int], blocks: int, slots: int, budget_us: int, fixed: bool, rebalance_us: int,
    leap: bool,
) -> None:  # fmt: skip
    """Every request is finished or rejected within its budget; blocks come back; no pool is ever empty."""
    system = PdServe(
        ttft_budget_ms=budget_us / 1000, retry_ms=0.0005, prefill_slots=slots, decode_slots=2, move_s=2e-6,
        rebalance_s=rebalance_us / 1e6, kv_transfer="block_fixed" if fixed else "contiguous", control_us=0.01,
    )  # fmt: skip
    cluster = GatewayCluster(system, LeastLoaded(), kv_bytes_per_token=5, leap=leap)
    for role in [Role.PREFILL] * counts[0] + [Role.DECODE] * counts[1]:
        made = cluster.add(Vllm(64, 8), COST, num_gpu_blocks=blocks, block_size=4)
        cluster.place(made, role, lambda: cluster.link("kv", bandwidth_bytes_per_s=10**9, launch_ns=10))
    trace = cluster.play(load(requests))
    r = trace.requests
    rejected = r["outcome"] == Outcome.REJECTED

    assert [0] * sum(counts) == [i.ledger.used for i in cluster.instances]
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)
    assert (rejected | (r["outcome"] == Outcome.FINISHED)).all()
    assert (r["first_scheduled_ns"][rejected] == -1).all()
    assert cluster._prefill
    assert cluster._decode
