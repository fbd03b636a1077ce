"""The pools of a deployment: its system, what each pool gets from it, and the link between them."""

from __future__ import annotations

from typing import Any

from simserve import diffusion
from simserve.build import checked_options
from simserve.errors import SpecError, UnknownName
from simserve.sim.plan import knobs
from simserve.spec.deployment import DeploymentSpec, PoolSpec
from simserve.spec.hardware import LinkSpec, load_gpu, load_link
from simserve.systems import SYSTEMS

ACROSS_NODES = "ib_400g"


def resolve_pools(deployment: DeploymentSpec) -> DeploymentSpec:
    """Give each pool its system's scheduler and router where the study names none; check the pools' names.

    Of a diffusion system, give limits that the study does not name the system's own defaults.
    """
    if deployment.system is None:
        return diffusion.with_limits(deployment)
    system = build_system(deployment)
    if deployment.stages is not None:
        return _resolve_stages(deployment, system)
    known = {pool.name: pool for pool in system.pools()}
    given = dict(deployment.pools)
    for name in given:
        if name not in known:
            raise UnknownName(f"pool of {deployment.system}", name, known, key="deployment.pools")
    missing = [name for name in known if name not in given]
    if missing:
        raise SpecError(
            f"{deployment.system} has pools {' and '.join(known)}; give each an entry, which may be empty",
            key="deployment.pools", value=", ".join(given),
        )  # fmt: skip
    own = {part for part in ("scheduler", "router") if part in deployment.model_fields_set}
    pools = tuple(
        (name, given[name].model_copy(update={
            part: getattr(given[name], part) or getattr(deployment if part in own else pool, part)
            for part in ("scheduler", "router")
        }))
        for name, pool in known.items()
    )  # fmt: skip
    return deployment.model_copy(update={"pools": pools})


def build_system(deployment: DeploymentSpec) -> Any:
    """The deployment's system with its system_options; SpecError if only one of system and deployment has stages."""
    name = deployment.system or ""
    part = SYSTEMS.get(name)
    staged = getattr(part, "staged", False)
    if staged and deployment.stages is None:
        raise SpecError(f"{name} needs stages, e.g. E-P-D or (E-P)-D", key="deployment.stages")
    if deployment.stages is not None and not staged:
        raise SpecError(f"{name} is no system of stages; epd_serve is one", key="deployment.system", value=name)
    return part(**checked_options(name, "system_options", deployment.system_options, knobs(part)))


def _resolve_stages(deployment: DeploymentSpec, system: Any) -> DeploymentSpec:
    """Give each process its system's scheduler and router where the study names none."""
    given = dict(deployment.pools)
    own = {part for part in ("scheduler", "router") if part in deployment.model_fields_set}
    pools = dict(given)
    for name, _ in deployment.engines():
        pool = given.get(name, PoolSpec())
        pools[name] = pool.model_copy(update={
            part: getattr(pool, part) or getattr(deployment if part in own else system, part)
            for part in ("scheduler", "router")
        })  # fmt: skip
    return deployment.model_copy(update={"pools": tuple(pools.items())})


def kv_link(deployment: DeploymentSpec) -> LinkSpec:
    """The link per GPU that hands KV over: as asked; the GPUs' own inside one node; else 400 Gb/s InfiniBand."""
    if deployment.kv_link is not None:
        return load_link(deployment.kv_link)
    gpus = {load_gpu(engine.gpu) for _, engine in deployment.engines()}
    if len(gpus) == 1:
        (gpu,) = gpus
        if deployment.num_gpus <= gpu.gpus_per_node:
            return load_link(gpu.interconnect)
        return load_link(gpu.inter_node_link)
    return load_link(ACROSS_NODES)
