"""Laws of stages: over random workloads with images, every layout, every way in which features and KV move."""

from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simserve.policies.switching import switch
from simserve.sim import laws
from simserve.sim.handover import Handover, KvMode, Stages, Switching
from simserve.sim.images import FeatureStore, Image
from simserve.sim.plan import WorkKind
from simserve.sim.request import Outcome, Request
from simserve.sim.staged import StagedCluster
from simserve.sim.switching import Device
from simserve.sim.trace import Trace
from simserve.spec.stages import Stage
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


@st.composite
def phases(draw: st.DrawFn) -> RequestSet:
    """Requests with large images, then with long prompts, then with many tokens to generate, in any order."""
    rows, shown, now = list[tuple[int, int, int]](), list[tuple[Image, ...]](), 0
    for kind in draw(st.lists(st.sampled_from("EPD"), min_size=2, max_size=6)):
        gap, size = draw(st.sampled_from([0, 500, 3000])), draw(st.integers(5, 30))
        for _ in range(draw(st.integers(3, 20))):
            now += gap
            images = (Image(len(rows), (1,) * size, 8, 50),) if kind == "E" else ()
            prompt = 30 * size if kind == "P" else 10
            rows.append((now, prompt + 8 * len(images), 20 * size if kind == "D" else 3))
            shown.append(images)
        now += draw(st.sampled_from([0, 50_000]))
    return load(rows, images=shown)


def in_its_pool(cluster: StagedCluster, device: Device) -> bool:
    """Whether a device is in the pool of its stage alone, or in none while it moves."""
    found = [device.encoder in cluster.encoders, *(device.instance in p for p in (cluster._prefill, cluster._decode))]
    return found == [device.active and device.stage is stage for stage in (Stage.ENCODE, Stage.PREFILL, Stage.DECODE)]


@pytest.mark.parametrize("layout", ["E-2P-D", "2E-2P-2D", "3E-2P-2D"])
@settings(deadline=None, max_examples=40)
@given(
    requests=st.one_of(loads(), phases()), interval_ns=st.sampled_from([100, 700, 5000, 20_000]), data=st.data(),
    decode_blocks=st.sampled_from([118, 2000]),
)  # fmt: skip
def test_laws_while_gpus_change_their_stage(
    layout: str, requests: RequestSet, interval_ns: int, data: st.DataObject, decode_blocks: int
) -> None:
    """Every stage keeps a GPU, each GPU has one stage, and nobody is rejected, whatever the rule; requests end wherever
    they were when theirs was taken."""
    delay_ns = data.draw(st.sampled_from([0, 1, interval_ns // 2, interval_ns, 3 * interval_ns, 5 * interval_ns]))
    seed, devices = data.draw(st.sampled_from([None, 1, 2])), list[Device]()
    any_stage = Random(seed)

    def rule(queues: Mapping[Stage, float], engines: Mapping[Stage, int]) -> tuple[Stage, Stage] | None:
        pools = (cluster.encoders, cluster._prefill, cluster._decode)
        assert list(engines.values()) == [len(pool) for pool in pools]
        assert min(engines.values()) >= 1
        assert all(in_its_pool(cluster, device) for device in devices)
        if seed is None:
            return switch(queues, engines)
        source, to = any_stage.sample(list(Stage), 2)
        return source, to

    stages = Stages(spread=True, switching=Switching(interval_ns, delay_ns))
    cluster = staged(layout, stages, blocks=2000, decode_blocks=decode_blocks, rule=rule, devices=devices)

    def watch(request: Request, outcome: Outcome) -> None:
        assert outcome is Outcome.FINISHED
        assert all(in_its_pool(cluster, device) for device in devices)

    cluster.watch = watch
    check(cluster, cluster.play(requests))
