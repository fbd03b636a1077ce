"""Splitwise's assignment, mixed pool and transfer: timelines worked out by hand, in integers.

A step takes 100 ns and 10 a token; KV is 40 bytes a token in 4 layers, the link moves 1 byte a ns.
"""

import pytest

from simserve.sim import laws
from simserve.sim.machines import Machine
from simserve.sim.mixed_pools import MixedPoolCluster, SplitMachine
from simserve.sim.plan import Role
from simserve.sim.request import Seen
from simserve.sim.trace import Trace
from simserve.systems.splitwise import Splitwise, SplitwiseMachine
from simserve.testing.builders import load
from simserve.testing.timeline import steps_of
from simserve.testing.toy import ToyCost

P, D = Role.PREFILL, Role.DECODE


def played(
    requests: list[tuple[int, int, int]], *, prompts: int = 1, tokens: int = 1, rate: int = 10**9, blocks: int = 1001,
    **knobs: int | bool,
) -> tuple[Trace, MixedPoolCluster]:  # fmt: skip
    """Blocks of 10 tokens; the prompt machines come first."""
    cluster = MixedPoolCluster(Splitwise(**knobs), layers=4, kv_bytes_per_token=40)  # type: ignore[arg-type]
    for role in [P] * prompts + [D] * tokens:
        cost = ToyCost(100, 10)
        machine = cluster.add(SplitwiseMachine(), cost, num_gpu_blocks=blocks, block_size=10, make=SplitMachine)
        cluster.place(machine, role, lambda: cluster.link("kv", bandwidth_bytes_per_s=rate))
    trace = cluster.play(load(requests))
    assert [0] * len(cluster.instances) == [i.ledger.used for i in cluster.instances]
    laws.check(trace)
    return trace, cluster


def machines_of(trace: Trace) -> list[tuple[int, int]]:
    """(where the prompt was computed, where it decoded) per request; -1 for the same."""
    return list(zip(trace.requests["prefill_instance"].tolist(), trace.requests["instance"].tolist(), strict=True))


def test_short_prompts_move_when_they_are_done() -> None:
    """20 tokens to 300, 800 bytes to 1100, two decodes of 110 to 1320."""
    trace, _ = played([(0, 20, 3)])

    assert [(0, 1)] == machines_of(trace)
    assert [1100] == trace.requests["kv_arrived_ns"].tolist()
    assert [1320] == trace.requests["finish_ns"].tolist()


@pytest.mark.parametrize(("rate", "arrives"), [(10**9, 300 + 500), (4 * 10**9, 300 + 50), (5 * 10**8, 300 + 1300)])
def test_long_prompts_leave_the_last_layer(rate: int, arrives: int) -> None:
    """20 tokens are long here: 800 bytes, of which a link of 1 byte a ns moves 300 beside their 300 ns; 500 are left.

    At 4 bytes a ns the last of 4 layers is left, at half a byte 650 bytes are.
    """
    trace, _ = played([(0, 20, 2)], rate=rate, overlap_tokens=20)

    assert [arrives] == trace.requests["kv_arrived_ns"].tolist()


def test_the_shortest_queue_gets_the_prompt_and_the_least_filled_the_tokens() -> None:
    """The first two go to different machines of both pools; the third to the one with fewer tokens pending."""
    trace, _ = played([(0, 50, 9), (0, 20, 9), (0, 10, 9)], prompts=2, tokens=2)

    assert [(0, 2), (1, 3), (1, 3)] == machines_of(trace)


def test_a_long_queue_takes_a_token_machine_into_the_mixed_pool() -> None:
    """30 tokens may be pending: the second prompt of 20 finds 20, so one of two token machines computes it, and keeps
    it; the first, on the other one, is in the token pool. When it is done the machine is at home again."""
    trace, cluster = played([(0, 20, 9), (0, 20, 9), (5000, 20, 2)], tokens=2, max_pending_prompt_tokens=30)

    assert [(0, 1), (1, 2), (0, 1)] == machines_of(trace)
    assert set() == cluster.mixed


def test_the_last_token_machine_stays_at_home() -> None:
    """Otherwise nobody would be left in its pool: prompts queue."""
    trace, _ = played([(0, 20, 9), (0, 20, 9)], max_pending_prompt_tokens=30)

    assert [(0, 1), (0, 1)] == machines_of(trace)


def test_a_full_token_pool_takes_a_prompt_machine_which_keeps_what_it_computed() -> None:
    """6 blocks: beside 20 tokens the second request's 45 do not fit, so it stays on the second prompt machine."""
    trace, cluster = played([(0, 20, 9), (0, 45, 3)], prompts=2, blocks=7)

    assert [(0, 2), (-1, 1)] == [machines_of(trace)[0], machines_of(trace)[1]]
    assert -1 == trace.requests["kv_arrived_ns"][1]
    assert 800 == sum(link.moved_bytes for link in cluster._links.values())


def test_without_a_mixed_pool_machines_stay_in_theirs() -> None:
    """The same queues, however long."""
    trace, _ = played([(0, 20, 9), (0, 20, 9)], tokens=2, max_pending_prompt_tokens=30, mixed_pool=False)

    assert [0, 0] == trace.requests["prefill_instance"].tolist()


def test_mixed_machines_are_asked_before_one_of_the_other_pool_joins_them() -> None:
    """The prompt pool is long; a mixed machine has room, so the second token machine stays."""
    machines = [Machine(P, False, 90, 0, 1000), Machine(D, True, 20, 50, 1000), Machine(D, False, 0, 10, 1000)]

    assert (1, 2) == Splitwise(max_pending_prompt_tokens=100).assign(Seen(0, 0, 40), machines)


def test_a_machine_that_does_both_batches_both_in_one_step() -> None:
    """A decode at 300 has the whole prompt of 20 beside it: 100 + 21 x 10, to 610; the second has one token to come."""

    _, steps = steps_of([(0, 20, 3), (250, 20, 1)], SplitwiseMachine())

    assert [{0: 20}, {0: 1, 1: 20}, {0: 1}] == [step.tokens for step in steps]


def test_prompts_are_batched_whole() -> None:
    """A budget of 64: 40 and 20, then 30; 100 tokens alone, in pieces."""

    rows = [(0, 40, 1), (0, 20, 1), (0, 30, 1), (0, 100, 1)]
    _, steps = steps_of(rows, SplitwiseMachine(max_num_batched_tokens=64, max_num_seqs=8))

    assert [{0: 40, 1: 20}, {2: 30}, {3: 64}, {3: 36}] == [step.tokens for step in steps]
