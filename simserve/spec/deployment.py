"""One deployment: which GPUs, how many, and how the engine on them is set. Names are vLLM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from simserve.spec.base import Spec
from simserve.spec.hybrid import HybridSpec
from simserve.spec.shapes import AsMapping
from simserve.spec.stages import Place, Placed, Stage, parse_stages, processes_of
from simserve.spec.tiers import TiersSpec, tiers_mismatch

Dtype = Literal["bf16", "fp16", "fp8", "fp8_block", "nvfp4"]
MoeDtype = Literal[
    "bf16", "fp16", "fp8", "fp8_block", "nvfp4", "int4_wo", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8"
]
All2All = Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]
KvCacheDtype = Literal["auto", "bf16", "fp16", "fp8"]
T = TypeVar("T")


def _pairs(value: Any) -> Any:
    """A mapping in YAML; kept as pairs, so that a deployment is hashable."""
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _by_name(pairs: tuple[tuple[str, T], ...]) -> tuple[tuple[str, T], ...]:
    """Equal options are equal, in whatever order they were written."""
    return tuple(sorted(pairs))


Pools = Annotated[tuple[tuple[str, "PoolSpec"], ...], BeforeValidator(_pairs), AsMapping()]
Options = Annotated[
    tuple[tuple[str, bool | int | float | str], ...], BeforeValidator(_pairs), AfterValidator(_by_name),
    AsMapping(),
]
Tp = Annotated[int, Field(ge=1, le=64)]
Replicas = Annotated[int, Field(ge=1, le=4096)]
Tokens = Annotated[int, Field(ge=1, le=1 << 20)]
Seqs = Annotated[int, Field(ge=1, le=1 << 16)]
Utilization = Annotated[float, Field(gt=0, le=1)]


class OffloadSpec(Spec):
    """KV of prompts in host memory and on an SSD, fetched back for requests that share a prefix.

    dram_gib, ssd_gib: for one replica, shared equally by its ranks; eviction: order in which blocks leave a full tier;
    retention_s: a block that was stored or used stays in host memory at least so long.
    """

    dram_gib: float = Field(gt=0, le=1 << 20)
    ssd_gib: float = Field(default=0.0, ge=0, le=1 << 30)
    ssd_link: str = "nvme4_x4"
    eviction: str = "lru"
    retention_s: float = Field(default=0.0, ge=0, le=1e9)


class PoolSpec(Spec):
    """What one pool of a system has different from the deployment; keys that are absent stay as there."""

    gpu: str | None = None
    tensor_parallel_size: Tp | None = None
    data_parallel_size: Tp | None = None
    pipeline_parallel_size: Tp | None = None
    prefill_context_parallel_size: Tp | None = None
    decode_context_parallel_size: Tp | None = None
    enable_expert_parallel: bool | None = None
    replicas: Replicas | None = None
    scheduler: str | None = None
    router: str | None = None
    dtype: Dtype | None = None
    max_num_batched_tokens: Tokens | None = None
    max_num_seqs: Seqs | None = None
    gpu_memory_utilization: Utilization | None = None
    num_gpu_blocks: int | None = Field(default=None, ge=2)
    max_model_len: int | None = Field(default=None, ge=2)
    enable_prefix_caching: bool | None = None
    scheduler_options: Options | None = None
    router_options: Options | None = None
    swap_space_gib: float | None = Field(default=None, ge=0)
    offload: OffloadSpec | None = None


class DeploymentSpec(Spec):
    """`replicas` engines of `gpus_per_replica` GPUs each, behind one router; or the pools of a system.

    gpu: name (`simserve hw list`), or path to a description; tensor_parallel_size: GPUs that share each layer;
    replicas: copies of the engine; scheduler, router: by name (`simserve explain`); max_num_batched_tokens: of a step;
    max_num_seqs: running requests; dtype: of the weights; block_size: tokens of a KV block; enable_prefix_caching: KV
    of equal beginnings is computed once; offload: KV of prefixes in host memory and on an SSD; acceptance_rate: of
    drafted tokens.
    data_parallel_size: groups of `tensor_parallel_size` ranks whose attention serves requests of its own and that share
    the experts; max_num_batched_tokens, max_num_seqs and num_gpu_blocks are then those of one such group.
    pipeline_parallel_size: stages of layers; prefill_context_parallel_size: ranks that share the tokens of a prompt;
    decode_context_parallel_size: tensor-parallel ranks that share a KV cache which they would each hold;
    moe_tensor_parallel_size: ranks that split each expert, None for 1 with enable_expert_parallel and for all without;
    all2all_backend: how tokens get to experts of other data-parallel ranks; inter_node_link: the link of one GPU to
    other nodes, None for that of the GPU's description.

    gpu_memory_utilization: what the engine calls its share of memory (mem_fraction_static under SGLang,
    free_gpu_memory_fraction under TensorRT-LLM), None for its default; num_gpu_blocks: KV blocks, None for what the
    memory leaves; max_model_len: tokens a request may reach, None for what model and KV cache allow; scheduler_options,
    router_options: other knobs by name (`simserve explain NAME` lists them); moe_dtype: format of the experts, None for
    dtype; enable_expert_parallel: whole experts on each rank instead of a part of every one; kv_cache_dtype: "auto" is
    16 bit, as vLLM; swap_space_gib: host memory per GPU for preempted requests, for schedulers that swap;
    snapshot_interval_ms: how old the router's view of the instances may be; system, pools: a system with pools such as
    `distserve`, and what each pool has different; stages: where encode, prefill and decode run, for a system of stages
    such as `epd_serve`, in its notation (`simserve.spec.stages`), whose processes then are the pools; system_options:
    knobs of the system by name; num_encoders: copies of a model's encoders on the GPUs of a replica, 0 for an engine
    that is shown text only; kv_link: the link per GPU over which pools hand KV over, None for the GPUs' own within a
    node, else 400 Gb/s InfiniBand; engine, engine_version: whose profile (`perfdb/engines`) prices what is not kernels,
    None for the one called like the scheduler, else vllm's; calibrated: with what was fitted to measured runs;
    kernel_efficiency: what kernels reach on this testbed of the rates that the tables have; async_scheduling: a step is
    planned while the one before it runs (the default of vLLM from 0.14, overlap of others); tiers: host memory and
    disks of an offline system (scheduler flexgen or instinfer); num_speculative_tokens: drafted by the model's own
    next-token layer in every decode step (MTP, EAGLE), each accepted with acceptance_rate if all before it were;
    hybrid: a host that keeps and attends KV of running requests, for the schedulers that use one (apex, fastdecode,
    neo); others leave it idle.
    """

    gpu: str = "h100_sxm"
    tensor_parallel_size: Tp = 1
    data_parallel_size: Tp = 1
    pipeline_parallel_size: Tp = 1
    prefill_context_parallel_size: Tp = 1
    decode_context_parallel_size: Tp = 1
    replicas: Replicas = 1
    scheduler: str = "vllm"
    router: str = "round_robin"
    max_num_batched_tokens: Tokens = 8192
    max_num_seqs: Seqs = 256
    dtype: Dtype = "bf16"
    moe_dtype: MoeDtype | None = None
    enable_expert_parallel: bool = False
    moe_tensor_parallel_size: Tp | None = None
    all2all_backend: All2All = "allgather_reducescatter"
    inter_node_link: str | None = None
    kv_cache_dtype: KvCacheDtype = "auto"
    gpu_memory_utilization: Utilization | None = None
    block_size: int = Field(default=16, ge=1, le=1024)
    num_gpu_blocks: int | None = Field(default=None, ge=2)
    max_model_len: int | None = Field(default=None, ge=2)
    enable_prefix_caching: bool = False
    scheduler_options: Options = ()
    router_options: Options = ()
    snapshot_interval_ms: float = Field(default=0.0, ge=0)
    swap_space_gib: float = Field(default=0.0, ge=0, le=1 << 20)
    offload: OffloadSpec | None = None
    tiers: TiersSpec | None = None
    system: str | None = None
    system_options: Options = Field(default=(), exclude_if=lambda value: not value)
    stages: str | None = Field(default=None, exclude_if=lambda value: value is None)
    pools: Pools = ()
    num_encoders: int = Field(default=1, ge=0, le=8, exclude_if=lambda value: value == 1)
    kv_link: str | None = None
    engine: str | None = None
    engine_version: str = ""
    calibrated: bool = True
    kernel_efficiency: float = Field(default=1.0, gt=0, le=1, exclude_if=lambda value: value == 1.0)
    async_scheduling: bool = False
    num_speculative_tokens: int = Field(default=0, ge=0, le=16)
    acceptance_rate: float = Field(default=0.7, ge=0, lt=1)
    hybrid: HybridSpec | None = None

    @model_validator(mode="after")
    def _budget_holds_the_batch(self) -> DeploymentSpec:
        for name, engine in self.engines():
            if engine.max_num_batched_tokens < engine.max_num_seqs:
                raise ValueError(
                    f"max_num_batched_tokens {engine.max_num_batched_tokens} is smaller than max_num_seqs "
                    f"{engine.max_num_seqs}{f' in pool {name}' if name else ''}; vLLM refuses that"
                )
            if engine.offload is not None and not engine.enable_prefix_caching:
                raise ValueError("offload needs enable_prefix_caching: true, for it goes by block hashes")
            alone = engine.gpus_per_replica == engine.tensor_parallel_size and engine.decode_context_parallel_size == 1
            if not alone and (engine.offload is not None or engine.swap_space_gib):
                raise ValueError("offload and swap_space_gib are modelled beside tensor parallelism alone")
        return self

    @model_validator(mode="after")
    def _tiers_fit_the_scheduler(self) -> DeploymentSpec:
        for _, engine in self.engines():
            if problem := tiers_mismatch(engine.scheduler, engine.tiers):
                raise ValueError(problem)
            if engine.tiers is not None and engine.gpus_per_replica > 1:
                raise ValueError("tiers are modelled beside one GPU a replica")
        return self

    @model_validator(mode="after")
    def _scheduling_ahead_fits(self) -> DeploymentSpec:
        if self.async_scheduling and any(engine.pipeline_parallel_size > 1 for _, engine in self.engines()):
            raise ValueError("async_scheduling is not modelled with pipeline_parallel_size above 1")
        return self

    @model_validator(mode="after")
    def _hybrid_stands_alone(self) -> DeploymentSpec:
        if self.hybrid is None:
            return self
        beside = {
            "enable_prefix_caching": self.enable_prefix_caching, "offload": self.offload is not None,
            "swap_space_gib": self.swap_space_gib, "system": self.system is not None,
            "async_scheduling": self.async_scheduling, "num_speculative_tokens": self.num_speculative_tokens,
            "more than one GPU per replica": self.gpus_per_replica > 1,
        }  # fmt: skip
        for name, used in beside.items():
            if used:
                raise ValueError(f"hybrid is not modelled with {name}")
        return self

    @model_validator(mode="after")
    def _pools_belong_to_a_system(self) -> DeploymentSpec:
        if self.pools and self.system is None:
            raise ValueError("pools need a system, e.g. system: distserve")
        if self.system_options and self.system is None:
            raise ValueError("system_options need a system, e.g. system: epd_serve")
        if self.stages is None and self.system is not None and not self.pools:
            raise ValueError(f"system {self.system} needs pools, one entry for each, which may be empty, or stages, "
                             "e.g. E-P-D, if it is one of stages")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _stages_are_a_layout(self) -> DeploymentSpec:
        if self.stages is None:
            return self
        if self.system is None:
            raise ValueError("stages need a system of stages, e.g. system: epd_serve")
        known = [placed.name for placed in self._processes]
        for name, _ in self.pools:
            if name not in known:
                raise ValueError(f"pool {name!r} is not in stages {self.stages}, which has {', '.join(known)}")
        if self.num_encoders > 1:
            raise ValueError("num_encoders above 1 does not go with stages: the layout says who holds one")
        if self.replicas != 1:
            raise ValueError("replicas do not go with stages: write the counts there, e.g. (E-PD)x2")
        for index, place in enumerate(self._places):
            self._check_place(index, place)
        return self

    def _check_place(self, index: int, place: Place) -> None:
        """Processes of one place use the same GPUs, and say how they share the memory."""
        own = [placed for placed in self._processes if placed.place == index]
        models = [placed.name for placed in own if placed.has_model]
        given = dict(self.pools)
        for placed in own:
            self._check_process(placed.name, given.get(placed.name, PoolSpec()), self._staged(placed), place)
        if len({(self._gpu(p), self._width(p, place)) for p in own}) > 1:
            raise ValueError(f"pools {' and '.join(p.name for p in own)} share GPUs: give them the same gpu and "
                             "tensor_parallel_size")  # fmt: skip
        shares = [given[name].gpu_memory_utilization or 2.0 if name in given else 2.0 for name in models]
        if len(models) > 1 and sum(shares) > 1:
            raise ValueError(f"pools {' and '.join(models)} share the memory of a GPU: give each of them its "
                             "gpu_memory_utilization, together at most 1")  # fmt: skip

    def _check_process(self, name: str, given: PoolSpec, own: DeploymentSpec, place: Place) -> None:
        """What the layout says is not said again, and parallelism is that of tensors."""
        if given.replicas is not None:
            raise ValueError(f"pool {name}: replicas do not go with stages: write the counts there, e.g. 2E-3P-3D")
        if given.tensor_parallel_size is not None and place.tensor_parallel_size > 1:
            raise ValueError(f"pool {name}: {self.stages} says tensor_parallel_size already")
        if own.gpus_per_replica != own.tensor_parallel_size or own.decode_context_parallel_size > 1:
            raise ValueError(f"pool {name}: stages are modelled with tensor parallelism alone, not {own.split}")

    @property
    def _places(self) -> tuple[Place, ...]:
        return parse_stages(self.stages or "")

    @property
    def _processes(self) -> list[Placed]:
        return processes_of(self._places)

    def _gpu(self, placed: Placed) -> str:
        """The GPU of a process: an encoder's where it says so, else that of the model beside it."""
        pool = dict(self.pools).get(placed.name)
        if pool is not None and pool.gpu is not None:
            return pool.gpu
        return self.gpu if placed.has_model else next(
            (self._gpu(p) for p in self._processes if p.place == placed.place and p.has_model), self.gpu
        )  # fmt: skip

    def _width(self, placed: Placed, place: Place) -> int:
        """GPUs of one process, those of the model beside it where an encoder does not say."""
        pool = dict(self.pools).get(placed.name)
        if pool is not None and pool.tensor_parallel_size is not None:
            return pool.tensor_parallel_size
        if placed.has_model:
            return place.tensor_parallel_size if place.tensor_parallel_size > 1 else self.tensor_parallel_size
        beside = (self._width(p, place) for p in self._processes if p.place == placed.place and p.has_model)
        return next(beside, 1)

    def encoders(self) -> list[tuple[Placed, DeploymentSpec]]:
        """Processes that encode only, with the deployment of each."""
        return [(placed, self._staged(placed)) for placed in self._processes if not placed.has_model]

    def process(self, name: str) -> Placed:
        """A process of `stages` by its name."""
        return next(placed for placed in self._processes if placed.name == name)

    def _staged(self, placed: Placed) -> DeploymentSpec:
        """The deployment of one process of `stages`: a prompt's needs the encoder too, for what the store has lost."""
        place, beside = self._places[placed.place], self._processes
        alone = sum(p.place == placed.place and not p.has_model for p in beside)
        switches = dict(self.system_options).get("role_switching") is True  # who decodes may encode later
        own = placed.has_model and (switches or bool(placed.process & {Stage.ENCODE, Stage.PREFILL}))
        pool = dict(self.pools).get(placed.name, PoolSpec())
        pool = pool.model_copy(update={
            "gpu": self._gpu(placed), "tensor_parallel_size": self._width(placed, place), "replicas": place.count
        })  # fmt: skip
        return self._of_pool(pool).model_copy(update={"num_encoders": alone + own if self.num_encoders else 0})

    def engines(self) -> list[tuple[str, DeploymentSpec]]:
        """(pool name, deployment of that pool alone) for each pool; ("", this one) without pools."""
        if self.stages is not None:
            return [(placed.name, self._staged(placed)) for placed in self._processes if placed.has_model]
        if not self.pools:
            return [("", self)]
        return [(name, self._of_pool(pool)) for name, pool in self.pools]

    def _of_pool(self, pool: PoolSpec) -> DeploymentSpec:
        own = {field: value for field in PoolSpec.model_fields if (value := getattr(pool, field)) is not None}
        alone = {"system": None, "system_options": (), "stages": None, "pools": (), "kv_link": None}
        return self.model_copy(update={**own, **alone})

    @property
    def gpus_per_replica(self) -> int:
        """GPUs of one engine of one pool."""
        stage = self.tensor_parallel_size * self.data_parallel_size * self.prefill_context_parallel_size
        return stage * self.pipeline_parallel_size

    @property
    def num_gpus(self) -> int:
        """GPUs of all replicas of all pools."""
        return sum(count for _, count in self.gpus)

    @property
    def gpus(self) -> list[tuple[str, int]]:
        """(GPU, how many) of each pool, or place of stages, in order."""
        if self.stages is None:
            return [(engine.gpu, engine.gpus_per_replica * engine.replicas) for _, engine in self.engines()]
        first = {placed.place: placed for placed in reversed(self._processes)}
        return [
            (self._gpu(first[i]), place.count * self._width(first[i], place)) for i, place in enumerate(self._places)
        ]

    @property
    def kv_block_tokens(self) -> int:
        """Tokens of one KV block over all ranks that share it."""
        return self.block_size * self.prefill_context_parallel_size * self.decode_context_parallel_size

    def kv_capacity(self, blocks: int) -> int:
        """Tokens that one request can have in a replica of `blocks` KV blocks: those of one data-parallel rank."""
        return (blocks - 1) // self.data_parallel_size * self.kv_block_tokens

    @property
    def split(self) -> str:
        """How a replica is spread over its GPUs, in short: 'TP4', 'TP2 DP4 EP'."""
        sizes = (
            ("TP", self.tensor_parallel_size), ("DP", self.data_parallel_size), ("PP", self.pipeline_parallel_size),
            ("PCP", self.prefill_context_parallel_size), ("DCP", self.decode_context_parallel_size),
        )  # fmt: skip
        words = [f"{name}{size}" for name, size in sizes if size > 1 or name == "TP"]
        shares = self.enable_expert_parallel and self.gpus_per_replica > self.pipeline_parallel_size
        return " ".join([*words, *(["EP"] if shares else [])])
