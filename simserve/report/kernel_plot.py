"""A kernel table as a picture: a heat map over its last two keys, or a curve over the last, with its holes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import SpecError, UnknownName
from simserve.perf import store

_NS_PER_US = 1000


def chosen(columns: store.Columns, family: str, fixed: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """({key: value} of the rows to draw, the one or two keys to draw over).

    fixed: what the user chose; other keys take their commonest value until two are left, the last ones that vary.
    """
    keys = list(store.KEYS[family])
    for name in fixed:
        if name not in keys:
            raise UnknownName(f"key of {family}", name, keys)
    free = [k for k in keys if k not in fixed and _numeric(columns[k]) and len(np.unique(columns[k])) > 1][-2:]
    found: dict[str, Any] = {}
    rows = np.ones(len(columns["latency_ns"]), dtype=np.bool_)
    for key in (k for k in keys if k not in free):
        values, counts = np.unique(columns[key][rows].astype(str), return_counts=True)
        value = fixed.get(key, str(values[int(np.argmax(counts))]))
        if value not in values:
            raise SpecError(f"no rows; there are {', '.join(values[:12].tolist())}", key=key, value=value)
        found[key] = value
        rows &= columns[key].astype(str) == value
    return found, free


def kernel_picture(device: str, family: str, fixed: Mapping[str, str], path: Path) -> bytes:
    """The picture in the format of `path` (.png, .svg, .pdf)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    columns = store.read_table(device, family)
    held, free = chosen(columns, family, fixed)
    rows = np.ones(len(columns["latency_ns"]), dtype=np.bool_)
    for key, value in held.items():
        rows &= columns[key].astype(str) == value
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    panel = figure.subplots()
    time_us = columns["latency_ns"][rows].astype(np.float64) / _NS_PER_US
    if len(free) == 2:
        y, x = (columns[key][rows].astype(np.float64) for key in free)
        _heat_map(figure, panel, y, x, time_us)
        panel.set_ylabel(free[0])
    else:
        order = np.argsort(columns[free[-1]][rows])
        panel.loglog(columns[free[-1]][rows][order], time_us[order], "o-", color="#0072B2", markersize=3)
        panel.set_ylabel("time, us")
    panel.set_xlabel(free[-1])
    about = ", ".join(f"{key} {value}" for key, value in held.items())
    panel.set_title(f"{device} {family}: {about}", loc="left", fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format=path.suffix.lstrip("."), dpi=110)
    return out.getvalue()


def _heat_map(figure: Any, panel: Any, y: Any, x: Any, time_us: Any) -> None:
    """Cells of equal size, one per measured value of each key; grey where nobody measured."""
    from matplotlib.colors import LogNorm

    xs, ys = np.unique(x), np.unique(y)
    grid = np.full((len(ys), len(xs)), np.nan)
    grid[np.searchsorted(ys, y), np.searchsorted(xs, x)] = time_us
    panel.set_facecolor("#CCCCCC")
    shown = panel.pcolormesh(np.ma.masked_invalid(grid), norm=LogNorm(), cmap="viridis")
    figure.colorbar(shown, ax=panel, label="time, us (grey: not measured)")
    for axis, values in ((panel.xaxis, xs), (panel.yaxis, ys)):
        step = -(-len(values) // 12)
        axis.set_ticks(np.arange(len(values))[::step] + 0.5, [f"{v:g}" for v in values[::step]])
    panel.tick_params(axis="x", rotation=45)


def _numeric(values: Any) -> bool:
    return bool(np.issubdtype(values.dtype, np.number))
