"""A cluster of stages from a deployment: which processes share a GPU, who encodes, and who hands over to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from simserve import multimodal
from simserve.arch.memory import kv_bytes_per_token
from simserve.build import build_router
from simserve.engines import Engine, Make, add_replica
from simserve.errors import Infeasible
from simserve.perf.encoders import Encoders
from simserve.perf.host import EngineProfile
from simserve.policies import ROUTERS
from simserve.policies.switching import switch
from simserve.pooled import build_system, kv_link
from simserve.sim.encoder import Encoder
from simserve.sim.handover import PARTS, Handover, KvSender, StagedSystem, TransferUse
from simserve.sim.images import FeatureStore
from simserve.sim.lanes import SharedGpu
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.plan import Router
from simserve.sim.staged import StagedCluster
from simserve.sim.switching import Device, RoleSwitcher
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import ModelSpec
from simserve.spec.stages import Placed, Stage
from simserve.units import NS_PER_MS

NO_WAIT = 1 << 50  # bytes/s of a link that nobody waits for


def encoder_of(model: ModelSpec, own: DeploymentSpec, profile: EngineProfile) -> Encoders | None:
    """What a process's encoders take; None for a model of text alone."""
    return multimodal.encoder(model, load_gpu(own.gpu), own, profile) if model.encoders else None


def check(model: ModelSpec, deployment: DeploymentSpec) -> None:
    """Infeasible where an encoder that is alone on its GPUs does not fit there, and for roles that cannot change."""
    system: StagedSystem = build_system(deployment)
    if system.stages().switching is not None:
        _check_switching(deployment)
    for placed, own in deployment.encoders():
        gpu, size = load_gpu(own.gpu), multimodal.encoder_bytes(model, own.tensor_parallel_size)
        if size > gpu.memory_bytes:
            raise Infeasible(f"the encoder of {placed.name} needs {size} bytes, {gpu.name} has {gpu.memory_bytes}")


def _check_switching(d: DeploymentSpec) -> None:
    """Infeasible unless every GPU could do every stage."""
    every = [d.process(name) for name, _ in d.engines()] + [placed for placed, _ in d.encoders()]
    alone = len({placed.place for placed in every}) == len(every) and bool(d.encoders())
    if any(len(placed.process) > 1 for placed in every) or not alone:
        raise Infeasible(f"role switching needs a GPU for each stage, as in E-P-D or 6E1P1D, not {d.stages}")
    if len({(own.gpu, own.tensor_parallel_size) for _, own in (*d.encoders(), *d.engines())}) > 1:
        raise Infeasible("role switching needs the same gpu and tensor_parallel_size for every stage")


def build(
    model: ModelSpec, deployment: DeploymentSpec, engines: Sequence[Engine], cost_factor: float, link_factor: float,
    leap: bool,
) -> StagedCluster:  # fmt: skip
    """Encoders and engines of `deployment.stages` on their GPUs."""
    return _Builder(model, deployment, engines, cost_factor, link_factor, leap).cluster


def kv_sender(
    model: ModelSpec, deployment: DeploymentSpec, system: StagedSystem, width: int, use: TransferUse,
    alone_ns: Callable[[int], int], link_factor: float = 1.0,
) -> KvSender:  # fmt: skip
    """The link of one process of `width` GPUs: of its own where the deployment names one, else as the system has it."""
    handover: Handover = system.handover()
    rate = handover.bandwidth_bytes_per_s
    if not rate or deployment.kv_link is not None:
        rate = kv_link(deployment).payload_bytes_per_s * width
    layers = model.attention_layers
    per_layer = kv_bytes_per_token(model, deployment.kv_cache_dtype, 1) // layers
    handover = replace(handover, bandwidth_bytes_per_s=round(rate * link_factor))
    return KvSender(handover, layers, per_layer, use, alone_ns)


