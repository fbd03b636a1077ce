"""The space of a search over layouts of stages: layouts, times what processes have in common, times knobs of a system.

A combination is {"stages": layout, knob: value, "epd_serve.prefetch": value}; `tensor_parallel_size` is absent where
the layout says it (TP2x4), a knob of the system where nobody hands over what it is about.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simserve.explore.layouts import own_width
from simserve.explore.space import AGGREGATED, Choose, SearchSpace
from simserve.spec.stages import Stage, parse_stages, processes_of

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec

STAGES, WIDTH = "stages", "tensor_parallel_size"
# of every process with the language model, in this order
STAGED_KNOBS = (
    "gpu", "dtype", WIDTH, "enable_expert_parallel", "max_num_batched_tokens", "max_num_seqs",
    "gpu_memory_utilization", "router", "scheduler", "kv_cache_dtype", "moe_dtype", "enable_prefix_caching",
)  # fmt: skip
_OF_KV = ("kv_", "layerwise_", "decode_answers", "prefill_beside_decode", "decode_beside_prefill")  # how knobs begin
_OF_ROLES = ("role_", "switch_")
_OF_POOLS = ("scheduler", "router")  # what a system gives each process


@dataclass(frozen=True)
class StagedSpace(SearchSpace):
    """`choices` has the layouts as STAGES, before STAGED_KNOBS; `options` those of the system alone."""

    modes: tuple[str, ...] = (AGGREGATED,)

    @property
    def conditional(self) -> bool:
        """Layouts decide what else there is."""
        return True

    @property
    def limits(self) -> tuple[int, int]:
        """The largest max_num_batched_tokens and max_num_seqs of any process."""
        engines = [engine for _, engine in self.base.engines()]
        tokens, seqs = (
            max(*self.choices.get(name, ()), *(getattr(e, name) for e in engines), 1)
            for name in ("max_num_batched_tokens", "max_num_seqs")
        )
        return tokens, seqs

    def suggest(self, choose: Choose) -> dict[str, Any]:
        """One combination: `choose(parameter, values)` is asked for what matters with the layout."""
        layout = choose(STAGES, self.choices[STAGES])
        return {STAGES: layout, **{name: choose(name, values) for name, values in self.beside(layout).items()}}

    def beside(self, layout: str) -> dict[str, tuple[Any, ...]]:
        """The parameters that matter with a layout."""
        found = {name: values for name, values in self.choices.items() if name != STAGES}
        if own_width(layout) is not None:
            found.pop(WIDTH, None)
        processes = processes_of(parse_stages(layout))
        encodes = any(not placed.has_model for placed in processes)
        hands_over = any(Stage.PREFILL in p.process and Stage.DECODE not in p.process for p in processes)
        for system, knobs in self.options.items():
            found |= {f"{system}.{knob}": values for knob, values in knobs.items()
                      if _matters(knob, encodes=encodes, hands_over=hands_over)}  # fmt: skip
        return found

    def points(self, layout: str) -> Iterator[dict[str, Any]]:
        """Everything that can be beside a layout."""
        values = self.beside(layout)
        for combination in itertools.product(*values.values()):
            yield dict(zip(values, combination, strict=True))

    def deployment(self, combination: Mapping[str, Any]) -> DeploymentSpec:
        """The base with this layout, whose processes have what they are given there and what the system gives them."""
        from simserve.pooled import resolve_pools

        update: dict[str, Any] = {name: value for name, value in combination.items() if "." not in name}
        layout = combination[STAGES]
        if own_width(layout) is not None:
            update[WIDTH] = 1
        own = {name.partition(".")[2]: value for name, value in combination.items() if "." in name}
        if own:
            update["system_options"] = tuple(sorted({**dict(self.base.system_options), **own}.items()))
        named = {placed.name for placed in processes_of(parse_stages(layout))}
        fresh = dict.fromkeys(name for name in _OF_POOLS if name in update)
        update["pools"] = tuple(
            (name, pool.model_copy(update=fresh)) for name, pool in self.base.pools if name in named
        )
        return resolve_pools(self.base.model_copy(update=update))

    def among(self, deployments: Sequence[DeploymentSpec]) -> StagedSpace:
        """With the layouts of these alone: a journal has all choices with every trial, and there may be 100,000."""
        kept = {deployment.stages for deployment in deployments}
        layouts = tuple(layout for layout in self.choices[STAGES] if layout in kept)
        return replace(self, choices={**self.choices, STAGES: layouts})

    def combination(self, deployment: DeploymentSpec) -> dict[str, Any]:
        """The inverse of `deployment`."""
        options = dict(deployment.system_options)

        def choose(name: str, values: tuple[Any, ...]) -> Any:
            if "." in name:
                return options.get(name.partition(".")[2], values[0])
            return getattr(deployment, name)

        return self.suggest(choose)


def _matters(knob: str, *, encodes: bool, hands_over: bool) -> bool:
    """Whether a knob of a system does anything. encodes: a process encodes only; hands_over: one prefills for others.
    """
    if knob == "proxy_ms":
        return True
    if knob.startswith(_OF_ROLES):
        return hands_over and encodes
    return hands_over if knob.startswith(_OF_KV) else encodes
