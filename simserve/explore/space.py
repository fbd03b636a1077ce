"""The configurations that a study asks about: choices around one base deployment, in one pool or in two.

A combination is {parameter: value} with names that never change their meaning or their values: `gpu`,
`tensor_parallel_size`, ... of a deployment, `prefill.gpu`, ... of a pool, `vllm.watermark`, ... of a scheduler's or
router's own knob. A parameter that another choice makes meaningless is absent (`SearchSpace.suggest`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.study import StudySpec

# of one engine, or one pool
ENGINE_KNOBS = (
    "gpu", "dtype", "tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "enable_expert_parallel",
    "replicas", "max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization", "router",
)  # fmt: skip
# of a deployment, the same for all pools
SHARED_KNOBS = (
    "engine", "scheduler", "kv_cache_dtype", "moe_dtype", "enable_prefix_caching", "offload_dram_gib",
    "hybrid_kv_gib", "num_speculative_tokens",
)  # fmt: skip
# sizes of memory that only some deployments use, and which are no fields of their own
MEMORY_KNOBS = ("offload_dram_gib", "hybrid_kv_gib")
KNOBS = (*ENGINE_KNOBS, *SHARED_KNOBS)
AGGREGATED, DISAGGREGATED = "aggregated", "disaggregated"
SYSTEM = "distserve"
POOLS = ("prefill", "decode")

Choose = Callable[[str, tuple[Any, ...]], Any]
Options = Mapping[str, Mapping[str, tuple[Any, ...]]]


@dataclass(frozen=True)
class SearchSpace:
    """Every combination of `choices`, the other fields of a deployment as in `base`.

    choices: knob -> its values, in the order of KNOBS; a knob that is left out stays as in the base.
    max_gpus: configurations with more GPUs (all replicas) are not part of the space; None for no limit.
    modes: with one pool, with two, or both; pools: pool -> knob -> values of what it chooses for itself;
    options: scheduler or router -> its own knobs -> values.
    """

    base: DeploymentSpec
    choices: Mapping[str, tuple[Any, ...]]
    max_gpus: int | None = None
    modes: tuple[str, ...] = (AGGREGATED,)
    pools: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict)
    options: Options = field(default_factory=dict)

    def __len__(self) -> int:
        """Combinations, before `max_gpus` and feasibility."""
        return sum(1 for _ in self.combinations())

    @property
    def conditional(self) -> bool:
        """Whether some parameters are there only for some values of others."""
        return len(self.modes) > 1 or bool(self.options) or any(knob in self.choices for knob in MEMORY_KNOBS)

    @property
    def limits(self) -> tuple[int, int]:
        """The largest max_num_batched_tokens and max_num_seqs of any deployment."""
        names = ("max_num_batched_tokens", "max_num_seqs")
        every = (self.choices, *self.pools.values())
        engines = [engine for _, engine in self.base.engines()]
        largest = (
            max(max((v for choices in every for v in choices.get(name, ())), default=0),
                max(getattr(engine, name) for engine in engines))
            for name in names
        )  # fmt: skip
        return next(largest), next(largest)

    def suggest(self, choose: Choose) -> dict[str, Any]:
        """One combination: `choose(parameter, values)` is asked for what matters given the choices before.

        One replica has no choice between routers' own knobs, as none routes, but is asked for a router: samplers then
        see the same parameters for any number of replicas.
        """
        found: dict[str, Any] = {}

        def take(name: str, values: tuple[Any, ...]) -> Any:
            found[name] = choose(name, values)
            return found[name]

        mode = take("mode", self.modes) if len(self.modes) > 1 else self.modes[0]
        for knob, values in self.choices.items():
            if mode == DISAGGREGATED and knob in ENGINE_KNOBS:
                continue
            if knob not in MEMORY_KNOBS or self.uses(knob, found):
                take(knob, values)
        self._take_options(take, self.scheduler(found))
        for prefix in ("",) if mode == AGGREGATED else tuple(f"{pool}." for pool in POOLS):
            if prefix:
                for knob, values in self.pools[prefix[:-1]].items():
                    take(prefix + knob, values)
            if found.get(f"{prefix}replicas", 0) != 1:
                self._take_options(take, self._router(found, prefix), prefix)
        return found

    def scheduler(self, combination: Mapping[str, Any]) -> str:
        """The scheduler of a combination."""
        return str(combination.get("engine") or combination.get("scheduler") or self.base.scheduler)

    def _router(self, combination: Mapping[str, Any], prefix: str) -> str:
        return str(combination.get(f"{prefix}router", self.base.router))

    def uses(self, knob: str, combination: Mapping[str, Any]) -> bool:
        """Whether a combination has a use for one of MEMORY_KNOBS."""
        if knob == "offload_dram_gib":
            return self._caches_prefixes(combination)
        return uses_host(self.scheduler(combination))

    def _caches_prefixes(self, combination: Mapping[str, Any]) -> bool:
        return bool(combination.get("enable_prefix_caching", self.base.enable_prefix_caching))

    def _take_options(self, take: Choose, part: str, prefix: str = "") -> None:
        for knob, values in self.options.get(part, {}).items():
            take(f"{prefix}{part}.{knob}", values)

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination, the last parameter changing fastest; for spaces that are small enough."""
        path: list[tuple[str, tuple[Any, ...], int]] = []
        while True:
            depth = itertools.count()

            def choose(name: str, values: tuple[Any, ...], depth: Iterator[int] = depth) -> Any:
                place = next(depth)
                if place == len(path):
                    path.append((name, values, 0))
                return values[path[place][2]]

            yield self.suggest(choose)
            while path and path[-1][2] + 1 == len(path[-1][1]):
                path.pop()
            if not path:
                return
            name, values, index = path.pop()
            path.append((name, values, index + 1))

    def deployments(self) -> list[DeploymentSpec]:
        """Every distinct deployment of at most `max_gpus` GPUs; a single replica has one router.

        Raises SpecError if `max_gpus` leaves none.
        """
        distinct = dict.fromkeys(self.deployment(c) for c in self.combinations())
        found = [d for d in distinct if self.max_gpus is None or d.num_gpus <= self.max_gpus]
        if not found:
            raise too_many_gpus(self.max_gpus)
        return found

    def deployment(self, combination: Mapping[str, Any]) -> DeploymentSpec:
        """The base with the values of `combination`; one replica gets the first router, as none routes."""
        if combination.get("mode", self.modes[0]) == AGGREGATED:
            return self.engine(combination)
        engines = [(pool, self.engine(combination, f"{pool}.")) for pool in POOLS]
        return self.disaggregated(engines)

    def disaggregated(self, engines: list[tuple[str, DeploymentSpec]]) -> DeploymentSpec:
        """The deployment whose pools are these engines, which agree in all that pools share."""
        from simserve.spec.deployment import PoolSpec

        own, given = (*ENGINE_KNOBS, "scheduler", "router_options"), dict(self.base.pools)
        pools = tuple(
            (name, given.get(name, PoolSpec()).model_copy(update={knob: getattr(engine, knob) for knob in own}))
            for name, engine in engines
        )
        first = engines[0][1]
        shared = {
            "system": self.base.system or SYSTEM, "pools": pools, "gpu": first.gpu, "kv_link": self.base.kv_link,
            "async_scheduling": all(e.async_scheduling for _, e in engines),
        }  # fmt: skip
        ours = {name: getattr(first, name) for name in _SHARED_FIELDS}
        return self.base.model_copy(update={**ours, **shared})

    def engine(self, combination: Mapping[str, Any], prefix: str = "") -> DeploymentSpec:
        """One pool of a combination as a deployment of its own."""
        base = dict(self.base.engines()).get(prefix[:-1], self.base)
        choices = self.pools[prefix[:-1]] if prefix else self.choices
        own = dict(combination)
        if prefix:
            own |= {name.removeprefix(prefix): v for name, v in combination.items() if name.startswith(prefix)}
        values = {knob: own[knob] for knob in KNOBS if knob in own and knob not in ("engine", *MEMORY_KNOBS)}
        scheduler, options = str(own.get("engine") or own.get("scheduler") or base.scheduler), self.options
        if values.get("replicas", base.replicas) == 1 and "router" in values:
            values["router"] = choices["router"][0]
        router = values.get("router", base.router)
        if "engine" in own:
            stages = values.get("pipeline_parallel_size", base.pipeline_parallel_size)
            values |= {"engine": own["engine"], "scheduler": scheduler, "async_scheduling": stages == 1}
        if own.get("offload_dram_gib") is not None:
            values["offload"] = _offload(base, own["offload_dram_gib"])
        elif not self._caches_prefixes(own):
            values["offload"] = None
        if own.get("hybrid_kv_gib") is not None and base.hybrid is not None:
            values["hybrid"] = base.hybrid.model_copy(update={"kv_gib": own["hybrid_kv_gib"]})
        for part, key in ((scheduler, "scheduler_options"), (router, "router_options")):
            chosen = {knob: own[f"{part}.{knob}"] for knob in options.get(part, {}) if f"{part}.{knob}" in own}
            if chosen:
                values[key] = tuple(sorted({**dict(getattr(base, key)), **chosen}.items()))
        if base.system is not None:
            values |= {"system": None, "system_options": (), "pools": (), "kv_link": None}
        return base.model_copy(update=values)

    def among(self, deployments: Sequence[DeploymentSpec]) -> SearchSpace:
        """What a sampler chooses from where only these are simulated: the whole space, unless it is told otherwise."""
        return self

    def combination(self, deployment: DeploymentSpec) -> dict[str, Any]:
        """The inverse of `deployment`."""
        pools = dict(deployment.engines())

        def choose(name: str, values: tuple[Any, ...]) -> Any:
            if name == "mode":
                return DISAGGREGATED if deployment.pools else AGGREGATED
            head, _, rest = name.partition(".")
            if head in pools:
                return _value_of(pools[head], rest, values)
            return _value_of(next(iter(pools.values())), name, values)

        return self.suggest(choose)


