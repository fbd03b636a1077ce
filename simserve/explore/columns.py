"""The search space as columns: engines of every kind and limit, times replicas, times routers; pools in pairs.

Only engines are objects, one for each combination that changes what a replica is; how many and behind which router
are integers, so that millions of configurations cost arrays, not objects.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simserve.explore.space import (
    AGGREGATED,
    DISAGGREGATED,
    ENGINE_KNOBS,
    MEMORY_KNOBS,
    POOLS,
    SHARED_KNOBS,
    SearchSpace,
    uses_host,
)

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec

Ints = NDArray[np.int64]
Point = Mapping[str, Any]  # parameter -> value
Axes = dict[str, list[dict[str, Any]]]
PLACES = ("replicas", "router")


@dataclass(frozen=True)
class Rows:
    """Engines times replicas times routers; arrays of one length, in the order of the space's combinations.

    engines: one replica of each; variant: index into engines; router: index into routers, whose first one all single
    replicas have; prefix: 'prefill.' or 'decode.' in a pool.
    """

    space: SearchSpace
    prefix: str
    engines: list[DeploymentSpec]
    routers: list[Point]
    variant: Ints
    replicas: Ints
    router: Ints

    def __len__(self) -> int:
        return len(self.variant)

    @property
    def gpus(self) -> Ints:
        """GPUs of all replicas of each row."""
        each = np.array([engine.gpus_per_replica for engine in self.engines], dtype=np.int64)
        return each[self.variant] * self.replicas

    def select(self, rows: NDArray[Any]) -> Rows:
        """Some of the rows, by index or mask."""
        return Rows(self.space, self.prefix, self.engines, self.routers, self.variant[rows], self.replicas[rows],
                    self.router[rows])  # fmt: skip

    def deployment(self, row: int) -> DeploymentSpec:
        """One row as a deployment, of one pool."""
        engine, replicas = self.engines[int(self.variant[row])], int(self.replicas[row])
        update: dict[str, Any] = {"replicas": replicas}
        place = self.routers[self.router[row]]
        if "router" in place:
            update["router"] = place["router"]
        if replicas > 1:
            own = {name.rpartition(".")[2]: value for name, value in place.items() if name != "router"}
            if own:
                update["router_options"] = tuple(sorted({**dict(engine.router_options), **own}.items()))
        return engine.model_copy(update=update)


def aggregated(space: SearchSpace) -> Rows | None:
    """The configurations of one pool of at most `max_gpus` GPUs; None if the mode is not in the space."""
    if AGGREGATED not in space.modes:
        return None
    return _rows(space, "", {}, _axes(space, space.choices, space.base.scheduler, space.base.router))


def pairs(space: SearchSpace) -> Iterator[tuple[Rows, Rows]]:
    """(prefill, decode) rows for every combination of what both share; each prefill row goes with each decode row."""
    if DISAGGREGATED not in space.modes:
        return
    engines = dict(space.base.engines())
    shared = {knob: values for knob, values in space.choices.items() if knob in SHARED_KNOBS}
    scheduler = engines.get(POOLS[0], space.base).scheduler
    every = _axes(space, shared, scheduler, "")
    for shared_points in itertools.product(*every.values()):
        fixed = {name: value for point in shared_points for name, value in point.items()}
        prefill, decode = (
            _rows(space, f"{pool}.", fixed,
                  _axes(space, space.pools[pool], "", engines.get(pool, space.base).router))
            for pool in POOLS
        )  # fmt: skip
        yield prefill, decode


def _axes(space: SearchSpace, choices: Mapping[str, tuple[Any, ...]], scheduler: str, router: str) -> Axes:
    """Independent axes: a choice together with the parameters that depend on it."""
    axes: Axes = {}
    parts = {knob: name for knob, name in (("engine", scheduler), ("scheduler", scheduler), ("router", router)) if name}
    for knob, values in choices.items():
        points: list[dict[str, Any]] = [{knob: value} for value in values]
        if knob in parts:
            if knob != "router" and "hybrid_kv_gib" in choices:
                sizes: list[dict[str, Any]] = [{"hybrid_kv_gib": size} for size in choices["hybrid_kv_gib"]]
                points = [{**p, **own} for p in points for own in (sizes if uses_host(str(p[knob])) else [{}])]
            points = [{**point, **own} for point in points for own in _own_knobs(space, str(point[knob]))]
        elif knob == "enable_prefix_caching" and "offload_dram_gib" in choices:
            beside = [{knob: True, "offload_dram_gib": size} for size in choices["offload_dram_gib"]]
            points = [own for point in points for own in (beside if point[knob] else [point])]
        elif knob in MEMORY_KNOBS and _goes_elsewhere(space, knob, choices, scheduler):
            continue
        axes[knob] = points
    for knob, name in (("scheduler", scheduler), ("router", router)):
        named = knob in choices or (knob == "scheduler" and "engine" in choices)
        if name and not named and name in space.options:
            axes[knob] = _own_knobs(space, name)
    return axes


def _goes_elsewhere(space: SearchSpace, knob: str, choices: Mapping[str, tuple[Any, ...]], scheduler: str) -> bool:
    """Whether a size of memory is part of another axis, or of no use."""
    if knob == "hybrid_kv_gib":
        return "engine" in choices or "scheduler" in choices or not uses_host(scheduler)
    return "enable_prefix_caching" in choices or not space.base.enable_prefix_caching


def _own_knobs(space: SearchSpace, part: str) -> list[dict[str, Any]]:
    """Every combination of a scheduler's or router's own knobs; one without any if none is varied."""
    options = space.options.get(part, {})
    return [
        {f"{part}.{knob}": value for knob, value in zip(options, values, strict=True)}
        for values in itertools.product(*options.values())
    ]


def _rows(space: SearchSpace, prefix: str, fixed: Point, axes: Axes) -> Rows:
    shape = [len(points) for points in axes.values()]
    digits = dict(zip(axes, np.unravel_index(np.arange(int(np.prod(shape))), shape), strict=True)) if shape else {}
    size = int(np.prod(shape))
    inner = {name: points for name, points in axes.items() if name not in PLACES}
    variant = np.zeros(size, dtype=np.int64)
    for name, points in inner.items():
        variant = variant * len(points) + digits[name]
    engines = []
    for corner in itertools.product(*inner.values()):
        own = {f"{prefix}{name}" if name in ENGINE_KNOBS else name: value
               for point in corner for name, value in point.items()}  # fmt: skip
        engines.append(space.engine({**fixed, **own}, prefix))
    counts = [point["replicas"] for point in axes.get("replicas", [])]
    replicas = np.array(counts, dtype=np.int64)[digits["replicas"]] if counts else _own_counts(engines, variant)
    routers: list[Point] = list(axes.get("router", [{}]))
    router = digits.get("router", np.zeros(size, dtype=np.int64))
    rows = Rows(space, prefix, engines, routers, variant, replicas, np.asarray(router, dtype=np.int64))
    keep = ((rows.replicas > 1) | (rows.router == 0)) & ~_same_alone(engines, axes)[variant]
    if space.max_gpus is not None:
        keep &= rows.gpus <= space.max_gpus
    return rows.select(keep)


def _same_alone(engines: list[DeploymentSpec], axes: Axes) -> NDArray[np.bool_]:
    """Engines of one GPU a stage with expert parallelism, where the space has them without as well: the same."""
    both = {point["enable_expert_parallel"] for point in axes.get("enable_expert_parallel", [])} == {False, True}
    alone = (e.enable_expert_parallel and e.gpus_per_replica == e.pipeline_parallel_size for e in engines)
    return np.fromiter((both and same for same in alone), dtype=np.bool_, count=len(engines))


def _own_counts(engines: list[DeploymentSpec], variant: Ints) -> Ints:
    return np.array([engine.replicas for engine in engines], dtype=np.int64)[variant]
