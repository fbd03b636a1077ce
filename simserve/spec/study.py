"""A study: model, workload, SLO, deployment, and the space to search. One YAML file is one study."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from simserve.errors import SpecError, UnknownName
from simserve.paths import STUDY_FOLDERS, data_files, nearest_file
from simserve.spec.base import Located, Spec, parse, read_yaml
from simserve.spec.deployment import DeploymentSpec, Dtype, KvCacheDtype, MoeDtype, Utilization
from simserve.spec.expect import ExpectSpec
from simserve.spec.shapes import AsMapping, OneOrMore, OrNull
from simserve.spec.slo import SloSpec
from simserve.spec.stages import parse_stages
from simserve.spec.workload import WorkloadSpec

T = TypeVar("T")
YAML_SUFFIXES = (".yaml", ".yml")


def _listed(value: Any) -> Any:
    """A single choice is a list of one."""
    return value if isinstance(value, list | tuple) or value is None else [value]


def _pairs(value: Any) -> Any:
    """A mapping in YAML; kept as sorted pairs, so that a study is hashable."""
    return tuple(sorted(value.items(), key=lambda item: str(item[0]))) if isinstance(value, Mapping) else value


def _layout(text: str) -> str:
    """A layout of stages that can be read, or ALL_LAYOUTS."""
    if text != ALL_LAYOUTS:
        parse_stages(text)
    return text


ALL_LAYOUTS = "all"
Layout = Annotated[str, AfterValidator(_layout)]
Choices = Annotated[tuple[T, ...], BeforeValidator(_listed), Field(min_length=1), OneOrMore()]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Objective = Literal["throughput", "gpus", "cost", "front"]
Count = Annotated[int, Field(ge=1)]
BATCH = 8  # trials that are chosen together


Mode = Literal["aggregated", "disaggregated"]
EngineName = Literal["vllm", "sglang", "trtllm"]
Knob = bool | int | float | str
KnobChoices = Annotated[tuple[tuple[str, Choices[Knob]], ...], BeforeValidator(_pairs), AsMapping()]
OptionChoices = Annotated[tuple[tuple[str, KnobChoices], ...], BeforeValidator(_pairs), AsMapping()]


class PoolSpaceSpec(Spec):
    """What the search may choose for one pool; a key that is absent is as for both pools."""

    gpu: Choices[str] | None = None
    tensor_parallel_size: Choices[Count] | None = None
    data_parallel_size: Choices[Count] | None = None
    pipeline_parallel_size: Choices[Count] | None = None
    enable_expert_parallel: Choices[bool] | None = None
    replicas: Choices[Count] | None = None
    max_num_batched_tokens: Choices[Count] | None = None
    max_num_seqs: Choices[Count] | None = None
    gpu_memory_utilization: Choices[Utilization] | None = None
    router: Choices[str] | None = None
    dtype: Choices[Dtype] | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Spaces that leave gpu_memory_utilization alone say nothing of it, so that journals stay what they are."""
        fields: dict[str, Any] = plain(self)
        if self.gpu_memory_utilization is None:
            fields.pop("gpu_memory_utilization", None)
        return fields


class SpaceSpec(PoolSpaceSpec):
    """What the search may choose from; a key that is absent stays as the study's deployment has it.

    mode: one pool, or one that prefills and one that decodes; prefill, decode: what those choose for themselves, else
    they choose as one pool would; without a mode, naming either asks for disaggregated deployments. engine: scheduler,
    engine profile and overlapped scheduling of its newest version, together; scheduler_options, router_options:
    {scheduler or router: {knob: values}}, chosen only where that part is; offload_dram_gib: host memory per replica for
    KV of prefixes, 0 for none, chosen only with enable_prefix_caching; hybrid_kv_gib: of deployment.hybrid, chosen only
    with schedulers that keep KV on a host. stages: layouts as of deployment.stages, or all that max_gpus GPUs can form,
    for a system of stages; tensor_parallel_size is then that of its processes with the language model, but of layouts
    such as TP2x4, which have their own. system_options: {system: {knobs: values}}, chosen where there are several
    processes.
    """

    mode: Choices[Mode] | None = None
    engine: Choices[EngineName] | None = None
    scheduler: Choices[str] | None = None
    kv_cache_dtype: Choices[KvCacheDtype] | None = None
    moe_dtype: Choices[MoeDtype] | None = None
    enable_prefix_caching: Choices[bool] | None = None
    offload_dram_gib: Choices[Annotated[float, Field(ge=0, le=1 << 20)]] | None = None
    hybrid_kv_gib: Choices[Annotated[float, Field(gt=0, le=1 << 20)]] | None = None
    num_speculative_tokens: Choices[Annotated[int, Field(ge=0, le=16)]] | None = None
    scheduler_options: OptionChoices = ()
    router_options: OptionChoices = ()
    stages: Choices[Layout] | None = Field(default=None, exclude_if=lambda value: value is None)
    system_options: OptionChoices = Field(default=(), exclude_if=lambda value: not value)
    prefill: PoolSpaceSpec | None = None
    decode: PoolSpaceSpec | None = None


