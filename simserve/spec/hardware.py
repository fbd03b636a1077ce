"""Accelerators, links and hosts: bytes, bytes per second, nanoseconds, each number with its source."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from simserve.errors import UnknownName
from simserve.paths import data_dirs
from simserve.spec.base import Spec
from simserve.spec.catalogue import Catalogue, NamedSpec, S

Dtype = Literal["bf16", "fp16", "fp8", "int8", "fp4", "fp32"]
PcieName = Literal["pcie3_x16", "pcie4_x16", "pcie5_x16"]


class Sourced(NamedSpec):
    """A description in which every number names where it comes from.

    sources: field -> publication, or 'peak_flops.bf16' -> publication for an entry of a table. Evidence tags:
    [recalled] = a vendor figure quoted from memory in a research note; [derived] = worked out here.
    """

    title: str
    note: str = ""
    sources: dict[str, str]

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.name, tuple(v for _, v in _numbers(self))))

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> Sourced:
        numbers = {key for key, _ in _numbers(self)}
        missing = sorted(k for k in numbers if not self.sources.get(k, "").strip())
        if missing:
            raise ValueError(f"no source for {', '.join(missing)}; add it under 'sources'")
        surplus = sorted(set(self.sources) - numbers)
        if surplus:
            raise ValueError(f"sources names {', '.join(surplus)}, which is no number of this file")
        return self


class GpuSpec(Sourced):
    """One accelerator.

    memory_bytes: what CUDA reports as the card's total, which is what `gpu_memory_utilization` multiplies;
    below the nominal capacity by ECC and the driver's reserve. peak_flops: dense FLOP/s per number format;
    a format that is missing is one that the card does not compute in. interconnect: link to the other GPUs
    of the node; inter_node_link: link of each GPU to other nodes; gpus_per_domain: GPUs that the interconnect spans,
    None for those of a node (72 in an NVL72 rack, whose nodes have 4); host_link: link to the CPU. idle_watts: with an
    engine loaded that has nothing to do, None where nothing was found;
    price_usd_per_hour: an assumption to edit; like: a GPU whose kernel tables answer, scaled to the peaks here, as for
    a what-if; None for what `perfdb/relatives.yaml` says.
    """

    vendor: str
    architecture: str
    memory_bytes: PositiveInt
    memory_bandwidth_bytes_per_s: PositiveInt
    peak_flops: dict[Dtype, PositiveInt] = Field(min_length=1)
    interconnect: str
    inter_node_link: str = "ib_400g"
    host_link: PcieName
    gpus_per_node: PositiveInt
    gpus_per_domain: PositiveInt | None = None
    tdp_watts: PositiveInt
    idle_watts: PositiveInt | None = None
    price_usd_per_hour: NonNegativeFloat
    like: str | None = None

    __hash__ = Sourced.__hash__

    @property
    def domain_gpus(self) -> int:
        """GPUs among which collectives never leave the interconnect."""
        return self.gpus_per_domain or self.gpus_per_node


class LinkSpec(Sourced):
    """One link of one GPU.

    bandwidth_bytes_per_s: per direction, as the standard states it; latency_ns: of one transfer, software
    included; efficiency: the share of the bandwidth that large transfers reach in measurements, None where no
    public figure was found.
    """

    kind: Literal["pcie", "nvlink", "infiniband", "roce", "nvme", "hccs"]
    bandwidth_bytes_per_s: PositiveInt
    latency_ns: PositiveInt
    efficiency: Annotated[float, Field(gt=0, le=1)] | None = None

    __hash__ = Sourced.__hash__

    @property
    def payload_bytes_per_s(self) -> int:
        """What large transfers reach: the standard's figure where no measurement was found."""
        return int(self.bandwidth_bytes_per_s * (self.efficiency or 1.0))


class HostSpec(Sourced):
    """One host, all sockets together.

    cores: physical cores that a serving process gets; memory_bandwidth_bytes_per_s: peak of all channels of
    all sockets; memory_bytes: None where the publications do not say; pcie: the link to each GPU.
    """

    sockets: PositiveInt
    cores: PositiveInt
    memory_bandwidth_bytes_per_s: PositiveInt
    memory_bytes: PositiveInt | None = None
    pcie: PcieName

    __hash__ = Sourced.__hash__


def _numbers(spec: Spec) -> Iterable[tuple[str, float]]:
    """Every number of a description as (key, value), entries of tables one by one."""
    for field in type(spec).model_fields:
        value: Any = getattr(spec, field)
        if isinstance(value, (int, float)):
            yield field, value
        elif isinstance(value, dict) and field != "sources":
            yield from ((f"{field}.{key}", entry) for key, entry in value.items())


@cache
def _gpus() -> Catalogue[GpuSpec]:
    return Catalogue("GPU", GpuSpec, "hw_specs", "gpus")


@cache
def _links() -> Catalogue[LinkSpec]:
    return Catalogue("link", LinkSpec, "hw_specs", "links")


@cache
def _hosts() -> Catalogue[HostSpec]:
    return Catalogue("host", HostSpec, "hw_specs", "hosts")


def _load(catalogue: Catalogue[S], name_or_path: str) -> S:
    path = Path(name_or_path).expanduser()
    return catalogue.read(path) if path.suffix in (".yaml", ".yml") else catalogue.get(name_or_path)


def load_gpu(name: str) -> GpuSpec:
    """A GPU by name ('h100_sxm', 'H100-SXM', 'h100') or YAML path; UnknownName with the nearest otherwise.

    'h100_sxm/vidur': the same GPU, priced by the kernel tables in perfdb/h100_sxm/vidur first.
    """
    base, _, tables = name.partition("/")
    if not tables or Path(name).suffix in (".yaml", ".yml"):
        return _load(_gpus(), name)
    gpu = _load(_gpus(), base)
    known = {p.name for d in data_dirs("perfdb") for p in (d / gpu.name).glob("*") if p.is_dir()}
    if tables not in known:
        raise UnknownName(f"source of tables of {gpu.name}", tables, known)
    return gpu.model_copy(update={"name": f"{gpu.name}/{tables}"})


def load_link(name: str) -> LinkSpec:
    """A link by name ('nvlink4', 'pcie4_x16') or YAML path; UnknownName with the nearest otherwise."""
    return _load(_links(), name)


def load_host(name: str) -> HostSpec:
    """A host by name ('epyc_7r32') or YAML path; UnknownName with the nearest otherwise."""
    return _load(_hosts(), name)


def gpu_names() -> list[str]:
    """Names of all GPUs, the user's own included."""
    return _gpus().names()


def link_names() -> list[str]:
    """Names of all links."""
    return _links().names()


def host_names() -> list[str]:
    """Names of all hosts."""
    return _hosts().names()
