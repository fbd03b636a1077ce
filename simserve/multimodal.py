"""A replica that reads images or sounds: what its encoders take, and the memory that it leaves for KV.

Encoder, prefill and decode are one process here, as in an engine on its own: the images of a prompt are encoded in the
step that begins it, while nothing else runs, unless the prefix cache has their tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from simserve.arch.encoder import encoder_weight_bytes
from simserve.errors import Infeasible
from simserve.perf.encoders import Encoders
from simserve.perf.host import EngineProfile
from simserve.sim.encoder import EncodeNs
from simserve.sim.images import unseen
from simserve.sim.instance import Instance
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.request import Request
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec


def check(deployment: DeploymentSpec) -> None:
    """Infeasible for what is not modelled with images."""
    if not deployment.num_encoders:
        raise Infeasible("images and sounds need an encoder, and num_encoders is 0")
    for _, d in deployment.engines():
        beside = {
            "pipeline_parallel_size": d.pipeline_parallel_size > 1, "data_parallel_size": d.data_parallel_size > 1,
            "prefill_context_parallel_size": d.prefill_context_parallel_size > 1, "hybrid": d.hybrid is not None,
            "tiers": d.tiers is not None,
        }  # fmt: skip
        for name, used in beside.items():
            if used:
                raise Infeasible(f"images and sounds are not modelled with {name}")


def encoder(model: ModelSpec, gpu: GpuSpec, deployment: DeploymentSpec, profile: EngineProfile) -> Encoders:
    """Prices of the encoders of one replica, split over its ranks."""
    return Encoders(
        gpu, model, tensor_parallel_size=deployment.tensor_parallel_size,
        eager_ns_per_op=profile.eager_ns_per_op,
    )  # fmt: skip


def pass_of(cost: Encoders, profile: EngineProfile, factor: float = 1.0) -> EncodeNs:
    """What a pass of a process's encoders takes, with what its host adds; factor: of all prices."""
    host_ns = profile.encode_host_ns
    return lambda images: round((cost.encode_ns(images) + host_ns) * factor)


def instance_of(encode_ns: EncodeNs) -> Callable[..., Instance]:
    """What makes an instance that encodes the images of its prompts."""

    def encodes(request: Request) -> int:
        new = unseen(request)
        return encode_ns(new) if new else 0

    return partial(MultimodalInstance, encodes=encodes, fetches=lambda request: 0)


def blocks_beside_encoder(model: ModelSpec, blocks: int, block_bytes: int, beside_bytes: int) -> int:
    """KV blocks that are left when encoders' weights are there too."""
    if not beside_bytes:
        return blocks
    left = blocks - -(-beside_bytes // block_bytes)
    if left < 2:
        raise Infeasible(f"the encoder of {model.name} leaves no room for KV")
    return left


def encoder_bytes(model: ModelSpec, ranks: int, copies: int = 1) -> int:
    """Bytes of the weights of so many encoders on each rank; 0 for text alone."""
    return -(-encoder_weight_bytes(*model.encoders.values()) // ranks) * copies
