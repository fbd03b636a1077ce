"""From a workload description to its requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.sim.rng import stream
from simserve.spec.workload import TraceSpec, WorkloadSpec
from simserve.workload.arrivals import arrival_times_ns
from simserve.workload.azure import read_azure
from simserve.workload.blocks import read_blocks
from simserve.workload.files import resolve
from simserve.workload.lengths import lengths
from simserve.workload.requests import RequestSet


def build_workload(spec: WorkloadSpec, *, seed: int, base_dir: Path | None = None) -> RequestSet:
    """The requests of `spec`, the same for the same seed; paths are relative to `base_dir`, then the cwd."""
    if spec.trace is not None:
        return _trace(spec.trace, base_dir)
    count = spec.requests or 0
    assert spec.arrivals is not None
    assert spec.prompt_tokens is not None
    assert spec.output_tokens is not None
    return RequestSet(
        arrival_ns=arrival_times_ns(spec.arrivals, count, stream(seed, "arrivals")),
        prompt_tokens=lengths(spec.prompt_tokens, count, stream(seed, "lengths:prompt"), base_dir),
        output_tokens=lengths(spec.output_tokens, count, stream(seed, "lengths:output"), base_dir),
        priority=np.zeros(count, dtype=np.int64),
        concurrency=spec.arrivals.concurrency if spec.arrivals.kind == "closed_loop" else None,
        provenance={"kind": "drawn", "seed": seed, **spec.model_dump(mode="json", exclude_none=True)},
    )


def _trace(spec: TraceSpec, base_dir: Path | None) -> RequestSet:
    path = resolve(spec.path, base_dir)
    if spec.format == "azure":
        return read_azure(path, rate_scale=spec.rate_scale, limit=spec.limit)
    return read_blocks(path, spec.format, rate_scale=spec.rate_scale, limit=spec.limit)
