"""Routers on hand-made views, their draws, and free blocks that are exact inside a leap."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from simserve.policies import ROUTERS
from simserve.policies.hashing import consistent, mix
from simserve.policies.routers import LeastKv, LeastLoaded, PowerOfTwo, Random, RoundRobin
from simserve.policies.routers_affinity import PrefixAffinity, SessionAffinity
from simserve.sim.instance import Instance
from simserve.sim.plan import InstanceView
from simserve.sim.request import Seen
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


def views(*states: tuple[int, int]) -> list[InstanceView]:
    """Instances of 100 blocks from (requests, used blocks)."""
    return [
        InstanceView(i, num_running=n - n // 2, num_waiting=n // 2, free_blocks=100 - used, total_blocks=100)
        for i, (n, used) in enumerate(states)
    ]


def asked(id: int, content: tuple[tuple[int, int], ...] | None = None, session: int = -1) -> Seen:
    """A request of 100 tokens."""
    return Seen(id, 0, 100, content=content, session=session)


def test_load_and_blocks_decide() -> None:
    """Fewest requests; fewest used blocks, also where instances differ in size; the first among equals."""
    state = views((5, 10), (3, 30), (3, 10), (9, 5))
    bigger = [*state, InstanceView(4, num_running=1, free_blocks=400, total_blocks=404)]

    assert (1, 3, 4) == tuple(
        r.route(asked(0), v) for r, v in ((LeastLoaded(), state), (LeastKv(), state), (LeastKv(), bigger))
    )
    assert 2 == LeastKv().route(asked(0), views((5, 10), (3, 30), (3, 10), (9, 11)))


def test_random_is_uniform_reproducible_and_stateless() -> None:
    """A third each, the same for the same seed and id in any order, others for another seed."""
    state = views((0, 0), (9, 0), (0, 0))
    drawn = [Random().route(asked(i), state) for i in range(9000)]

    assert [Counter(drawn)[i] for i in range(3)] == pytest.approx([3000] * 3, rel=0.05)
    assert drawn[::-1] == [Random().route(asked(i), state) for i in reversed(range(9000))]
    assert drawn != [Random(seed=1).route(asked(i), state) for i in range(9000)]


def test_power_of_two_never_takes_the_busiest_and_draws_all_pairs() -> None:
    """Of three instances the busiest loses each pair; the idlest wins two thirds."""
    state = views((2, 0), (9, 0), (5, 0))
    drawn = Counter(PowerOfTwo().route(asked(i), state) for i in range(9000))

    assert (0, 6000, 3000) == (drawn[1], pytest.approx(drawn[0], rel=0.05), pytest.approx(drawn[2], rel=0.05))
    assert 0 == PowerOfTwo().route(asked(1), views((9, 0)))


def test_common_prefixes_go_to_one_instance() -> None:
    """The first 256 tokens decide, however they are cut off; other prefixes spread over all instances."""
    state = views(*[(0, 0)] * 4)
    router = PrefixAffinity()
    same = {router.route(asked(i, ((7, 300), (-2 * i - 1, 50))), state) for i in range(50)}
    spread = Counter(router.route(asked(i, ((i, 300),)), state) for i in range(4000))

    assert 1 == len(same)
    assert [spread[i] for i in range(4)] == pytest.approx([1000] * 4, rel=0.12)
    assert 4 == len({PrefixAffinity(prefix_tokens=301).route(asked(i, ((7, 300), (-2 * i - 1, 9))), state)
                     for i in range(50)})  # fmt: skip


def test_prefix_affinity_is_bounded() -> None:
    """16 requests more than the least loaded are allowed, 17 are not."""
    idle, content = views(*[(0, 0)] * 3), ((7, 300),)
    chosen = PrefixAffinity().route(asked(0, content), idle)
    others = [(3, 0), (4, 0)]

    def at(load: int) -> int:
        states = [*others[:chosen], (load, 0), *others[chosen:]]
        return PrefixAffinity().route(asked(0, content), views(*states))

    assert chosen == at(19)
    assert chosen != at(20)


def test_sessions_stay_where_they_are() -> None:
    """Whatever the load; requests without a session go to the least loaded instance."""
    router = SessionAffinity()
    first = [router.route(asked(i, session=i), views(*[(0, 0)] * 4)) for i in range(400)]
    later = [router.route(asked(i + 999, session=i), views((90, 0), (0, 0), (50, 0), (7, 0))) for i in range(400)]

    assert first == later
    assert {0, 1, 2, 3} == set(first)
    assert 1 == router.route(asked(0), views((5, 0), (2, 0)))


def test_few_keys_move_when_an_instance_leaves() -> None:
    """Only those of the instance that left."""
    four = views(*[(0, 0)] * 4)
    moved = [key for key in range(400) if consistent(mix(key), four) != consistent(mix(key), four[:3])]

    assert moved == [key for key in range(400) if consistent(mix(key), four) == 3]


def growing(leap: bool) -> Trace:
    """Two instances; the one with more requests has fewer blocks at first and more after its decode steps."""
    rows = [(0, 60, 40), (0, 8, 40), (1, 30, 40), *[(n * 157, 3, 20) for n in range(3, 40)]]
    return play(load(rows), [Vllm(), Vllm()], LeastKv(), COST, block_size=4, leap=leap)[0]


def test_least_kv_sees_the_blocks_of_a_leap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leap on == leap off; without the refresh they differ."""
    stepping, leaping = growing(False), growing(True)
    monkeypatch.setattr(Instance, "refresh_view", lambda self: None)
    stale = growing(True)

    assert stepping.requests["instance"].tolist() == leaping.requests["instance"].tolist()
    assert stepping.requests["finish_ns"].tolist() == leaping.requests["finish_ns"].tolist()
    assert stepping.requests["instance"].tolist() != stale.requests["instance"].tolist()


def test_blocks_inside_a_leap_by_hand() -> None:
    """8 tokens, blocks of 4: two blocks until the prompt's step ends at 180, then one more every fourth of 110."""
    seen: list[tuple[int, int]] = []

    @dataclasses.dataclass
    class Noting(RoundRobin):
        reads_blocks = True

        def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
            seen.append((request.arrival_ns, views[0].total_blocks - views[0].free_blocks))
            return 1 if request.id else 0

    times = [0, 100, 180, 181, 620, 621, 1060, 1061, 1149]
    play(load([(t, 8, 10) for t in times]), [Vllm(), Vllm()], Noting(), COST, block_size=4)

    assert [(0, 0), (100, 2), (180, 2), (181, 3), (620, 3), (621, 4), (1060, 4), (1061, 5), (1149, 5)] == seen


def test_every_router_gives_a_valid_index_for_one_instance_and_many() -> None:
    """Whatever the views."""
    rng = np.random.default_rng(0)
    for name in ROUTERS.names():
        router = ROUTERS.get(name)()
        for count in (1, 2, 7):
            for i in range(50):
                state = views(*[(int(a), int(b)) for a, b in rng.integers(0, 40, (count, 2))])
                assert 0 <= router.route(asked(i, session=i % 3 - 1), state) < count
