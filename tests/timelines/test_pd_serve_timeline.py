"""P/D-Serve's gateway, transfer and ratio: timelines worked out by hand, in integers.

A step takes 100 ns and 10 a token, a byte 1 ns, KV 1 byte a token.
"""

import pytest

from simserve.policies.routers import LeastLoaded
from simserve.sim import laws
from simserve.sim.gateway import GatewayCluster
from simserve.sim.machines import Loads
from simserve.sim.plan import InstanceView, Role
from simserve.sim.request import Outcome
from simserve.sim.trace import Trace
from simserve.systems.pd_serve import PdServe, prefills_of
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

MS = 1e-6  # a ns in ms


def played(
    requests: list[tuple[int, int, int]], *, prefills: int = 1, decodes: int = 1, **knobs: float | int | str
) -> tuple[Trace, GatewayCluster]:
    """Blocks of 10 tokens, a budget of 1,000 ns, rounds every 70, one slot, a control message of 5; others by knobs."""
    given = {"ttft_budget_ms": 1000 * MS, "retry_ms": 70 * MS, "prefill_slots": 1, "control_us": 0.005, **knobs}
    system = PdServe(**given)  # type: ignore[arg-type]
    cluster = GatewayCluster(system, LeastLoaded(), kv_bytes_per_token=1)
    for role in [Role.PREFILL] * prefills + [Role.DECODE] * decodes:
        instance = cluster.add(Vllm(), ToyCost(100, 10), num_gpu_blocks=101, block_size=10)
        cluster.place(instance, role, lambda: cluster.link("kv", bandwidth_bytes_per_s=10**9, launch_ns=5))
    trace = cluster.play(load(requests))
    assert [0] * len(cluster.instances) == [i.ledger.used for i in cluster.instances]
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)
    return trace, cluster


def test_a_refused_request_asks_again() -> None:
    """The only slot is taken until 300; the second asks at 0, 70, 140, 210, 280 and 350, and is done at 650."""
    trace, _ = played([(0, 20, 1), (0, 20, 1)])

    assert [0, 350] == trace.requests["first_scheduled_ns"].tolist()
    assert [300, 650] == trace.requests["first_token_ns"].tolist()


def test_the_next_candidate_is_asked_at_once() -> None:
    """The second instance has a slot; the third request waits for the next round after 300."""
    trace, _ = played([(0, 20, 1), (0, 20, 1), (0, 20, 1)], prefills=2)

    assert [0, 1, 0] == trace.requests["instance"].tolist()
    assert [300, 300, 650] == trace.requests["first_token_ns"].tolist()


def test_a_budget_that_is_spent_is_a_rejection() -> None:
    """A prompt of 100 tokens holds the slot to 1100; at 1000 the second has asked for the last time."""
    trace, _ = played([(0, 100, 1), (0, 20, 1)])

    assert [Outcome.FINISHED, Outcome.REJECTED] == trace.requests["outcome"].tolist()
    assert [1100, -1] == trace.requests["first_token_ns"].tolist()


def test_the_last_round_is_at_the_deadline() -> None:
    """The slot is taken until 400. After 350 it asks at the deadline: at 400 the step has not ended, at 401 it has."""
    rejected, _ = played([(0, 30, 1), (0, 20, 1)], ttft_budget_ms=400 * MS)
    accepted, _ = played([(0, 30, 1), (0, 20, 1)], ttft_budget_ms=401 * MS)

    assert Outcome.REJECTED == rejected.requests["outcome"][1]
    assert 401 == accepted.requests["first_scheduled_ns"][1]


def test_more_slots_are_a_batch() -> None:
    """Two slots: both prompts in one step of 500."""
    trace, _ = played([(0, 20, 1), (0, 20, 1)], prefill_slots=2)

    assert [500, 500] == trace.requests["first_token_ns"].tolist()


def test_a_prompt_that_fits_nowhere_is_rejected_at_once() -> None:
    """1,001 tokens do not fit into 100 blocks of 10."""
    trace, cluster = played([(0, 1001, 1)])

    assert [Outcome.REJECTED] == trace.requests["outcome"].tolist()
    assert 0 == cluster.clock.now_ns


@pytest.mark.parametrize(("transfer", "arrives"), [("contiguous", 350 + 5 + 25), ("block_fixed", 350 + 3 * 5 + 25)])
def test_blocks_of_fixed_size_cost_a_control_message_each(transfer: str, arrives: int) -> None:
    """25 tokens in 3 blocks; 5 ns for each piece, 25 for the bytes."""
    trace, _ = played([(0, 25, 3)], kv_transfer=transfer)

    assert [arrives] == trace.requests["kv_arrived_ns"].tolist()
    assert [arrives + 2 * 110] == trace.requests["finish_ns"].tolist()


def test_the_ratio_makes_the_slower_pool_as_fast_as_can_be() -> None:
    """10 instances: equal rates 5 to 5; a prefill four times as fast 2 to 8; never none."""
    assert [5, 2, 8, 1, 9] == [prefills_of(10, *rates) for rates in ((1, 1), (4, 1), (1, 4), (1000, 1), (1, 1000))]


def test_a_change_is_one_instance_towards_the_ratio() -> None:
    """4 slots for 100 ns and 64 for 6,400: 4 against 1 in rate; 2 of 10 prefill."""
    system = PdServe(prefill_slots=4, decode_slots=64)
    changes = [system.change(Loads(p, 10 - p, 100, 6400)) for p in (1, 2, 3, 9)]

    assert [Role.PREFILL, None, Role.DECODE, Role.DECODE] == changes
    assert system.change(Loads(3, 7, 0, 6400)) is None
    assert system.change(Loads(3, 7, 100, 0)) is None


def test_an_instance_drains_and_comes_back_in_its_new_role() -> None:
    """Prompts keep a slot for 300 ns, decodes for more: at 1000 the ratio wants one of the two that prefill to decode.

    Both are idle, so the first one leaves at once; 500 ns later it decodes. The third request is prefilled by the other
    one, from 1200 to 1500, and moves in 5 + 20: it decodes where there is nothing to do.
    """
    trace, cluster = played(
        [(0, 20, 50), (0, 20, 5), (1200, 20, 9)], prefills=2, rebalance_s=1000e-9, move_s=500e-9, decode_slots=1,
        ttft_budget_ms=1,
    )  # fmt: skip

    assert (1500, 0, Role.DECODE) == cluster.moves[0]
    assert [0, 1, 1] == trace.requests["prefill_instance"].tolist()
    assert [2, 2, 0] == trace.requests["instance"].tolist()
    assert 1525 == trace.requests["kv_arrived_ns"][2]


def test_candidates_are_in_order_of_their_open_requests() -> None:
    """Fewest first, the first among equals."""
    views = [InstanceView(i, num_running=n) for i, n in enumerate((2, 0, 1, 0))]

    assert [1, 3, 2, 0] == list(PdServe().candidates(views))
