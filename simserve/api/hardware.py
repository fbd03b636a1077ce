"""GPUs that do not exist: a shipped one with other numbers, priced from its tables, scaled to the new peaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simserve.errors import SpecError, nearest_name

_SOURCE = "what-if, not a product"


def vary_gpu(base: str, path: Path | str, **numbers: Any) -> str:
    """Write the YAML of `base` with other numbers to `path`; what to give as a deployment's `gpu`.

    numbers: fields of `simserve.spec.hardware.GpuSpec` in their units (memory_bandwidth_bytes_per_s, memory_bytes,
    price_usd_per_hour, interconnect: the name of a link, ...); `peak_flops={"bf16": ...}` replaces those formats alone.
    Kernel times are those of `base`, scaled by what bounds each: prices of another GPU are `transferred`, with a wider
    interval. Raises UnknownName for `base`, SpecError for a field that there is not or a value that cannot be.

    >>> import simserve, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "h100_wide.yaml"
    >>> gpu = simserve.vary_gpu("h100_sxm", path, memory_bandwidth_bytes_per_s=6_700_000_000_000)
    >>> study = simserve.load_study("quickstart").change({"deployment.gpu": gpu})
    >>> run = simserve.simulate(study, requests=50, interval=False)
    >>> now = simserve.simulate("quickstart", requests=50, interval=False)
    >>> run.outcome.tpot_ms < now.outcome.tpot_ms
    True
    """
    import yaml

    from simserve.report.save import write_atomic
    from simserve.spec.base import parse
    from simserve.spec.hardware import GpuSpec, load_gpu

    like, path = load_gpu(base), Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise SpecError("a GPU file ends in .yaml", key="path", value=str(path))
    data = like.model_dump(mode="json", exclude_none=True)
    for key in numbers:
        if key not in GpuSpec.model_fields:
            raise SpecError("unknown key", key=key, nearest=nearest_name(key, GpuSpec.model_fields))
    data |= {"name": path.stem, "title": f"{like.title}, what-if", "aliases": [], "like": like.name, **numbers}
    data["peak_flops"] = {**like.peak_flops, **numbers.get("peak_flops", {})}
    changed = {key for key in numbers if isinstance(data[key], int | float)}
    changed |= {f"peak_flops.{name}" for name in numbers.get("peak_flops", {})}
    data["sources"] = {**like.sources, **dict.fromkeys(sorted(changed), _SOURCE)}
    parse(GpuSpec, data, file=str(path))
    return str(write_atomic(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True)))
