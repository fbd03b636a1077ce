"""GPUs that change their stage, by hand: when they belong to one, and how long encoders count as such."""

from __future__ import annotations

from collections.abc import Mapping

from simserve.metrics.stages import stage_metrics
from simserve.sim.handover import Stages, Switching
from simserve.sim.images import Image
from simserve.sim.switching import Device, Rule
from simserve.spec.stages import Stage
from simserve.testing.builders import load
from simserve.testing.stages import staged

FIRST = Image(1, (4,), 8, 0)  # 4,000 ns to encode
SECOND = Image(2, (3,), 8, 0)
TEXT = (10, 200)  # tokens of prompt and output: 200 to the first token, then 199 steps of 110


def once(source: Stage, to: Stage, seen: list[list[int]]) -> Rule:
    """A rule that moves one GPU at the first decision, and notes the GPUs of each stage at every one."""

    def rule(queues: Mapping[Stage, float], engines: Mapping[Stage, int]) -> tuple[Stage, Stage] | None:
        seen.append(list(engines.values()))
        return (source, to) if len(seen) == 1 else None

    return rule


def test_a_gpu_that_joins_counts_from_when_it_begins() -> None:
    """Decisions at 1,000, 2,000, ...; the GPU is found drained at 1,200, joins until 1,200 + 3,300, decodes then."""
    seen, devices = list[list[int]](), list[Device]()
    rule = once(Stage.ENCODE, Stage.DECODE, seen)
    cluster = staged("2E-P-D", Stages(switching=Switching(1000, 3300)), rule=rule, devices=devices, blocks=2000)
    cluster.play(load([(0, *TEXT)]))

    assert seen[:6] == [[2, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 2], [1, 1, 2]]
    assert [device.stage for device in devices].count(Stage.DECODE) == 2
    assert cluster.use.switches == 1


def test_the_last_gpu_of_a_stage_stays() -> None:
    """Whatever the rule asks."""
    seen = list[list[int]]()
    cluster = staged("E-P-2D", Stages(switching=Switching(1000)), rule=once(Stage.PREFILL, Stage.DECODE, seen))
    cluster.play(load([(0, *TEXT)]))
    assert set(map(tuple, seen)) == {(1, 1, 2)}


def test_an_encoder_counts_until_it_is_drained() -> None:
    """They encode from 500 to 4,500 and 3,500; nothing waits, so the first is withdrawn, at 1,000; the other stays."""
    rule = once(Stage.ENCODE, Stage.DECODE, [])
    cluster = staged("2E-P-D", Stages(switching=Switching(1000)), rule=rule, blocks=2000)
    trace = cluster.play(load([(0, 10, 5), (500, 10, 200), (500, 10, 200)], images=[(), (FIRST,), (SECOND,)]))
    end_ns = int(trace.requests["finish_ns"].max())
    drained_ns = 4500

    assert cluster.use.encode_ns == 4000 + 3000
    assert cluster.use.encoders_ns == end_ns + drained_ns
    found = stage_metrics(trace.transfers)
    assert found is not None
    assert found.encoder_busy == 7000 / (end_ns + drained_ns)


def test_an_encoder_that_began_as_another_counts_from_then() -> None:
    """A GPU that has decoded encodes from 1,200 + 500 on; the other decodes."""
    cluster = staged("E-P-2D", Stages(switching=Switching(1000, 500)), rule=once(Stage.DECODE, Stage.ENCODE, []),
                     blocks=2000)  # fmt: skip
    trace = cluster.play(load([(0, 10, 3), (300, 10, 200)]))
    assert len(cluster.encoders) == 2
    assert cluster.use.encoders_ns == 2 * int(trace.requests["finish_ns"].max()) - 1700


def test_encoders_that_stay_count_all_the_time() -> None:
    """From the first arrival on, the same where GPUs could move and do not."""
    rows, images = [(700, 10, 20), (900, 10, 20)], [(FIRST,), ()]
    still = staged("2E-2P-D", Stages())
    able = staged("2E-2P-D", Stages(switching=Switching(1000)), rule=lambda queues, engines: None)
    for cluster in (still, able):
        trace = cluster.play(load(rows, images=images))
        assert cluster.use.encoders_ns == 2 * (int(trace.requests["finish_ns"].max()) - 700)
