"""The highest load within an SLO: bisection by hand, a queue whose capacity is known, real deployments and pools."""

from typing import Any

import numpy as np
import pytest

from simserve.errors import SpecError
from simserve.explore.capacity import CONCURRENCY, RATE, Deployed, Reading, bisect, capacity, judged
from simserve.explore.intervals import mean, paired, student
from simserve.explore.objective import Outcome, SloValue
from simserve.explore.repeats import Repeat, at_load, keeps_up, load_of, repeats, rotated
from simserve.explore.runner import prepare
from simserve.policies.routers import RoundRobin
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.study import StudySpec
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost
from simserve.units import NS_PER_MS, NS_PER_S
from simserve.workload.requests import RequestSet

MS = 1_000_000


def below(limit: float) -> Any:
    """A reading that holds up to `limit`."""
    return lambda x: Reading(x <= limit, "TTFT P90", x / limit - 1)


def test_bisection_by_hand() -> None:
    """4 and 8 hold, 16 breaks; sqrt(8 x 16) = 11.31 breaks, sqrt(8 x 11.31) = 9.51 holds, 10.37 breaks."""
    found = bisect(below(10.0), 4.0, tolerance=0.1)

    assert [x for x, _ in found.tried] == pytest.approx([4, 8, 16, 128**0.5, 8 * 2**0.25, 8 * 2**0.375])
    assert (found.low, found.high) == pytest.approx((8 * 2**0.25, 8 * 2**0.375))
    assert found.broke == "TTFT P90"


@pytest.mark.parametrize("limit", [0.03, 0.9, 1.0, 7.3, 333.3])
@pytest.mark.parametrize("stride", [1.1, 2.0])
def test_the_bracket_encloses_the_limit(limit: float, stride: float) -> None:
    """From either side, to the tolerance that was asked for."""
    found = bisect(below(limit), 1.0, tolerance=0.02, stride=stride)

    assert found.low is not None
    assert found.high is not None
    assert found.low <= limit < found.high <= 1.02 * found.low


@pytest.mark.parametrize(("limit", "expected"), [(1, (1, 2)), (90, (90, 91)), (37.5, (37, 38))])
def test_whole_loads_come_next_to_each_other(limit: float, expected: tuple[int, int]) -> None:
    """A concurrency is a whole number, down to 1."""
    found = bisect(below(limit), 8, tolerance=0.001, whole=True)

    assert (found.low, found.high) == expected
    assert all(x == int(x) for x, _ in found.tried)


def test_no_bracket() -> None:
    """What never holds has no low end, what always holds no high one; a limit on the load is kept."""
    never, always = bisect(below(1e-9), 1.0, tolerance=0.1), bisect(below(1e9), 1.0, tolerance=0.1)
    most = bisect(below(1e9), 8, tolerance=0.1, whole=True, most=20)

    assert (never.low, never.high) == (None, 1 / 1024)
    assert (always.low, always.high) == (1024, None)
    assert (most.low, most.high, [x for x, _ in most.tried]) == (20, None, [8, 16, 20])


def constant(count: int, gap_ns: int) -> RequestSet:
    """Requests of one step each, at equal distances."""
    return load([(i * gap_ns, 1, 1) for i in range(count)])


def one_server(workload: RequestSet) -> Reading:
    """One request at a time, 10 ms each: 100 a second. P90 of TTFT at most 15 ms."""
    scheduler = Vllm(max_num_batched_tokens=8, max_num_seqs=1)
    trace, _ = play(workload, [scheduler], RoundRobin(), ToyCost(base_ns=10 * MS))
    waits = np.sort(trace.requests["first_token_ns"] - trace.requests["arrival_ns"]) / NS_PER_MS
    worst = float(waits[int(np.ceil(0.9 * len(waits))) - 1])
    return Reading(worst <= 15.0, "TTFT P90", worst / 15 - 1)


