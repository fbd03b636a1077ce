"""HTTP and tokenizer before the engine: worked out by hand, in integers."""

from dataclasses import replace

import numpy as np
import pytest

from simserve.perf.host import load_profile
from simserve.policies.routers import RoundRobin
from simserve.run import simulate
from simserve.sim.cluster import Cluster
from simserve.sim.front import FrontEnd
from simserve.sim.trace import Trace
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

# Every step takes 100 ns, whatever is in it.
STEP = ToyCost(base_ns=100)


def played(
    rows: list[tuple[int, int, int]], front: FrontEnd | None, concurrency: int | None = None, *, leap: bool = True
) -> Trace:
    """Requests through the front end into one engine."""
    cluster = Cluster(RoundRobin(), leap=leap)
    cluster.front = front
    cluster.add(Vllm(), STEP, num_gpu_blocks=1001, block_size=16)
    return cluster.play(load(rows, concurrency=concurrency))


def test_prompts_are_tokenized_one_after_the_other() -> None:
    """10 and 20 tokens at 3 ns each and 50 ns of HTTP: at the engine at 80 and 140; a step of 100 ns for each."""
    trace = played([(0, 10, 1), (0, 20, 1)], FrontEnd(50, 3))
    assert trace.requests["arrival_ns"].tolist() == [0, 0]
    assert trace.requests["first_scheduled_ns"].tolist() == [80, 180]
    assert trace.requests["first_token_ns"].tolist() == [180, 280]


def test_work_on_a_request_keeps_the_next_one_waiting() -> None:
    """40 ns for each before its 10 tokens at 3 ns; 50 ns of latency keep nobody: at the engine at 120, 190 and 260."""
    trace = played([(0, 10, 1)] * 3, FrontEnd(50, 3, 40))
    assert trace.requests["first_scheduled_ns"].tolist() == [120, 220, 320]
    apart = played([(0, 10, 1), (1000, 10, 1)], FrontEnd(50, 3, 40))
    assert apart.requests["first_scheduled_ns"].tolist() == [120, 1120]


def test_an_idle_tokenizer_starts_when_a_prompt_comes() -> None:
    """The second prompt comes long after the first is through."""
    trace = played([(0, 10, 1), (1000, 10, 1)], FrontEnd(50, 3))
    assert trace.requests["first_token_ns"].tolist() == [180, 1180]


def test_without_a_front_end_nothing_changes() -> None:
    """And one that costs nothing is none."""
    rows = [(0, 10, 3), (40, 20, 2), (90, 5, 4)]
    plain, free = played(rows, None), played(rows, FrontEnd(0, 0))
    for name, column in plain.requests.items():
        assert column.tolist() == free.requests[name].tolist(), name


def test_a_closed_loop_pays_at_every_turn() -> None:
    """One client, three requests of one token: 80 ns of front end and 100 of engine each."""
    trace = played([(0, 10, 1)] * 3, FrontEnd(50, 3), concurrency=1)
    assert trace.requests["arrival_ns"].tolist() == [0, 180, 360]
    assert trace.requests["finish_ns"].tolist() == [180, 360, 540]


@pytest.mark.parametrize("system", [None, "distserve"])
def test_clients_see_the_profiles_constants(system: str | None) -> None:
    """15.6 ms and 8 us a token more than the engine's own TTFT, for a lone request; through pools as well."""
    pools = {"system": system, "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}} if system else {}
    deployment = DeploymentSpec(calibrated=False, **pools)  # type: ignore[arg-type]
    model, one = load_model("meta-llama/Llama-3.1-8B"), load([(0, 1000, 5)])
    engine, client = (simulate(model, deployment, one, client_side=seen).trace for seen in (False, True))
    extra = client.requests["first_token_ns"] - engine.requests["first_token_ns"]
    assert np.array_equal(extra, [15_600_000 + 8_000 * 1000])


@pytest.mark.parametrize(("each", "first", "last"), [(30, 130, 330), (150, 250, 550)])
def test_tokens_are_streamed_one_after_the_other(each: int, first: int, last: int) -> None:
    """Steps end at 100, 200, 300; 30 ns a token are through before the next one, 150 ns pile up: 250, 400, 550."""
    for leap in (True, False):
        trace = played([(0, 10, 3), (0, 10, 1)], FrontEnd(0, 0, 0, each), concurrency=1, leap=leap)
        assert trace.requests["first_token_ns"].tolist() == [first, last + 100 + each]
        assert trace.requests["finish_ns"].tolist() == [last, last + 100 + each]
        assert trace.requests["arrival_ns"].tolist() == [0, last]
        assert trace.end_ns == last + 100 + each


def test_prompts_and_tokens_wait_for_one_another() -> None:
    """110 ns a token, 40 a request. The first token, of 140, is through at 250, the request of 150 at 290; the token of
    240 comes behind it, 400; that of the second request's step, 290 to 390, at 510.
    """
    trace = played([(0, 10, 2), (150, 10, 1)], FrontEnd(0, 0, 40, 110))
    assert trace.requests["first_scheduled_ns"].tolist() == [40, 290]
    assert trace.requests["first_token_ns"].tolist() == [250, 510]
    assert trace.requests["finish_ns"].tolist() == [400, 510]


def test_streaming_is_the_same_with_and_without_leaps() -> None:
    """A full engine, a request that comes inside what would be a leap, two engines behind one front end."""
    rows = [(0, 10, 100), (0, 10, 90), (9050, 10, 2), (9060, 20, 40)]
    for engines in (1, 2):
        traces = []
        for leap in (True, False):
            cluster = Cluster(RoundRobin(), leap=leap)
            cluster.front = FrontEnd(50, 3, 40, 60)
            for _ in range(engines):
                cluster.add(Vllm(max_num_seqs=1), STEP, num_gpu_blocks=1001, block_size=16)
            traces.append(cluster.play(load(rows)))
        for name, column in traces[0].requests.items():
            assert column.tolist() == traces[1].requests[name].tolist(), name


def test_a_first_token_is_late_once() -> None:
    """100 ns a token: through at 200, when the second step ends, whose token is through at 300, the third's at 400."""
    trace = played([(0, 10, 3)], FrontEnd(0, 0, 0, 100), leap=False)
    assert (trace.requests["first_token_ns"].tolist(), trace.requests["finish_ns"].tolist()) == ([200], [400])


def test_pools_do_not_stream() -> None:
    """What a front end adds to tokens that two pools make is not modelled: as without it."""
    pools = {"system": "distserve", "pools": {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}}
    deployment = DeploymentSpec(calibrated=False, **pools)  # type: ignore[arg-type]
    model, rows = load_model("meta-llama/Llama-3.1-8B"), load([(0, 1000, 5), (10, 500, 9)])
    profile = load_profile("vllm", calibrated=False)
    slow = replace(profile, api_ns_per_output_token=1_000_000_000)
    plain, same = (simulate(model, deployment, rows, client_side=True, profile=p).trace for p in (profile, slow))
    assert plain.requests["finish_ns"].tolist() == same.requests["finish_ns"].tolist()
    alone = DeploymentSpec(calibrated=False)
    late = simulate(model, alone, rows, client_side=True, profile=slow).trace.requests["finish_ns"]
    assert late.tolist()[1] > 5_000_000_000
