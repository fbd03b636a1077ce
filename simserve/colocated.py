"""Replicas whose prefill and decode are two workers on the same GPUs: how they are built, and what is modelled."""

from __future__ import annotations

from simserve.build import build_router
from simserve.errors import Infeasible
from simserve.perf.cost import PricedCost
from simserve.perf.lane_split import LaneSplit
from simserve.pooled import build_system
from simserve.sim.shared_pool import SharedPoolCluster
from simserve.sim.shares import SharedSystem
from simserve.spec.deployment import DeploymentSpec
from simserve.systems import SYSTEMS
from simserve.units import NS_PER_MS

WORKERS = 2


def workers(deployment: DeploymentSpec) -> int:
    """Instances of the trace for each replica."""
    shared = deployment.system is not None and hasattr(SYSTEMS.get(deployment.system), "controller")
    return WORKERS if shared else 1


def cluster(deployment: DeploymentSpec, cost: PricedCost, cost_factor: float, *, images: bool) -> SharedPoolCluster:
    """An empty cluster of such replicas; Infeasible for what is not modelled with them."""
    ((_, own),) = deployment.engines()
    beside = {
        "images": images, "enable_prefix_caching": own.enable_prefix_caching, "offload": own.offload is not None,
        "swap_space_gib": own.swap_space_gib, "async_scheduling": own.async_scheduling,
        "more than tensor parallelism": own.gpus_per_replica > own.tensor_parallel_size,
        f"the scheduler {own.scheduler}": own.scheduler != deployment.system,
    }  # fmt: skip
    for name, used in beside.items():
        if used:
            raise Infeasible(f"{deployment.system} is not modelled with {name}")
    system = build_system(deployment)
    assert isinstance(system, SharedSystem)
    return SharedPoolCluster(
        build_router(own), controller=system.controller, split=LaneSplit(cost, cost_factor),
        snapshot_interval_ns=round(deployment.snapshot_interval_ms * NS_PER_MS),
    )  # fmt: skip