class SearchSpec(Spec):
    """The search: its space, the most GPUs a deployment may use, and how much to simulate.

    space: lists of values to choose from, by key of the deployment; max_gpus: of a deployment, all pools together.
    objective: the highest throughput per GPU, the fewest GPUs, the lowest cost per hour, or the front of throughput
    per GPU, tokens/s per user, cost and energy, each under the SLO; trials: simulated configurations at most; batch:
    how many of them are chosen together, by what the ones before found, and simulated at once: as many workers can be
    busy, and trials do not depend on how many there are; requests: simulate only the first so many; timeout_s: stop
    asking for new trials after so many seconds; sampler: what proposes after the screen; prune: give a configuration
    up as soon as its first requests have made the SLO unreachable; replications: workload seeds with which the best
    few are played again, all with the same ones.
    """

    space: SpaceSpec = SpaceSpec()
    objective: Objective = "throughput"
    max_gpus: int | None = Field(default=None, ge=1)
    trials: int = Field(default=40, ge=1, le=100_000)
    batch: int = Field(default=BATCH, ge=1, le=10_000)
    requests: int | None = Field(default=None, ge=1)
    timeout_s: float | None = Field(default=None, gt=0)
    sampler: Literal["tpe", "nsga2", "gp"] = "tpe"
    prune: bool = False
    replications: int = Field(default=1, ge=1, le=1000)


class StudySpec(Spec):
    """One question. `deployment` alone is a simulation, with `search` its space is explored.

    name: of the study and its results, that of the file without one; model: Hugging Face id (`simserve models list`),
    or path to a config.json; workload: what arrives; slo: the promise to keep; deployment: what a simulation plays, and
    what a search leaves as it is; search: what may be chosen, and how; seed: of all random streams.
    expect: for `simserve check`; decides nothing, so that results and journals are the same without it.
    deployments: name -> what it has different from `deployment` (null: the default), for `simserve compare`.
    """

    name: Name = "study"
    model: str
    workload: WorkloadSpec
    slo: SloSpec | None = None
    deployment: DeploymentSpec = DeploymentSpec()
    deployments: dict[Name, Annotated[DeploymentSpec, OrNull()]] | None = Field(default=None, min_length=1)
    search: SearchSpec | None = None
    seed: int = Field(default=0, ge=0)
    expect: ExpectSpec | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _deployments_rest_on_the_one(cls, data: Any) -> Any:
        """Each of `deployments` over `deployment`, key by key."""
        if not isinstance(data, Mapping) or not isinstance(data.get("deployments"), Mapping):
            return data
        base = data.get("deployment")
        plain = base.model_dump(exclude_unset=True) if isinstance(base, DeploymentSpec) else base or {}
        return {**data, "deployments": {name: _over(plain, own) for name, own in data["deployments"].items()}}

    @model_validator(mode="after")
    def _a_link_has_pools_at_its_ends(self) -> StudySpec:
        searched = self.search is not None and "disaggregated" in (self.search.space.mode or ())
        for deployment in (self.deployment, *(self.deployments or {}).values()):
            if deployment.kv_link is not None and deployment.system is None and not searched:
                raise ValueError("deployment.kv_link is for a system with pools, or a search with mode: disaggregated")
        return self


def _over(base: Any, own: Any) -> Any:
    """A mapping over another; what is no mapping is left for the validation to refuse."""
    if own is None:
        own = {}
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return own
    return {key: value for key, value in {**base, **own}.items() if key not in own or own[key] is not None}


def find_study(given: Path) -> Path:
    """A bare name ('quickstart') is a study that comes with simserve; everything else is a path.

    SpecError for a file that is not there, UnknownName for a name; both say what was probably meant.
    """
    if given.exists():
        return given
    shipped = {path.stem: path for path in reversed(list(data_files("studies")))}
    studies = {name: path for name, path in shipped.items() if path.parent.name not in STUDY_FOLDERS}
    name = str(given)
    if given.suffix or len(given.parts) != 1:
        raise SpecError("no such file", file=name, nearest=_nearest_file(given, studies))
    if name in studies:
        return studies[name]
    if name in shipped:
        command = "reproduce" if shipped[name].parent.name == STUDY_FOLDERS[0] else "validate --records"
        raise SpecError(f"{name!r} is no study of this kind; `simserve {command} {name}` plays it")
    raise UnknownName("study", name, studies)


def _nearest_file(given: Path, shipped: Iterable[str]) -> str | None:
    """A YAML file beside the one that is missing, else a study that comes with simserve."""
    if beside := nearest_file(given, YAML_SUFFIXES):
        return beside
    close = difflib.get_close_matches(given.stem, list(shipped), n=1, cutoff=0.7)
    return close[0] if close else None


def load_study(path: Path | str) -> StudySpec:
    """Read a study file; without a `name` it is called like the file."""
    return parse_study(read_yaml(path))


def parse_study(located: Located) -> StudySpec:
    """A study that was read; without a `name` it is called like its file."""
    if isinstance(located.data, dict) and "name" not in located.data and located.file:
        located = Located({"name": Path(located.file).stem, **located.data}, located.lines, located.file)
    return parse(StudySpec, located)
