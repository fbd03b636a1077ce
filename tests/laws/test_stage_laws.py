"""Laws of stages: over random workloads with images, every layout, every way in which features and KV move."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.policies.switching import switch
from simserve.sim import laws
from simserve.sim.handover import Handover, KvMode, Stages, Switching
from simserve.sim.images import FeatureStore, Image
from simserve.sim.plan import WorkKind
from simserve.sim.staged import StagedCluster
from simserve.sim.trace import Trace
from simserve.testing.builders import load
from simserve.testing.stages import staged
from simserve.workload.requests import RequestSet

LAYOUTS = ("E-P-D", "2E-P-2D", "(E-P)-D", "(E-D)-P", "EP-D", "E-PD", "(E-PD)x2", "TP1x2", "P-D", "EP-PD")
SLOW = {(WorkKind.ENCODE, WorkKind.PREFILL): 2, (WorkKind.DECODE, WorkKind.ENCODE): 3}


@st.composite
def loads(draw: st.DrawFn) -> RequestSet:
    """Up to 20 requests of text, or with up to three of four images."""
    pictures = [Image(i, (1,) * (1 + i % 3), 5 + i, 50 * (1 + i)) for i in range(4)]
    rows, shown, now = [], [], 0
    for _ in range(draw(st.integers(1, 20))):
        now += draw(st.sampled_from([0, 0, 70, 900, 5000]))
        images = tuple(draw(st.lists(st.sampled_from(pictures), max_size=3)))
        rows.append((now, sum(i.tokens for i in images) + draw(st.integers(1, 60)), draw(st.integers(1, 12))))
        shown.append(images)
    return load(rows, images=shown)


@st.composite
def settings_of(draw: st.DrawFn) -> Callable[[str, bool], StagedCluster]:
    """What makes a cluster of a layout."""
    stages = Stages(
        proxy_ns=draw(st.sampled_from([0, 30])), schedule_ns=draw(st.sampled_from([0, 400])),
        schedule_ns_per_token=draw(st.integers(0, 9)), prefetch=draw(st.booleans()), spread=draw(st.booleans()),
        blocking_ns=draw(st.sampled_from([0, 77])), decode_answers=draw(st.booleans()),
    )  # fmt: skip
    mode, handshake, group = draw(st.sampled_from(KvMode)), draw(st.integers(0, 20)), draw(st.integers(1, 500))
    handover = Handover(mode, 10**9, handshake, group, ready=150, window=28, stall_ns=9)
    capacity, blocks = draw(st.sampled_from([None, 0, 160])), draw(st.sampled_from([9, 12, 101]))
    return lambda layout, leap: staged(
        layout, stages, store=FeatureStore(capacity), slow=SLOW, decode_blocks=blocks, handover=handover, leap=leap
    )


def check(cluster: StagedCluster, trace: Trace) -> None:
    """All laws but work conservation, for stages wait for one another; and nothing is left anywhere."""
    for law in (laws.conservation, laws.causality, laws.tokens, laws.lanes, laws.memory):
        law(trace)
    assert all(instance.ledger.used == 0 for instance in cluster.instances)
    assert all(encoder.view.num_running == encoder.view.num_waiting == 0 for encoder in cluster.encoders)
    use = trace.transfers
    assert use is not None
    assert 0 <= use.kv_exposed_ns <= use.kv_ns
    assert 0 <= use.features_exposed_ns <= use.features_ns


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None, max_examples=30)
@given(build=settings_of(), requests=loads())
def test_laws(layout: str, build: Callable[[str, bool], StagedCluster], requests: RequestSet) -> None:
    """And the same run twice is the same, with leaps and without."""
    cluster = build(layout, True)
    trace = cluster.play(requests)

    check(cluster, trace)
    for leap in (True, False):
        other = build(layout, leap).play(requests)
        assert all((trace.requests[name] == column).all() for name, column in other.requests.items())


@settings(deadline=None, max_examples=30)
@given(requests=loads(), interval_ns=st.integers(5, 3000), delay_ns=st.integers(0, 500))
def test_laws_while_gpus_change_their_stage(requests: RequestSet, interval_ns: int, delay_ns: int) -> None:
    """Every stage keeps a GPU; requests end wherever they were when theirs was taken."""
    stages = Stages(spread=True, switching=Switching(interval_ns, delay_ns))
    cluster = staged("3E-2P-2D", stages, decode_blocks=12, rule=switch)
    check(cluster, cluster.play(requests))
    assert cluster.encoders
