"""GPUs that go from one stage to another while requests run: sampled queues, a rule, a drained GPU, a delay.

Every GPU here can do every stage; while it does one, its parts for the others stand idle. Queues are sampled five times
between two decisions, as EPD's released code does [C: each second, every 5 s].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simserve.sim.clock import ARRIVAL
from simserve.sim.encoder import Encoder
from simserve.sim.handover import Switching
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.staged import StagedCluster
from simserve.spec.stages import Stage

SAMPLES = 5
Rule = Callable[[Mapping[Stage, float], Mapping[Stage, int]], "tuple[Stage, Stage] | None"]


@dataclass(slots=True)
class Device:
    """The GPUs of one process: its parts for each stage, the stage that it does, and where it goes once drained;
    joining: it is drained and does not take requests of its stage yet."""

    encoder: Encoder
    instance: MultimodalInstance
    stage: Stage
    going: Stage | None = None
    joining: bool = False

    @property
    def active(self) -> bool:
        """Whether it takes requests of its stage."""
        return self.going is None and not self.joining

    @property
    def waiting(self) -> int:
        """Requests in its queue."""
        return (self.encoder if self.stage is Stage.ENCODE else self.instance).view.num_waiting

    @property
    def idle(self) -> bool:
        """Whether nothing is left of its stage, KV that others have not fetched included."""
        view = self.encoder.view if self.stage is Stage.ENCODE else self.instance.view
        return not view.num_waiting and not view.num_running and not self.instance.ledger.used


class RoleSwitcher:
    """Moves devices of a cluster between stages by `rule`, as long as requests are to come or in flight."""

    def __init__(self, cluster: StagedCluster, switching: Switching, devices: Sequence[Device], rule: Rule) -> None:
        self._cluster, self._switching, self._devices, self._rule = cluster, switching, devices, rule
        self._sums = dict.fromkeys(Stage, 0)
        self._samples = 0
        cluster.starting = self._wait

    def _wait(self) -> None:
        clock = self._cluster.clock
        clock.call_at(clock.now_ns + self._switching.interval_ns // SAMPLES, self._tick, ARRIVAL)

    def _tick(self) -> None:
        if self._cluster.is_over:
            return
        for device in self._devices:
            if device.active:
                self._sums[device.stage] += device.waiting
            elif device.going is not None and device.idle:
                self._move(device, device.going)
        self._samples += 1
        if self._samples == SAMPLES:
            self._decide()
            self._samples, self._sums = 0, dict.fromkeys(Stage, 0)
        self._wait()

    def _decide(self) -> None:
        """Ask the rule; the device with the shortest queue stops taking requests, unless it is its stage's last."""
        staying = [device for device in self._devices if device.active]
        engines = {stage: sum(device.stage is stage for device in staying) for stage in Stage}
        found = self._rule({stage: self._sums[stage] / SAMPLES for stage in Stage}, engines)
        if found is None or engines[found[0]] < 2:
            return
        device = min((d for d in staying if d.stage is found[0]), key=lambda d: d.waiting)
        device.going = found[1]
        self._cluster.withdraw(device.encoder, device.instance)

    def _move(self, device: Device, stage: Stage) -> None:
        device.stage, device.going, device.joining = stage, None, True
        self._cluster.use.switches += 1
        clock = self._cluster.clock

        def begin() -> None:
            device.joining = False
            if stage is Stage.ENCODE:
                self._cluster.begins(device.encoder)
            else:
                self._cluster.takes(device.instance, stage)

        clock.call_at(clock.now_ns + self._switching.delay_ns, begin, ARRIVAL)
