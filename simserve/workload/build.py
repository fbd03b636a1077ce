"""From a workload description to its requests."""

from __future__ import annotations

from pathlib import Path

from simserve.spec.workload import TraceSpec, WorkloadSpec
from simserve.workload.azure import read_azure
from simserve.workload.blocks import read_blocks
from simserve.workload.drawn import draw
from simserve.workload.files import resolve
from simserve.workload.requests import RequestSet


def build_workload(spec: WorkloadSpec, *, seed: int, base_dir: Path | None = None) -> RequestSet:
    """The requests of `spec`, the same for the same seed; paths are relative to `base_dir`, then the cwd."""
    if spec.trace is not None:
        return _trace(spec.trace, base_dir)
    return draw(spec, seed=seed, base_dir=base_dir)


def _trace(spec: TraceSpec, base_dir: Path | None) -> RequestSet:
    path = resolve(spec.path, base_dir)
    if spec.format == "azure":
        return read_azure(path, rate_scale=spec.rate_scale, limit=spec.limit)
    return read_blocks(path, spec.format, rate_scale=spec.rate_scale, limit=spec.limit)