def test_the_capacity_of_a_queue_by_hand() -> None:
    """At r > 100/s request n waits n (10 - 1000/r) ms; the 180th of 200 (n = 179) 5 ms at r = 100.280."""
    found = capacity(one_server, [Repeat(0, constant(200, 50 * MS))], tolerance=0.001)
    ((_, bracket),) = found.seeds

    assert found.unit == RATE
    assert bracket.low is not None
    assert bracket.high is not None
    assert bracket.low <= 1000 / (10 - 5 / 179) <= bracket.high
    assert found.mean is not None
    assert (found.mean.value, found.mean.low) == (bracket.low, None)


def test_the_interval_holds_the_brackets() -> None:
    """Seeds that agree to the digit are known no better than their brackets: the truth lies above the mean."""
    twice = [Repeat(seed, constant(200, 50 * MS)) for seed in (0, 1)]
    found = capacity(one_server, twice, tolerance=0.05)

    assert found.mean is not None
    assert found.mean.low is not None
    assert found.mean.high is not None
    assert found.mean.value == found.mean.low == found.seeds[0][1].low
    assert found.mean.low < 1000 / (10 - 5 / 179) < found.mean.high


def test_the_number_of_processes_changes_nothing() -> None:
    """Seeds after the first begin where it ended, in whatever process."""
    rng = np.random.default_rng(1)
    sets = [
        Repeat(s, load([(int(t), 1, 1) for t in np.cumsum(rng.exponential(20 * MS, 150))])) for s in range(3)
    ]
    one, two = (capacity(one_server, sets, rate_rps=50.0, jobs=jobs) for jobs in (1, 2))

    assert one == two
    assert one.mean is not None
    assert one.mean.low is not None
    assert one.mean.low < one.mean.value < 100


