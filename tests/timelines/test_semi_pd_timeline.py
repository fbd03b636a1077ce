"""semi-PD's two workers on one GPU: timelines worked out by hand, in integers.

A step takes 100 ns and 10 a token alone; prompts are bound by compute, decodes by memory, of which 35 % of the SMs
get all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest

from simserve.perf.lane_split import LanePart
from simserve.policies.routers import LeastLoaded
from simserve.sim import laws
from simserve.sim.clock import Clock
from simserve.sim.partition import PartitionedGpu
from simserve.sim.plan import Lane, WorkKind
from simserve.sim.shared_pool import SharedPoolCluster
from simserve.sim.shares import Window
from simserve.sim.trace import Trace
from simserve.systems.semi_pd import SemiPd, SemiPdWorker
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)
P, D = WorkKind.PREFILL, WorkKind.DECODE


def split(prefill: Sequence[tuple[int, int]], seqs: int, context: int, sampled: int, price_ns: int) -> list[LanePart]:
    return [LanePart(compute_ns=price_ns) if prefill else LanePart(hbm_ns=price_ns)]


def played(
    requests: list[tuple[int, int, int]], *, shares: tuple[int, int] = (100, 100), blocks: int = 1001,
    chunk: int = 8192, pairs: int = 1,
) -> tuple[Trace, SharedPoolCluster]:  # fmt: skip
    """Blocks of 10 tokens."""
    system = SemiPd(prefill_share=shares[0], decode_share=shares[1])
    cluster = SharedPoolCluster(LeastLoaded(), controller=system.controller, split=split)
    for _ in range(pairs):
        cluster.add(SemiPdWorker(max_num_batched_tokens=chunk), COST, num_gpu_blocks=blocks, block_size=10)
    trace = cluster.play(load(requests))
    assert [0] * 2 * pairs == [i.ledger.used for i in cluster.instances]
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)
    return trace, cluster


def times(trace: Trace) -> list[tuple[int, int]]:
    """(first token, finish) per request."""
    return list(zip(trace.requests["first_token_ns"].tolist(), trace.requests["finish_ns"].tolist(), strict=True))


def test_decoding_goes_on_at_once_where_the_prompt_was_computed() -> None:
    """20 tokens to 300, two decodes of 110 to 520: no transfer, and the blocks are those of one pool."""
    trace, cluster = played([(0, 20, 3)])

    assert [(300, 520)] == times(trace)
    assert ([0], [1]) == (trace.requests["prefill_instance"].tolist(), trace.requests["instance"].tolist())
    assert cluster.instances[0].ledger is cluster.instances[1].ledger
    assert [3, 3, 3] == trace.steps["used_blocks"].tolist()
    assert not any("kv" in name for name in trace.resources)


@pytest.mark.parametrize(
    ("shares", "first", "finish"),
    [((50, 50), 600, 600 + 2 * 110), ((100, 35), 300, 300 + 2 * 110), ((100, 20), 300, 300 + 2 * 193)],
)
def test_compute_goes_with_the_share_and_memory_does_not_until_few_sms_are_left(
    shares: tuple[int, int], first: int, finish: int
) -> None:
    """Half of the SMs take twice as long for a prompt; a fifth reads HBM at 20/35 of its rate: 192.5 ns."""
    assert [(first, finish)] == times(played([(0, 20, 3)], shares=shares)[0])


def test_more_than_all_sms_are_shared_while_both_work() -> None:
    """100 and 100 are 50 and 50 for a prompt of 400 beside decodes, which do not feel it: 800 ns, from 1000."""
    trace, _ = played([(0, 20, 50), (1000, 30, 1)])

    assert [(300, 300 + 49 * 110), (1800, 1800)] == times(trace)


def test_a_share_is_a_cap_even_when_the_other_worker_is_idle() -> None:
    """60 and 40 do not contend: 400 / 0.6, with or without decodes beside it."""
    alone, _ = played([(1000, 30, 1)], shares=(60, 40))
    beside, _ = played([(0, 20, 50), (1000, 30, 1)], shares=(60, 40))

    assert alone.requests["first_token_ns"][0] == beside.requests["first_token_ns"][1] == 1000 + 667


def test_prompts_are_cut_into_chunks_first_come_first_served() -> None:
    """Chunks of 64: 64 of the first to 740, its last 6 and 58 of the second to 1480, 2 to 1600."""
    trace, _ = played([(0, 70, 1), (0, 60, 1)], chunk=64)

    assert [1480, 1600] == trace.requests["first_token_ns"].tolist()


def test_a_prompt_waits_for_blocks_that_the_decode_worker_holds() -> None:
    """6 blocks in one pool: the first has 3, the second needs 5 (with its first token), which are free at 740."""
    trace, _ = played([(0, 20, 5), (0, 40, 1)], blocks=7)

    assert [(300, 740), (740 + 500, 740 + 500)] == times(trace)
    assert [0, 740] == trace.requests["first_scheduled_ns"].tolist()


def test_a_prompt_has_a_slot_for_its_first_token() -> None:
    """5 blocks: 20 tokens fill 2, but with their first token they need 3, so the second prompt waits until 740."""
    trace, _ = played([(0, 20, 5), (0, 20, 2)], blocks=6)

    assert [(300, 740), (740 + 300, 740 + 300 + 110)] == times(trace)


def test_what_a_shortage_preempts_is_computed_again_by_the_prefill_worker() -> None:
    """6 blocks, two requests of 3 that grow at 31 tokens: the second goes back, and waits for 4 blocks.

    Both decode from 500 in steps of 120; at 1700 the first needs a fourth block, and ends at 1810. Then the 31 tokens
    of the second take 410, after which it has all 12.
    """
    trace, _ = played([(0, 20, 12), (0, 20, 12)], blocks=7)

    assert [0, 1] == trace.requests["preemptions"].tolist()
    assert [(500, 1810), (500, 2220)] == times(trace)
    assert [1, 0] == trace.requests["instance"].tolist()


def test_the_router_sees_pairs() -> None:
    """The second request goes to the other pair, for the first has one that decodes."""
    trace, _ = played([(0, 20, 9), (500, 20, 9)], pairs=2)

    assert [1, 3] == trace.requests["instance"].tolist()


@dataclass
class Scripted:
    """A controller that gives prefill 25 per cent after two decode steps."""

    window_size: int = 2
    shares: tuple[int, int] = (100, 100)
    windows: list[Window] = field(default_factory=list)

    def adjust(self, window: Window) -> tuple[int, int]:
        self.windows.append(window)
        return (25, 100)


def test_a_switch_counts_from_a_workers_next_step() -> None:
    """Decided at 520, while a prompt of 400 runs that began at 500: it keeps its SMs, the next has a quarter.

    Beside it a decode ends at 520; the decode worker is then idle. From 500 to 520 both shares shrink to 50, so the
    prompt has done 10 and goes on alone to 910; the next takes 4 x 400 from there.
    """
    controller = Scripted()
    cluster = SharedPoolCluster(LeastLoaded(), controller=lambda: controller, split=split)
    cluster.add(SemiPdWorker(), COST, num_gpu_blocks=1001, block_size=10)
    trace = cluster.play(load([(0, 20, 3), (500, 30, 1), (501, 30, 1)]))

    assert [(300, 520), (910, 910), (2510, 2510)] == times(trace)
    assert [(0, 100, 100), (520, 25, 100)] == cluster.pairs[0].decisions
    assert [Window((300,), (110, 110), 300 / 520)] == controller.windows


def test_hbm_that_both_ask_for_slows_both() -> None:
    """A prompt that uses half of HBM uses a quarter at half of the SMs; beside decodes that is 5/4 of what there is."""
    gpu = PartitionedGpu(Clock(), {P: 100, D: 100})
    gpu.start(P, {Lane.COMPUTE: 400, Lane.HBM: 200}, lambda: None, 1)
    gpu.start(D, {Lane.HBM: 100}, lambda: None, 1)

    assert [Fraction(2, 5), Fraction(4, 5)] == pytest.approx(gpu._rates(), abs=1e-5)


def test_collectives_and_the_host_need_no_sms() -> None:
    """They run at full pace whatever the share, and leave the SMs to the other worker."""
    gpu = PartitionedGpu(Clock(), {P: 20, D: 100})
    gpu.start(P, {Lane.NETWORK: 100}, lambda: None, 1)
    gpu.start(D, {Lane.COMPUTE: 100}, lambda: None, 1)

    assert [1, 1] == gpu._rates()
