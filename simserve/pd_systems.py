"""Clusters with prefill and decode pools from a deployment: what each system makes of its pools and their links."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from simserve.arch.memory import kv_bytes_per_token
from simserve.build import build_router
from simserve.engines import Engine, add_engine, add_replica
from simserve.errors import Infeasible
from simserve.pooled import build_system, kv_link
from simserve.sim.gateway import GatewayCluster
from simserve.sim.instance import Instance
from simserve.sim.link import Link
from simserve.sim.machines import Assigner, Gateway
from simserve.sim.mixed_pools import MixedPoolCluster, SplitMachine
from simserve.sim.plan import Role, System
from simserve.sim.pools import DisaggregatedCluster
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import ModelSpec
from simserve.units import NS_PER_MS


def build(
    model: ModelSpec, deployment: DeploymentSpec, engines: Sequence[Engine], leap: bool, cost_factor: float,
    link_factor: float,
) -> DisaggregatedCluster:  # fmt: skip
    """Prefill and decode pools; an instance sends KV over the links of as many GPUs as both sides have."""
    system = build_system(deployment)
    roles = {pool.name: pool.role for pool in system.pools()}
    prefill, decode = (next(e for e in engines if roles[e.name] is role) for role in (Role.PREFILL, Role.DECODE))
    cluster = _empty(model, deployment, system, (prefill, decode), leap)
    link = kv_link(deployment)
    width = min(e.deployment.tensor_parallel_size for e in (prefill, decode))

    def egress(instance: Instance) -> Link:
        return cluster.link(
            f"instance {instance.view.index} kv over {link.name}", latency_ns=link.latency_ns,
            bandwidth_bytes_per_s=round(width * link.payload_bytes_per_s * link_factor),
            launch_ns=system.control_ns if isinstance(system, Gateway) else 0,
        )  # fmt: skip

    for engine in engines:
        if isinstance(cluster, MixedPoolCluster):
            added = [add_replica(cluster, model, engine, i, cost_factor, make=SplitMachine) for i in engine.instances]
        else:
            added = add_engine(cluster, model, engine, cost_factor)
        for instance in added:
            cluster.place(instance, roles[engine.name], partial(egress, instance))
    return cluster


def _empty(
    model: ModelSpec, deployment: DeploymentSpec, system: System, ends: tuple[Engine, Engine], leap: bool
) -> DisaggregatedCluster:  # fmt: skip
    """The cluster that the system needs; Infeasible for what is not modelled with it."""
    prefill, decode = (build_router(engine.deployment) for engine in ends)
    common: dict[str, Any] = {
        "kv_bytes_per_token": kv_bytes_per_token(model, deployment.kv_cache_dtype, 1), "leap": leap,
        "snapshot_interval_ns": round(deployment.snapshot_interval_ms * NS_PER_MS),
    }  # fmt: skip
    if isinstance(system, Assigner | Gateway) and any(engine.encoder is not None for engine in ends):
        raise Infeasible(f"{deployment.system} is not modelled with images")
    if isinstance(system, Assigner):
        if any(engine.deployment.pipeline_parallel_size > 1 for engine in ends):
            raise Infeasible(f"{deployment.system} is not modelled with pipeline_parallel_size")
        return MixedPoolCluster(system, layers=model.num_hidden_layers, **common)
    if isinstance(system, Gateway):
        return GatewayCluster(system, decode, **common)
    return DisaggregatedCluster(prefill, decode, **common)
