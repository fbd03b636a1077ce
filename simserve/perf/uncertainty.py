"""How far a price may be off: the half-width of a 90 % interval, relative to it, from what was measured about errors.

- interpolated, or taken from the same silicon with other memory: the 90th percentile of the table's left-out error;
- measured: the median of the same, for what other clocks, drivers and repeats do to a row [guessed];
- modelled, transferred: the 90th percentile when devices with tables are priced without them; modelled from rows of a
  table that were continued or rescaled: the 90th percentile of such prices against a second source where one measured
  them, and at least the table's own; `perfdb/uncertainty.yaml`;
- host: 1.645 standard errors of the fitted constant.

Errors of one family are taken as the same for all its operations in a run, those of different families as
independent, so a run's half-width is the root of the sum of squares of (share of time x half-width).

Where the engine's profile was calibrated, how far its predictions were from the runs that it was fitted to says more
than the kernels' errors: `residuals`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import exp, hypot, log1p, sqrt
from typing import Any

from simserve.paths import find_data
from simserve.perf import store
from simserve.perf.host import EngineProfile
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec, load_gpu

NORMAL_90 = 1.645  # half of a normal distribution's 90 % interval, in standard deviations
UNKNOWN = 1.0


def family_of(price: Priced) -> str:
    """'gemm' of 'h100_sxm/gemm' or 'roofline/gemm', 'host' of an engine profile."""
    device, _, family = price.table.rpartition("/")
    return "host" if device == "engines" else family


def half_width(price: Priced, profile: EngineProfile, gpu: GpuSpec) -> float:
    """Relative half-width of the 90 % interval of one price on `gpu`."""
    if price.table.startswith("engines/"):
        return NORMAL_90 * profile.host_ns_stderr / price.ns if price.ns else 0.0
    return _kernel_width(price.table, price.source, gpu, os.environ.get("SIMSERVE_DATA", ""))


@lru_cache(maxsize=1024)
def _kernel_width(table: str, source: str, gpu: GpuSpec, data: str) -> float:
    """Of what a table, or a model in its place, says; `data`: where tables are looked for, a part of the key."""
    device, _, family = table.rpartition("/")
    left_out: Mapping[str, Any] = store.provenance(device, family).get("left_out_error", {})
    if source == "measured":
        return float(left_out.get("median", UNKNOWN))
    own = float(left_out.get("p90", 0.0))
    if source == "interpolated" or (source == "transferred" and same_silicon(device, gpu)):
        return own or UNKNOWN
    known = _without_table(source)
    if source == "modelled" and device != "roofline":
        known = {**known, **_without_table("continued")}
    return max(own, known.get(family, UNKNOWN))


@lru_cache(maxsize=64)
def same_silicon(device: str, gpu: GpuSpec) -> bool:
    """Whether a table's device computes and connects as `gpu` does, with another size of memory."""
    other = load_gpu(device)
    return (other.peak_flops, other.interconnect) == (gpu.peak_flops, gpu.interconnect)


def combined(parts: Iterable[tuple[str, float, float]]) -> float:
    """Relative half-width of a sum from (family, ns, half-width) of its parts."""
    wide: dict[str, float] = {}
    whole = 0.0
    for family, ns, width in parts:
        wide[family] = wide.get(family, 0.0) + ns * width
        whole += ns
    return sqrt(sum(value * value for value in wide.values())) / whole if whole else 0.0


@dataclass(frozen=True)
class Residual:
    """90 % of measurements lie between the prediction over `factor` and times it; source: in words, whose residuals."""

    factor: float
    source: str


def residuals(
    profiles: Iterable[EngineProfile], half_width: float, *, what_if: bool = False
) -> dict[str, Residual]:
    """{'ttft', 'tpot'}: the widest calibrated interval of each; none where nothing was calibrated, or kernels err more.

    half_width: of the kernel errors of the run, which are larger where its device was priced from another's tables: no
    calibration point was. The residuals are those of a run's means, as clients see them. what_if: of a GPU that does
    not exist, which no residual knows of: the errors of its kernels come on top, in quadrature.
    """
    found: dict[str, Residual] = {}
    beside = log1p(half_width) if what_if else 0.0
    for profile in profiles:
        for metric, spread in (("ttft", profile.ttft_spread), ("tpot", profile.tpot_spread)):
            factor = exp(hypot(spread, beside)) if spread else 1.0
            least = found[metric].factor if metric in found else 1.0 + half_width
            if spread and factor >= least:
                _, _, points = dict(profile.sources)[f"{metric}_spread"].partition(" over ")
                errors = " and kernel error of a GPU that does not exist" if what_if else ""
                found[metric] = Residual(factor, f"calibration residuals of {points or profile.name}{errors}")
    return found


@lru_cache(maxsize=4)
def _without_table(source: str) -> dict[str, float]:
    import yaml

    data: dict[str, dict[str, float]] = yaml.safe_load(find_data("perfdb", "uncertainty").read_text(encoding="utf-8"))
    return data.get(source, {})
