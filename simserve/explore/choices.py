"""From the `search` section of a study to its space: which values each parameter has, and whether they exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError, UnknownName
from simserve.explore.space import (
    AGGREGATED,
    DISAGGREGATED,
    ENGINE_KNOBS,
    KNOBS,
    POOLS,
    SearchSpace,
)  # fmt: skip

if TYPE_CHECKING:
    from simserve.registry import Registry
    from simserve.spec.study import PoolSpaceSpec, SpaceSpec, StudySpec

Choices = dict[str, tuple[Any, ...]]
POOL_ROUTER = "least_loaded"  # of the systems with pools


def space_of(study: StudySpec) -> SearchSpace:
    """The space of a study; SpecError or UnknownName with the key for what no deployment can have."""
    base, search = study.deployment, study.search
    if base.stages is not None or (search is not None and (search.space.stages or search.space.system_options)):
        from simserve.explore.staged_choices import staged_space_of

        return staged_space_of(study)
    if search is None:
        modes: tuple[str, ...] = (DISAGGREGATED,) if base.pools else (AGGREGATED,)
        return SearchSpace(base, {}, None, modes, {pool: {} for pool in POOLS} if base.pools else {})
    if base.pools and {name for name, _ in base.pools} != set(POOLS):
        raise SpecError(f"a search is over pools {' and '.join(POOLS)}, or over one engine; leave the search out",
                        key="deployment.pools", value=", ".join(name for name, _ in base.pools))  # fmt: skip
    asked = search.space
    choices = choices_of(asked)
    modes = _modes(study)
    if "engine" in choices and "scheduler" in choices:
        raise SpecError("an engine has its own scheduler; name one of the two", key="search.space.scheduler")
    if "hybrid_kv_gib" in choices and (base.hybrid is None or modes != (AGGREGATED,)):
        raise SpecError("needs deployment.hybrid, which names the host, and one pool", key="search.space.hybrid_kv_gib")
    if base.num_gpu_blocks is not None and "gpu_memory_utilization" in choices:
        raise SpecError("num_gpu_blocks of the deployment decides, whatever the share of memory",
                        key="search.space.gpu_memory_utilization")  # fmt: skip
    options = _options(asked, choices, study)
    pools: dict[str, Choices] = {}
    if DISAGGREGATED in modes:
        pools = {pool: _pool_choices(pool, getattr(asked, pool), choices, study) for pool in POOLS}
    elif asked.prefill is not None or asked.decode is not None:
        key = "prefill" if asked.prefill is not None else "decode"
        raise SpecError("there are no pools in the mode aggregated; add disaggregated", key=f"search.space.{key}")
    return SearchSpace(base, choices, search.max_gpus, modes, pools, options)


def _modes(study: StudySpec) -> tuple[str, ...]:
    assert study.search is not None
    asked = study.search.space
    if asked.mode is not None:
        modes: tuple[str, ...] = tuple(dict.fromkeys(asked.mode))
    elif asked.prefill is not None or asked.decode is not None or study.deployment.pools:
        modes = (DISAGGREGATED,)
    else:
        modes = (AGGREGATED,)
    if AGGREGATED in modes and study.deployment.pools:
        raise SpecError("the deployment has pools; leave its system and pools out for aggregated ones",
                        key="search.space.mode", value=AGGREGATED)  # fmt: skip
    return modes


def choices_of(space: PoolSpaceSpec) -> Choices:
    """Knob -> distinct values, in the order of KNOBS."""
    found: Choices = {}
    for knob in KNOBS:
        values = getattr(space, knob, None)
        if values:
            found[knob] = tuple(dict.fromkeys(map(_gpu_name, values) if knob == "gpu" else values))
    return found


def _pool_choices(pool: str, asked: PoolSpaceSpec | None, shared: Choices, study: StudySpec) -> Choices:
    """What a pool chooses for itself: what is named for it, else what is named for all."""
    own = choices_of(asked) if asked is not None else {}
    every = {knob: shared[knob] for knob in ENGINE_KNOBS if knob in shared}
    base = study.deployment
    if not ("router" in own or "router" in every or base.pools or "router" in base.model_fields_set):
        # how requests are spread over pools matters less than over whole engines
        own["router"] = (POOL_ROUTER,)
    found = {**every, **own}
    return {knob: found[knob] for knob in ENGINE_KNOBS if knob in found}


def _options(space: SpaceSpec, choices: Choices, study: StudySpec) -> dict[str, Choices]:
    """Own knobs of schedulers and routers, checked against the knobs of their dataclasses."""
    from simserve.policies import ROUTERS
    from simserve.systems import SCHEDULERS

    schedulers = {*(choices.get("engine") or choices.get("scheduler") or (study.deployment.scheduler,))}
    routers = {study.deployment.router, POOL_ROUTER, *choices.get("router", ())}
    for subspace in (space.prefill, space.decode):
        routers |= set((subspace and subspace.router) or ())
    for pool in dict(study.deployment.pools).values():
        schedulers |= {pool.scheduler} - {None}
        routers |= {pool.router} - {None}
    found = known_options("scheduler_options", space.scheduler_options, SCHEDULERS, schedulers)
    return {**found, **known_options("router_options", space.router_options, ROUTERS, routers)}


def known_options(
    key: str, asked: tuple[tuple[str, tuple[tuple[str, tuple[Any, ...]], ...]], ...], registry: Registry[Any],
    possible: set[str],
) -> dict[str, Choices]:  # fmt: skip
    """Knobs of parts of a registry by part, checked; possible: parts that the space has."""
    from simserve.sim.plan import knobs

    found: dict[str, Choices] = {}
    for part, options in asked:
        place = f"search.space.{key}.{part}"
        try:
            known = knobs(registry.get(part))
        except UnknownName as error:
            raise UnknownName(error.kind, part, error.known, key=place) from None
        if part not in possible:
            raise SpecError(f"no deployment of the space has this {registry.kind}", key=place)
        for name, values in options:
            if name not in known:
                raise UnknownName(f"knob of {part}", name, known, key=f"{place}.{name}")
            for value in values:
                _check_value(f"{place}.{name}", value, known[name])
        found[part] = {name: tuple(dict.fromkeys(values)) for name, values in options}
    return found


def _check_value(key: str, value: Any, knob: Mapping[str, Any]) -> None:
    """SpecError unless the value is among a knob's choices or in its range."""
    if knob["choices"]:
        if value not in knob["choices"]:
            raise SpecError(f"must be one of {', '.join(map(str, knob['choices']))}", key=key, value=value)
    elif isinstance(value, str | bool) or not knob["low"] <= value <= knob["high"]:
        raise SpecError(f"must be a number from {knob['low']} to {knob['high']}", key=key, value=value)


def _gpu_name(name: str) -> str:
    """'H100-SXM' and 'h100' are one GPU; a path to a file stays a path."""
    from simserve.spec.hardware import load_gpu

    gpu = load_gpu(name)
    return name if name.endswith((".yaml", ".yml")) else gpu.name
