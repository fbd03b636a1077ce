"""GPUs that do not exist: a shipped one with other numbers, priced from its tables, scaled to the new peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simserve.errors import SpecError, nearest_name

_SOURCE = "what-if, not a product"
_FIXED = ("name", "title", "aliases", "like", "sources", "note", "vendor", "architecture")


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
    from simserve.spec.hardware import GpuSpec, load_gpu, load_link

    for name, given in (("base", base), ("path", path)):
        if not isinstance(given, str | Path):
            raise SpecError("must be text or a path", key=name, value=given)
    like, path = load_gpu(str(base)), Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise SpecError("a GPU file ends in .yaml", key="path", value=str(path))
    data = like.model_dump(mode="json", exclude_none=True)
    for key in numbers:
        if key not in GpuSpec.model_fields or key in _FIXED:
            known = [name for name in GpuSpec.model_fields if name not in _FIXED]
            raise SpecError("is no number of a GPU", key=key, nearest=nearest_name(key, known))
    for link in ("interconnect", "inter_node_link", "host_link"):
        load_link(str(numbers.get(link, getattr(like, link))))
    peaks = numbers.get("peak_flops", {})
    if not isinstance(peaks, Mapping):
        raise SpecError("must be a mapping of formats to FLOP/s", key="peak_flops", value=peaks)
    own = like.like or (str(Path(base).resolve()) if Path(base).suffix in (".yaml", ".yml") else like.name)
    data |= {"name": path.stem, "title": f"{like.title}, what-if", "aliases": [], "like": own, **numbers}
    data["peak_flops"] = {**like.peak_flops, **peaks}
    changed = {key for key in numbers if isinstance(data[key], int | float)}
    changed |= {f"peak_flops.{name}" for name in peaks}
    data["sources"] = {**like.sources, **dict.fromkeys(sorted(changed), _SOURCE)}
    data["note"] = f"{', '.join(numbers) or 'nothing'} changed; all else is {like.title}"
    parse(GpuSpec, data, file=str(path))
    return str(write_atomic(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True)))