def from_study(study: StudySpec) -> SearchSpace:
    """The space of a study; without a `search` section it is the study's one deployment."""
    from simserve.explore.choices import space_of

    return space_of(study)


_SHARED_FIELDS = (
    "scheduler", "engine", "kv_cache_dtype", "moe_dtype", "enable_prefix_caching", "offload",
    "num_speculative_tokens", "scheduler_options",
)  # fmt: skip


def too_many_gpus(most: int | None) -> SpecError:
    """The error of a space that `max_gpus` empties."""
    return SpecError(
        f"every configuration of the search space needs more than max_gpus = {most} GPUs", key="search.max_gpus"
    )


def _value_of(engine: DeploymentSpec, name: str, values: tuple[Any, ...]) -> Any:
    """What an engine has of a parameter."""
    part, _, knob = name.rpartition(".")
    if part:
        options = engine.scheduler_options if part == engine.scheduler else engine.router_options
        return dict(options).get(knob, values[0])
    if name == "offload_dram_gib":
        return 0.0 if engine.offload is None else engine.offload.dram_gib
    if name == "hybrid_kv_gib":
        return values[0] if engine.hybrid is None else engine.hybrid.kv_gib
    return getattr(engine, name)


def uses_host(scheduler: str) -> bool:
    """Whether a scheduler keeps KV of running requests on a host."""
    from simserve.systems import SCHEDULERS

    return hasattr(SCHEDULERS.get(scheduler), "cpu_kernel")


def _offload(base: DeploymentSpec, dram_gib: float) -> Any:
    """Host memory of this size, all else as the base says; None for none."""
    from simserve.spec.deployment import OffloadSpec

    if not dram_gib:
        return None
    if base.offload is not None:
        return base.offload.model_copy(update={"dram_gib": dram_gib})
    return OffloadSpec(dram_gib=dram_gib)
