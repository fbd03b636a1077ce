"""The configurations that a study asks about, as a grid of choices around one base deployment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.study import StudySpec

KNOBS = (
    "gpu",
    "dtype",
    "tensor_parallel_size",
    "data_parallel_size",
    "pipeline_parallel_size",
    "replicas",
    "max_num_batched_tokens",
    "max_num_seqs",
    "router",
)


@dataclass(frozen=True)
class SearchSpace:
    """A grid: every combination of `choices`, the other fields of a deployment as in `base`.

    choices: knob -> its values, in the order of KNOBS; a knob that is left out stays as in the base.
    max_gpus: configurations with more GPUs (all replicas) are not part of the space; None for no limit.
    """

    base: DeploymentSpec
    choices: Mapping[str, tuple[Any, ...]]
    max_gpus: int | None = None

    def __len__(self) -> int:
        """Combinations, before `max_gpus` and feasibility."""
        size = 1
        for values in self.choices.values():
            size *= len(values)
        return size

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination as {knob: value}, the last knob changing fastest."""
        for values in itertools.product(*self.choices.values()):
            yield dict(zip(self.choices, values, strict=True))

    def deployments(self) -> list[DeploymentSpec]:
        """Every distinct deployment of at most `max_gpus` GPUs; a single replica has one router.

        Raises SpecError if `max_gpus` leaves none.
        """
        distinct = dict.fromkeys(self.deployment(c) for c in self.combinations())
        found = [d for d in distinct if self.max_gpus is None or d.num_gpus <= self.max_gpus]
        if not found:
            raise SpecError(
                f"every configuration of the search space needs more than max_gpus = {self.max_gpus} GPUs",
                key="search.max_gpus",
            )
        return found

    def deployment(self, combination: Mapping[str, Any]) -> DeploymentSpec:
        """The base with the values of `combination`; one replica gets the first router, as none routes."""
        values = dict(combination)
        if values.get("replicas", self.base.replicas) == 1 and "router" in values:
            values["router"] = self.choices["router"][0]
        return self.base.model_copy(update=values)

    def combination(self, deployment: DeploymentSpec) -> dict[str, Any]:
        """The inverse of `deployment`."""
        return {knob: getattr(deployment, knob) for knob in self.choices}


def from_study(study: StudySpec) -> SearchSpace:
    """The space of a study; without a `search` section it is the study's one deployment."""
    base, search = study.deployment, study.search
    if search is None:
        return SearchSpace(base, {})
    if base.system is not None:
        raise SpecError(
            "a search varies deployments of one pool so far; use `simserve simulate` for a system with pools",
            key="deployment.system", value=base.system,
        )  # fmt: skip
    choices: dict[str, tuple[Any, ...]] = {}
    for knob in KNOBS:
        values = getattr(search.space, knob, None)
        if values:
            if knob == "gpu":
                values = map(_gpu_name, values)
            choices[knob] = tuple(dict.fromkeys(values))
    return SearchSpace(base, choices, search.max_gpus)


def _gpu_name(name: str) -> str:
    """'H100-SXM' and 'h100' are one GPU; a path to a file stays a path."""
    from simserve.spec.hardware import load_gpu

    gpu = load_gpu(name)
    return name if name.endswith((".yaml", ".yml")) else gpu.name
