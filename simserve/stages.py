"""A cluster of stages from a deployment: which processes share a GPU, who encodes, and who hands over to whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from simserve import multimodal
from simserve.arch.memory import kv_bytes_per_token
from simserve.build import build_router, engine_profile
from simserve.engines import Engine, add_replica
from simserve.errors import Infeasible
from simserve.perf.encoders import Encoders
from simserve.policies import ROUTERS
from simserve.pooled import build_system, kv_link
from simserve.sim.encoder import EncodeNs, Encoder
from simserve.sim.handover import PARTS, Handover, KvSender, StagedSystem, TransferUse
from simserve.sim.images import FeatureStore
from simserve.sim.lanes import SharedGpu
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.plan import Router
from simserve.sim.staged import StagedCluster
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import ModelSpec
from simserve.spec.stages import Placed, Stage

NO_WAIT = 1 << 50  # bytes/s of a link that nobody waits for


def encoder_of(model: ModelSpec, engine: DeploymentSpec) -> Encoders | None:
    """What a process's encoders take; None for a model of text alone."""
    if not model.encoders:
        return None
    return multimodal.encoder(model, load_gpu(engine.gpu), engine, engine_profile(engine))


def pass_of(cost: Encoders, own: DeploymentSpec, factor: float = 1.0) -> EncodeNs:
    """What a pass of a process's encoders takes, with what its host adds."""
    host_ns = engine_profile(own).encode_host_ns
    return lambda images: round((cost.encode_ns(images) + host_ns) * factor)


def check(model: ModelSpec, deployment: DeploymentSpec) -> None:
    """Infeasible where an encoder that is alone on its GPUs does not fit there."""
    for placed, own in deployment.encoders():
        gpu, size = load_gpu(own.gpu), multimodal.encoder_bytes(model, own.tensor_parallel_size)
        if size > gpu.memory_bytes:
            raise Infeasible(f"the encoder of {placed.name} needs {size} bytes, {gpu.name} has {gpu.memory_bytes}")


def build(
    model: ModelSpec, deployment: DeploymentSpec, engines: Sequence[Engine], cost_factor: float, link_factor: float,
    snapshot_interval_ns: int,
) -> StagedCluster:  # fmt: skip
    """Encoders and engines of `deployment.stages` on their GPUs."""
    return _Builder(model, deployment, engines, cost_factor, link_factor, snapshot_interval_ns).cluster


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
        link_factor: float, snapshot_interval_ns: int,
    ) -> None:  # fmt: skip
        self.model, self.deployment, self.factor, self.link_factor = model, deployment, factor, link_factor
        self.system: StagedSystem = build_system(deployment)
        self.engines = {engine.name: engine for engine in engines}
        self.encoders = {placed.name: (placed, own) for placed, own in deployment.encoders()}
        router = self._router(Stage.PREFILL)
        self.cluster = StagedCluster(
            router, self._router(Stage.DECODE), ROUTERS.get(self.system.router)(), stages=self.system.stages(),
            store=FeatureStore(self.system.store_bytes if self.encoders else 0),
            snapshot_interval_ns=snapshot_interval_ns,
        )  # fmt: skip
        self._fetch_over_a_link()
        self.shared = self._shared_gpus()
        for engine in engines:
            self._add(engine, deployment.process(engine.name))
        for name in self.encoders:
            self._add_encoders(name)

    def _router(self, stage: Stage) -> Router:
        """The router of the first pool that does a stage."""
        own = [e.deployment for name, e in self.engines.items() if stage in self.deployment.process(name).process]
        return build_router(own[0])

    def _fetch_over_a_link(self) -> None:
        """As wide as all processes that prefill together."""
        latency_ns, rate = self.system.feature_link
        fetchers = sum(len(e.instances) for n, e in self.engines.items() if self._does(n, Stage.PREFILL))
        if self.encoders and (latency_ns or rate):
            self.cluster.features = self.cluster.link(
                "features", bandwidth_bytes_per_s=rate * fetchers or NO_WAIT, latency_ns=latency_ns
            )

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
        make: Callable[..., MultimodalInstance] = MultimodalInstance
        if Stage.PREFILL in placed.process and engine.encoder is not None:
            always = Stage.ENCODE in placed.process
            encodes = self.cluster.encodes_here(pass_of(engine.encoder, engine.deployment, self.factor), always=always)
            make = partial(MultimodalInstance, encodes=encodes, fetches=self.cluster.fetches_here)
        for index, lanes in zip(engine.instances, self._lanes(placed), strict=False):
            instance = add_replica(self.cluster, self.model, engine, index, self.factor, make=make, lanes=lanes)
            if {Stage.PREFILL, Stage.DECODE} <= placed.process:
                self.cluster.serves(instance)
            elif Stage.PREFILL in placed.process:
                self.cluster.sends(instance, self._sender(engine))
            else:
                self.cluster.decodes(instance)

    def _sender(self, engine: Engine) -> KvSender:
        alone_ns = partial(_alone_ns, engine, self.factor)
        width = engine.deployment.tensor_parallel_size
        return kv_sender(self.model, self.deployment, self.system, width, self.cluster.use, alone_ns, self.link_factor)

    def _add_encoders(self, name: str) -> None:
        """The replicas of a process that encodes only."""
        placed, own = self.encoders[name]
        cost = encoder_of(self.model, own)
        if cost is None:
            return
        encode_ns = pass_of(cost, own, self.factor)
        for _, lanes in zip(range(own.replicas), self._lanes(placed), strict=False):
            index = len(self.cluster.encoders)
            note = self.cluster.spans.of(f"encoder {index}")
            self.cluster.encodes(Encoder(index, self.cluster.clock, encode_ns, gpu=lanes, note=note))


def _alone_ns(engine: Engine, factor: float, tokens: int) -> int:
    """The layers of a prompt in steps of its own, without the host."""
    budget, cost = engine.deployment.max_num_batched_tokens, engine.cost.inner
    steps = [cost.step_ns([(min(budget, tokens - start), start)], 0, 0, 1) for start in range(0, tokens, budget)]
    return round((sum(steps) - len(steps) * cost.profile.host_ns_per_step) * factor)