class _Builder:
    """Puts one cluster together."""

    def __init__(
        self, model: ModelSpec, deployment: DeploymentSpec, engines: Sequence[Engine], factor: float,
        link_factor: float, leap: bool,
    ) -> None:  # fmt: skip
        self.model, self.deployment, self.factor, self.link_factor = model, deployment, factor, link_factor
        self.system: StagedSystem = build_system(deployment)
        self.engines = {engine.name: engine for engine in engines}
        self.encoders = {placed.name: (placed, own) for placed, own in deployment.encoders()}
        self.cluster = StagedCluster(
            self._router(Stage.PREFILL), self._router(Stage.DECODE), ROUTERS.get(self.system.router)(),
            stages=self.system.stages(), store=FeatureStore(self.system.store_bytes if self.encoders else 0),
            snapshot_interval_ns=round(deployment.snapshot_interval_ms * NS_PER_MS), leap=leap,
        )  # fmt: skip
        self._fetch_over_links()
        self.shared = self._shared_gpus()
        for engine in engines:
            self._add(engine, deployment.process(engine.name))
        self.devices: list[Device] = []
        for placed, own in self.encoders.values():
            for _, lanes in zip(range(own.replicas), self._lanes(placed), strict=False):
                self._encoder(own, lanes)
        switching = self.system.stages().switching
        if switching is not None:
            _check_switching(deployment)
            self._add_idle_parts()
            RoleSwitcher(self.cluster, switching, self.devices, switch)

    def _router(self, stage: Stage) -> Router:
        """The router of the first pool that does a stage."""
        own = [e.deployment for name, e in self.engines.items() if stage in self.deployment.process(name).process]
        return build_router(own[0])

    def _fetch_over_links(self) -> None:
        """One for each process that prefills."""
        latency_ns, rate = self.system.feature_link
        fetchers = sum(len(e.instances) for n, e in self.engines.items() if self._does(n, Stage.PREFILL))
        if self.encoders and (latency_ns or rate):
            self.cluster.features = [
                self.cluster.link(f"features {i}", bandwidth_bytes_per_s=rate or NO_WAIT, latency_ns=latency_ns)
                for i in range(fetchers)
            ]

    def _does(self, name: str, stage: Stage) -> bool:
        return stage in self.deployment.process(name).process

    def _shared_gpus(self) -> Mapping[int, list[SharedGpu]]:
        """Place -> the GPUs of each of its copies, for places of several processes."""
        slow = {pair: Fraction(times, PARTS) for pair, times in self.system.slowdowns().items()}
        every = [self.deployment.process(name) for name in self.engines] + [p for p, _ in self.encoders.values()]
        counts = {p.place: sum(o.place == p.place for o in every) for p in every}
        copies = {self.deployment.process(n).place: len(e.instances) for n, e in self.engines.items()}
        return {
            place: [SharedGpu(self.cluster.clock, slow) for _ in range(copies[place])]
            for place, count in counts.items() if count > 1
        }  # fmt: skip

    def _lanes(self, placed: Placed) -> Iterator[SharedGpu | None]:
        """The GPUs of one replica after the other."""
        yield from self.shared.get(placed.place, ())
        while True:
            yield None

    def _add(self, engine: Engine, placed: Placed) -> None:
        """The replicas of one engine, with their part in the stages."""
        make = self._make(engine, always=Stage.ENCODE in placed.process)
        for index, lanes in zip(engine.instances, self._lanes(placed), strict=False):
            self.cluster.takes(self._instance(engine, index, lanes, make), *placed.process)

    def _make(self, engine: Engine, *, always: bool) -> Make:
        """What makes an instance; always: it encodes all images itself."""
        if engine.encoder is None:
            return MultimodalInstance
        encode_ns = multimodal.pass_of(engine.encoder, engine.cost.inner.profile, self.factor)
        encodes = self.cluster.encodes_here(encode_ns, always=always)
        return partial(MultimodalInstance, encodes=encodes, fetches=self.cluster.fetches_here)

    def _instance(self, engine: Engine, index: int, lanes: SharedGpu | None, make: Make) -> MultimodalInstance:
        """One process with the language model, and its link for KV."""
        instance = add_replica(self.cluster, self.model, engine, index, self.factor, make=make, lanes=lanes)
        assert isinstance(instance, MultimodalInstance)
        self.cluster.links(instance, self._sender(engine))
        return instance

    def _sender(self, engine: Engine) -> KvSender:
        alone_ns = partial(_alone_ns, engine, self.factor)
        width = engine.deployment.tensor_parallel_size
        return kv_sender(self.model, self.deployment, self.system, width, self.cluster.use, alone_ns, self.link_factor)

    def _encoder(self, own: DeploymentSpec, lanes: SharedGpu | None = None, *, idle: bool = False) -> Encoder | None:
        """One more process that encodes only; None for a model of text alone."""
        profile = next(e.cost.inner.profile for name, e in self.engines.items() if self._does(name, Stage.PREFILL))
        cost, index = encoder_of(self.model, own, profile), self.cluster.use.encoders
        if cost is None:
            return None
        note = self.cluster.spans.of(f"encoder {index}")
        encode_ns = multimodal.pass_of(cost, profile, self.factor)
        encoder = Encoder(index, self.cluster.clock, encode_ns, gpu=lanes, note=note)
        self.cluster.encodes(encoder, idle=idle)
        return encoder

    def _add_idle_parts(self) -> None:
        """What each GPU needs for the stages that it does not begin with."""
        engine = next(e for name, e in self.engines.items() if self._does(name, Stage.PREFILL))
        for encoder in list(self.cluster.encoders):
            instance = self._instance(engine, len(self.cluster.instances), None, self._make(engine, always=False))
            self.devices.append(Device(encoder, instance, Stage.ENCODE))
        for name, own in self.engines.items():
            (stage,) = self.deployment.process(name).process
            for index in own.instances:
                idle = self._encoder(own.deployment, idle=True)
                mine = self.cluster.instances[index]
                if idle is not None and isinstance(mine, MultimodalInstance):
                    self.devices.append(Device(idle, mine, stage))


def _alone_ns(engine: Engine, factor: float, tokens: int) -> int:
    """The layers of a prompt in steps of its own, without the host."""
    budget, cost = engine.deployment.max_num_batched_tokens, engine.cost.inner
    steps = [cost.step_ns([(min(budget, tokens - start), start)], 0, 0, 1) for start in range(0, tokens, budget)]
    return round((sum(steps) - len(steps) * cost.profile.host_ns_per_step) * factor)