def test_students_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, 4.303 standard errors of 1 / sqrt(3) to either side."""
    found = mean([1.0, 2.0, 3.0])

    assert student(0.95, 2) == pytest.approx(4.3027, abs=1e-4)
    reach = 4.3027 / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 - reach, 2 + reach), abs=1e-4)
    assert (mean([5.0]).value, mean([5.0]).low) == (5.0, None)


def test_pairs_cancel_what_they_share() -> None:
    """Differences 1, 2, 1.5 of values that differ by hundreds: 1.5 +- 4.303 x 0.5 / sqrt(3)."""
    found = paired([101.0, 502.0, 901.5], [100.0, 500.0, 900.0])
    reach = 4.3027 * 0.5 / 3**0.5

    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5 - reach, 1.5 + reach), abs=1e-4)
    assert not found.holds_zero
    assert paired([1.0, 3.0], [2.0, 2.0]).holds_zero


def test_another_load_is_the_same_requests() -> None:
    """Twice the rate halves every arrival; a closed loop changes its concurrency and nothing else."""
    workload = load([(0, 5, 1), (30, 6, 2), (100, 7, 3)])
    faster = at_load(workload, 4.0, 2.0)
    closed = load([(0, 5, 1), (0, 6, 2)], concurrency=3)

    assert faster.arrival_ns.tolist() == [0, 15, 50]
    assert faster.prompt_tokens.tolist() == [5, 6, 7]
    assert (at_load(closed, 7.0, 3.0).concurrency, load_of(closed)) == (7, 3.0)


def test_a_workload_at_one_instant_has_no_load() -> None:
    """There is no rate to change."""
    with pytest.raises(SpecError, match="all requests arrive at once"):
        load_of(load([(0, 5, 1), (0, 6, 2)]))


def test_a_trace_begins_elsewhere() -> None:
    """From the third of four requests: gaps 30, then the mean gap 20, then 10; lengths go with them."""
    workload = load([(0, 1, 1), (10, 2, 1), (30, 3, 1), (60, 4, 1)], content=[((i, i + 1),) for i in range(4)])
    found = rotated(workload, 2)

    assert found.arrival_ns.tolist() == [0, 30, 50, 60]
    assert found.prompt_tokens.tolist() == [3, 4, 1, 2]
    assert found.content == [((2, 3),), ((3, 4),), ((0, 1),), ((1, 2),)]
    assert rotated(workload, 0) is workload


def test_keeping_up() -> None:
    """100 requests in 10 s that finish in 10 s are kept up with, in 12 s not."""
    came = (np.arange(100) * NS_PER_S // 10).tolist()

    assert keeps_up(came, came)
    assert not keeps_up(came, [round(1.2 * x) for x in came])


def outcome(value: float, turned_away: int = 0) -> Outcome:
    """A run whose TPOT at P90 is `value` of 20 ms."""
    return Outcome(
        deployment=DeploymentSpec(), num_gpus=1, num_gpu_blocks=2, tokens_per_s_per_gpu=1.0, ttft_ms=None,
        tpot_ms=value, usd_per_hour=1.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, value, 20.0),),
        turned_away=turned_away, metrics={},
    )  # fmt: skip


def test_a_reading_names_what_breaks() -> None:
    """The bound that is missed, requests turned away, or a growing queue."""
    found = [judged(outcome(10.0)), judged(outcome(30.0)), judged(outcome(10.0, 3)),
             judged(outcome(10.0), "keeping up with arrivals")]  # fmt: skip

    assert [(r.met, r.nearest) for r in found] == [
        (True, "TPOT P90"), (False, "TPOT P90"), (False, "requests turned away"), (False, "keeping up with arrivals"),
    ]  # fmt: skip
    assert [r.excess for r in found[:2]] == [-0.5, 0.5]


STUDY: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "workload": {"arrivals": {"kind": "poisson", "rate_rps": 10}, "requests": 700,
                 "prompt_tokens": {"kind": "fixed", "value": 500}, "output_tokens": {"kind": "fixed", "value": 50}},
    "slo": {"ttft_ms": 300, "tpot_ms": 25},
}  # fmt: skip


def found_for(data: dict[str, Any], seeds: int = 2) -> Any:
    """The capacity of a study."""
    inputs = prepare(parse(StudySpec, data), base_dir=None)
    play_it = Deployed(inputs.model, inputs.study.deployment, inputs.study.slo)
    arrivals = inputs.study.workload.arrivals
    return capacity(play_it, repeats(inputs.study, seeds, base_dir=None),
                    rate_rps=arrivals.rate_rps if arrivals else None, tolerance=0.05)  # fmt: skip


def test_more_gpus_bear_more() -> None:
    """Two replicas bear about twice as much as one, and a looser SLO more than a tight one."""
    one, two = found_for(STUDY), found_for({**STUDY, "deployment": {"replicas": 2, "router": "least_loaded"}})
    tight = found_for({**STUDY, "slo": {"ttft_ms": 300, "tpot_ms": 12}})

    assert 1.6 < two.mean.value / one.mean.value < 2.6
    assert tight.mean.value < one.mean.value
    assert [seed for seed, _ in one.seeds] == [0, 1]


def test_too_few_requests_for_a_steady_state_are_no_capacity() -> None:
    """150 requests at 250/s have all come before the first one ends: no bracket, and why."""
    workload = {**STUDY["workload"], "requests": 150}
    found = found_for({**STUDY, "workload": workload, "deployment": {"replicas": 4}}, 1)

    assert found.mean is None
    assert "too few requests for a steady state; ask for more" in found.problem()


def test_pools_have_a_capacity() -> None:
    """Prefill and decode on GPUs of their own."""
    found = found_for({**STUDY, "deployment": {"system": "distserve", "pools": {"prefill": {}, "decode": {}}}}, 1)

    assert found.problem() is None
    assert found.mean.value > 5


def test_a_closed_loop_is_asked_for_its_concurrency() -> None:
    """And never has more requests in flight than there are."""
    closed = {**STUDY["workload"], "arrivals": {"kind": "closed_loop", "concurrency": 4}, "requests": 40}
    found = found_for({**STUDY, "workload": closed, "slo": {"tpot_ms": 1000}}, 1)

    assert found.unit == CONCURRENCY
    assert found.mean is None
    assert found.problem() == "no load breaks the SLO, up to 40 concurrent requests (seed 0)"


def test_without_bounds_on_waiting_the_deployment_must_keep_up() -> None:
    """TPOT alone never breaks in a queue that grows without end."""
    found = found_for({**STUDY, "slo": {"tpot_ms": 1000}, "deployment": {"max_num_seqs": 4}}, 1)

    assert found.seeds[0][1].broke == "keeping up with arrivals"
