"""A cluster of stages with toy prices, from a layout: for timelines and laws.

An image takes 1,000 ns to encode for each row; a step 100 ns and 10 a token; features move at 1 byte a ns for each
process that prefills; KV has 4 layers of 1 byte a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial

from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.sim.encoder import Encoder
from simserve.sim.handover import Handover, KvMode, KvSender, Stages
from simserve.sim.images import FeatureStore, Image
from simserve.sim.lanes import SharedGpu
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.plan import WorkKind
from simserve.sim.staged import StagedCluster
from simserve.sim.switching import Device, RoleSwitcher, Rule
from simserve.spec.stages import Process, Stage, parse_stages
from simserve.systems.vllm import Vllm
from simserve.testing.toy import ToyCost
from simserve.units import GB

COST = ToyCost(base_ns=100, per_token_ns=10)
LAYERS = 4
AT_ONCE = Handover(KvMode.SYNCHRONOUS, 4 * GB)  # 1 ns a token
Slow = Mapping[tuple[WorkKind, WorkKind], Fraction]


def encode_ns(images: Sequence[Image]) -> int:
    """1,000 ns a row."""
    return 1000 * sum(sum(image.rows) for image in images)


def staged(
    layout: str, stages: Stages, *, store: FeatureStore | None = None, slow: Slow | None = None, blocks: int = 101,
    decode_blocks: int | None = None, handover: Handover = AT_ONCE, rule: Rule | None = None,
    leap: bool = True, devices: list[Device] | None = None,
) -> StagedCluster:  # fmt: skip
    """slow: of processes that share a GPU; blocks: of each instance, decode_blocks of those that only decode; rule: of
    switching, for layouts of one stage a process; devices: gets those of switching."""
    cluster = StagedCluster(
        RoundRobin(), RoundRobin(), LeastLoaded(), stages=stages, store=store or FeatureStore(), leap=leap
    )
    places = parse_stages(layout)
    prompts = sum(place.count for place in places if any(Stage.PREFILL in process for process in place.processes))
    cluster.features = [cluster.link(f"features {index}", bandwidth_bytes_per_s=GB) for index in range(prompts)]
    devices = [] if devices is None else devices
    for place in places:
        for _ in range(place.count):
            gpu = SharedGpu(cluster.clock, slow or {}) if len(place.processes) > 1 else None
            for process in place.processes:
                size = decode_blocks if process == {Stage.DECODE} and decode_blocks else blocks
                _add(cluster, process, gpu, size, handover, devices if rule is not None else None)
    if rule is not None and stages.switching is not None:
        RoleSwitcher(cluster, stages.switching, devices, rule)
    return cluster


def _add(
    cluster: StagedCluster, process: Process, gpu: SharedGpu | None, blocks: int, handover: Handover,
    devices: list[Device] | None,
) -> None:  # fmt: skip
    """One process; with its idle parts for other stages where GPUs change theirs."""
    alone = process == {Stage.ENCODE}
    index = cluster.use.encoders
    if alone or devices is not None:
        note = cluster.spans.of(f"encoder {index}")
        encoder = Encoder(index, cluster.clock, encode_ns, gpu=gpu, note=note)
        cluster.encodes(encoder, idle=not alone)
    if alone and devices is None:
        return
    make = partial(
        MultimodalInstance, encodes=cluster.encodes_here(encode_ns, always=Stage.ENCODE in process and not alone),
        fetches=cluster.fetches_here,
    )  # fmt: skip
    instance = cluster.add(Vllm(), COST, num_gpu_blocks=blocks, block_size=16, make=make, gpu=gpu)
    cluster.links(instance, KvSender(handover, LAYERS, 1, cluster.use, lambda tokens: 0))
    if not alone:
        cluster.takes(instance, *process)
    if devices is not None and isinstance(instance, MultimodalInstance):
        (stage,) = process
        devices.append(Device(encoder, instance, stage))
