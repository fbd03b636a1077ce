"""Which measured device stands in for one without tables, and how far its peaks are believed.

The entries, with their evidence, are in `perfdb/relatives.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from simserve.errors import SpecError, nearest_name
from simserve.paths import find_data
from simserve.perf import roofline, store
from simserve.perf.gemm import GemmTable
from simserve.perf.scattered import ScatteredGemms, is_scattered
from simserve.spec.hardware import GpuSpec, load_gpu

_LARGE_M, _LARGE_SHAPE = 4096, 4096
# Share of the bandwidth that streaming decode attention reaches in the tables of A100 to B200.
MEASURED_MEMORY_UTILISATION = 0.8


@dataclass(frozen=True)
class Relative:
    """An entry of the file; see there."""

    of: tuple[str, ...]
    why: str
    all_reduce_of: tuple[str, ...] = ()
    gemm_utilisation: float | None = None
    memory_utilisation: float | None = None

    def sources(self, family: str) -> tuple[str, ...]:
        """Devices whose table of `family` may answer, the nearest first."""
        return (self.all_reduce_of or self.of) if family == "all_reduce" else self.of


@lru_cache(maxsize=1)
def relatives() -> dict[str, Relative]:
    """Device -> its relative; SpecError for an entry that is not as described."""
    import yaml

    path = find_data("perfdb", "relatives")
    data: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = Relative.__dataclass_fields__
    for device, entry in data.items():
        for key in entry:
            if key not in known:
                raise SpecError("unknown key", file=str(path), key=f"{device}.{key}", nearest=nearest_name(key, known))
    return {device: _relative(entry) for device, entry in data.items()}


def _relative(entry: dict[str, Any]) -> Relative:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Relative(**fields)


def source_for(
    gpu: GpuSpec, family: str, key: str = "", value: str = "", own: Sequence[str] = (),
    holds: Callable[[str], bool] = lambda name: True,
) -> str | None:  # fmt: skip
    """The relative whose table of `family` answers for `gpu`, with rows where key = value; None for none.

    own: of an engine with tables of its own their names, which go first; holds: whether such a table has the rest.
    """
    base = gpu.name.partition("/")[0]
    names: tuple[str, ...] = (base,) if base != gpu.name else ()
    if gpu.like is not None:
        base = likeness(gpu).name
        theirs = (f"{base}/{folder}" for folder in own)
        names += (*(name for name in theirs if has_rows(name, family, key, value) and holds(name)), base)
    relative = relatives().get(base)
    names += relative.sources(family) if relative is not None else ()
    return next((name for name in names if has_rows(name, family, key, value)), None)


def likeness(gpu: GpuSpec) -> GpuSpec:
    """The GPU at the end of `like`, itself without one; SpecError if that goes in a circle."""
    seen = [gpu.name]
    while gpu.like is not None:
        gpu = load_gpu(gpu.like)
        if gpu.name in seen:
            raise SpecError(f"goes in a circle: {', '.join(seen)}", key="like", value=gpu.name)
        seen.append(gpu.name)
    return gpu


def has_rows(device: str, family: str, key: str, value: str) -> bool:
    """Whether there is a table with rows where key = value (any rows if `key` is empty)."""
    return store.has_table(device, family) and (not key or value in _values(device, family, key))


@lru_cache(maxsize=256)
def _values(device: str, family: str, key: str) -> frozenset[str]:
    """Distinct strings of a key column, from the provenance's list if it has one."""
    return frozenset(store.provenance(device, family).get(f"{key}s") or store.words(device, family, key))


@lru_cache(maxsize=32)
def rated(gpu: GpuSpec, source: GpuSpec) -> GpuSpec:
    """`gpu` with its peaks scaled so that the utilisation of `source` gives what publications say of `gpu`."""
    base = likeness(gpu).name.partition("/")[0]
    relative = relatives().get(base)
    if relative is None or source.name.partition("/")[0] == base:
        return gpu
    compute = memory = 1.0
    if relative.gemm_utilisation is not None:
        compute = relative.gemm_utilisation / large_gemm_utilisation(source)
    if relative.memory_utilisation is not None:
        memory = relative.memory_utilisation / MEASURED_MEMORY_UTILISATION
    return gpu.model_copy(update={
        "peak_flops": {name: round(value * compute) for name, value in gpu.peak_flops.items()},
        "memory_bandwidth_bytes_per_s": round(gpu.memory_bandwidth_bytes_per_s * memory),
    })  # fmt: skip


def gemm_table(
    gpu: GpuSpec, source: GpuSpec, dtype: str, columns: store.Columns | None = None
) -> GemmTable | ScatteredGemms:
    """The GEMMs of `source` on the roofline of `gpu`: a grid of shapes, or the few of some models."""
    rows = "bf16" if dtype == "fp16" else dtype
    if columns is None:
        columns = store.read_table(source.name, "gemm", {"dtype": rows})
    return (ScatteredGemms if is_scattered(columns) else GemmTable)(gpu, source, dtype, columns)


@lru_cache(maxsize=32)
def large_gemm_utilisation(source: GpuSpec) -> float:
    """Median share of the 16-bit peak over the measured GEMMs of at least 4,096 in every dimension."""
    columns = store.read_table(source.name, "gemm", {"dtype": "bf16"})
    m, n, k, ns = (columns[name].astype(np.float64) for name in ("m", "n", "k", "latency_ns"))
    large = (n >= _LARGE_SHAPE) & (k >= _LARGE_SHAPE) & (m >= min(_LARGE_M, m.max()))
    flop_per_ns = 2 * m[large] * n[large] * k[large] / ns[large]
    return float(np.median(flop_per_ns)) * roofline.NS / roofline.peak_flops(source, "bf16")
