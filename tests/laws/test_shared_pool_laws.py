"""Laws of two workers that share a GPU and a KV pool, over random loads, shares and pools."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.perf.lane_split import LanePart
from simserve.policies.routers import LeastLoaded
from simserve.sim import laws
from simserve.sim.shared_pool import SharedPoolCluster
from simserve.sim.trace import Trace
from simserve.systems.semi_pd import SemiPd, SemiPdWorker
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

Rows = list[tuple[int, int, int]]


def split(prefill: Sequence[tuple[int, int]], seqs: int, context: int, sampled: int, price_ns: int) -> list[LanePart]:
    """Both lanes in both kinds, and a host."""
    kernels = price_ns - 20
    return [LanePart(kernels, kernels // 3) if prefill else LanePart(kernels // 5, kernels), LanePart(host_ns=20)]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Up to 30 requests in bursts and with gaps."""
    gap, length = st.sampled_from([0, 0, 1, 500, 1007, 20_000]), st.integers(1, 90)
    found, now = [], 0
    for _ in range(draw(st.integers(1, 30))):
        now += draw(gap)
        found.append((now, draw(length), draw(st.integers(1, 60))))
    return found


def play(requests: Rows, system: SemiPd, worker: SemiPdWorker, blocks: int, pairs: int) -> tuple[Trace, list[int]]:
    """Pairs with 4-token blocks; the trace and the blocks in use at the end."""
    cluster = SharedPoolCluster(LeastLoaded(), controller=system.controller, split=split)
    for _ in range(pairs):
        cluster.add(worker, ToyCost(1000, 7, 1), num_gpu_blocks=blocks, block_size=4)
    return cluster.play(load(requests)), [i.ledger.used for i in cluster.instances]


def idle_ns(trace: Trace, first: int) -> int:
    """Time in which a request of a pair is in flight and neither of its two workers does anything."""
    own = np.isin(trace.requests["instance"], (first, first + 1))
    busy = np.isin(trace.steps["instance"], (first, first + 1))
    work = sorted(zip(trace.steps["start_ns"][busy].tolist(), trace.steps["end_ns"][busy].tolist(), strict=True))
    waits = sorted(zip(*(trace.requests[name][own].tolist() for name in ("arrival_ns", "finish_ns")), strict=True))
    return _length(waits + work) - _length(work)


def _length(intervals: list[tuple[int, int]]) -> int:
    total, end = 0, -1
    for start, stop in sorted(intervals):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


@settings(max_examples=150, deadline=None)
@given(
    requests=rows(), shares=st.tuples(*[st.sampled_from([10, 30, 50, 100])] * 2), blocks=st.sampled_from([41, 50, 400]),
    chunk=st.sampled_from([8, 33, 2048]), seqs=st.sampled_from([1, 3, 8]), pairs=st.sampled_from([1, 2]),
    target=st.sampled_from([0.0, 0.002, 0.01]),
)  # fmt: skip
def test_two_workers_keep_the_laws(
    requests: Rows, shares: tuple[int, int], blocks: int, chunk: int, seqs: int, pairs: int, target: float
) -> None:
    """Every request ends once, with all its tokens; blocks come back; no pair stands still; twice is the same."""
    system = SemiPd(prefill_share=shares[0], decode_share=shares[1], ttft_ms=target, tpot_ms=target / 2, window_size=3)
    worker = SemiPdWorker(max_num_batched_tokens=chunk, max_num_seqs=seqs)
    (trace, used), (again, _) = (play(requests, system, worker, blocks, pairs) for _ in range(2))

    assert [0] * 2 * pairs == used
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)
    assert (trace.requests["outcome"] == 0).all()
    assert [0] * pairs == [idle_ns(trace, 2 * pair) for pair in range(pairs)]
    assert all(np.array_equal(trace.requests[name], again.requests[name]) for name in trace.requests)
