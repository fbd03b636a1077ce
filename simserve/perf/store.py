"""Kernel tables on disk: `perfdb/<device>/<family>.parquet`, `provenance.json` beside; see its README."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData, SpecError, UnknownName
from simserve.paths import data_dirs

KEYS: dict[str, tuple[str, ...]] = {
    "gemm": ("dtype", "n", "k", "m"),
    "prefill_attention": ("kv_dtype", "head_dim", "heads", "kv_heads", "window", "past", "batch", "tokens"),
    "decode_attention": ("kv_dtype", "head_dim", "heads", "kv_heads", "window", "batch", "context"),
    "mla_prefill": ("part", "dtype", "kv_dtype", "heads", "past", "batch", "tokens"),
    "mla_decode": ("part", "dtype", "kv_dtype", "heads", "batch", "context"),
    "mla_bmm": ("op", "dtype", "heads", "tokens"),
    "dsa_prefill": ("hidden", "dtype", "kv_dtype", "heads", "past", "batch", "tokens"),
    "dsa_decode": ("hidden", "dtype", "kv_dtype", "heads", "batch", "context"),
    "gdn": ("op", "k_heads", "v_heads", "batch", "tokens"),
    "moe": ("dtype", "hidden", "inter", "experts", "topk", "tp", "ep", "distribution", "tokens"),
    "moe_exchange": ("op", "method", "ranks", "hidden", "experts", "topk", "tokens"),
    "encoder_attention": ("dtype", "head_dim", "heads", "batch", "tokens"),
    "elementwise": ("op", "dtype", "width", "tokens"),
    "all_reduce": ("method", "ranks", "bytes"),
    "collective": ("op", "method", "ranks", "bytes"),
    "host_copy": ("direction", "memory", "bytes", "pieces"),
    "cpu_decode_attention": ("dtype", "head_dim", "heads", "kv_heads", "threads", "batch", "context"),
}
FAMILIES = tuple(KEYS)
# Keys that hold text; all others are integers.
WORDS = frozenset(
    {"dtype", "kv_dtype", "method", "op", "part", "distribution", "direction", "memory", "kernel"}
)
Columns = dict[str, NDArray[np.generic]]
_FLOATS = {"double": "float64", "float": "float32", "halffloat": "float16"}


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One table: where it is, how many rows, and its entry of provenance.json."""

    device: str
    family: str
    path: Path
    rows: int
    size_bytes: int
    provenance: dict[str, Any]


def table_path(device: str, family: str) -> Path | None:
    """The table of a device and family, the user's own folder first (.parquet or .csv), or None."""
    key = os.environ.get("SIMSERVE_DATA", ""), device, family
    if key not in _found:
        folders = (folder / device for folder in data_dirs("perfdb"))
        paths = (folder / f"{family}{suffix}" for folder in folders for suffix in (".parquet", ".csv"))
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        _found[key] = path
    return _found[key]


_found: dict[tuple[str, str, str], Path] = {}  # pricing a run asks thousands of times; what is missing is not kept


def _is_own(path: Path) -> bool:
    """Whether a table is the user's, that is below a root of SIMSERVE_DATA: such tables are checked."""
    roots = [Path(root).expanduser() for root in os.environ.get("SIMSERVE_DATA", "").split(os.pathsep) if root]
    return path.suffix == ".csv" or any(path.is_relative_to(root) for root in roots)


def has_table(device: str, family: str) -> bool:
    """Whether there is a table of this family for this device."""
    return table_path(device, family) is not None


def read_table(device: str, family: str, where: dict[str, str | int] | None = None) -> Columns:
    """Columns of a table as arrays, only rows whose column equals the value in `where`.

    MissingData says how to build the table if there is none; SpecError what is wrong with a user's own one.
    """
    import pyarrow.parquet as pq

    path = table_path(device, family)
    if path is None:
        raise MissingData(
            f"no {family} table for {device} in perfdb; build it with "
            f"`simserve perfdb build --from aiconfigurator` (pip install 'simserve[aiconfigurator]')"
        )
    if _is_own(path):
        return _own_rows(path, device, family, where or {})
    metadata = pq.read_metadata(path)
    columns = [*KEYS[family], "latency_ns"]
    missing = sorted(set(columns) - set(metadata.schema.names))
    if missing:
        raise SpecError(f"table without column {', '.join(missing)}", file=str(path))
    words = [name for name in KEYS[family] if name in WORDS]
    # ParquetFile, not read_table: the latter imports pyarrow.dataset, 150 ms and 40 MB.
    with pq.ParquetFile(path, read_dictionary=words, metadata=metadata) as file:
        chosen = dict(where or {})
        first = file.read(columns=list(chosen), use_threads=False) if chosen else None
        keep = _matching(first, chosen) if first is not None else None
        table = file.read(columns=[c for c in columns if c not in chosen], use_threads=False)
        sources = {name: first if first is not None and name in chosen else table for name in columns}
        return {name: _as_array(source, name, keep) for name, source in sources.items()}


def words(device: str, family: str, key: str) -> set[str]:
    """Distinct values of a table's text column."""
    import pyarrow.parquet as pq

    path = table_path(device, family)
    if path is None or _is_own(path):
        return set(map(str, read_table(device, family)[key]))
    with pq.ParquetFile(path, read_dictionary=[key]) as file:
        return set(map(str, _codes(file.read(columns=[key], use_threads=False).column(key))[1] or ()))


def _own_rows(path: Path, device: str, family: str, where: dict[str, str | int]) -> Columns:
    from simserve.perf.own_tables import load

    columns = load(path, device, family)
    keep = np.ones(len(columns["latency_ns"]), dtype=np.bool_)
    for name, value in where.items():
        keep &= columns[name] == value
    return {name: values[keep] for name, values in columns.items()}


def _matching(table: Any, where: dict[str, str | int]) -> NDArray[np.int64]:
    """Indices of the rows whose columns equal the values in `where`."""
    keep = np.ones(table.num_rows, dtype=np.bool_)
    for name, value in where.items():
        codes, words = _codes(table.column(name))
        keep &= codes == (value if words is None else words.index(value) if value in words else -1)
    return np.flatnonzero(keep)


def _as_array(table: Any, name: str, keep: NDArray[np.int64] | None) -> NDArray[np.generic]:
    """A column of a table, the rows `keep` of it; text by way of its few distinct values."""
    codes, words = _codes(table.column(name))
    picked = codes if keep is None else codes[keep]
    return picked if words is None else np.array([*words, None], dtype=object)[picked]


def _codes(column: Any) -> tuple[NDArray[np.generic], list[Any] | None]:
    """Numbers of a column; of a text column the indices into the words that come with them."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return numbers(column.chunks, str(column.type)), None
    whole = column.unify_dictionaries().combine_chunks()
    chunks = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
    if not chunks:
        return np.zeros(0, dtype=np.int64), []
    indices = [c.indices for c in chunks]
    return numbers(indices, str(indices[0].type)), chunks[0].dictionary.to_pylist()


def numbers(chunks: list[Any], kind: str) -> NDArray[np.generic]:
    """Values of Arrow arrays without nulls, taken from their buffers: `to_numpy` would import pandas, 150 ms."""
    dtype = np.dtype(_FLOATS.get(kind, kind))
    parts = [np.frombuffer(c.buffers()[1], dtype=dtype)[c.offset : c.offset + len(c)] for c in chunks if len(c)]
    if not parts:
        return np.zeros(0, dtype=dtype)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def group_ids(columns: Columns, keys: tuple[str, ...]) -> NDArray[np.int64]:
    """A number per row, equal for rows whose `keys` are equal, in the order of the keys."""
    ids = np.zeros(len(columns["latency_ns"]), dtype=np.int64)
    for key in keys:
        values = columns[key]
        distinct, code = np.unique(values.astype(str) if values.dtype.kind == "O" else values, return_inverse=True)
        _, ids = np.unique(ids * len(distinct) + code.reshape(-1), return_inverse=True)
        ids = ids.reshape(-1).astype(np.int64)
    return ids


def groups(columns: Columns, keys: tuple[str, ...]) -> list[NDArray[np.int64]]:
    """Row indices of each distinct combination of `keys`."""
    ids = group_ids(columns, keys)
    order = np.argsort(ids, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(order) else []


def write_table(path: Path, family: str, columns: Columns) -> None:
    """Sort by the family's keys and write compactly (zstd; integers; strings as dictionaries)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = np.lexsort([columns[key] for key in reversed(KEYS[family])])
    names = [*KEYS[family], "latency_ns", *(["kernel"] if "kernel" in columns else [])]
    table = pa.table({name: columns[name][order] for name in names})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", compression_level=19, store_schema=False)


@lru_cache(maxsize=64)
def _provenance(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))


def provenance(device: str, family: str) -> dict[str, Any]:
    """What provenance.json says about a table (source, versions, licence, rows), {} if it says nothing."""
    path = table_path(device, family)
    if path is None:
        return {}
    whole = _provenance(path.parent / "provenance.json")
    shared = {key: value for key, value in whole.items() if key != "tables"}
    return {**shared, **whole.get("tables", {}).get(family, {})}


def left_out_error(device: str, family: str) -> float | None:
    """The median relative error of a table where each of its points was left out in turn; None if unknown."""
    path = table_path(device, family)
    tables = _provenance(path.parent / "provenance.json").get("tables", {}) if path is not None else {}
    median: float | None = tables.get(family, {}).get("left_out_error", {}).get("median")
    return median


def devices() -> list[str]:
    """Devices with at least one table; `h100_sxm/vidur`: another source of the same device."""
    found = {
        path.parent.relative_to(folder).as_posix()
        for folder in data_dirs("perfdb")
        for pattern in ("*/*", "*/*/*")
        for path in folder.glob(pattern)
        if path.suffix in (".parquet", ".csv") and path.stem in FAMILIES
    }
    return sorted(found)


def list_tables() -> list[TableInfo]:
    """All tables, by device, in the order of FAMILIES."""
    import pyarrow.parquet as pq

    rows: list[TableInfo] = []
    for device in devices():
        for family in FAMILIES:
            path = table_path(device, family)
            if path is not None:
                own = path.suffix == ".csv"
                count = len(read_table(device, family)["latency_ns"]) if own else pq.read_metadata(path).num_rows
                entry = provenance(device, family)
                rows.append(TableInfo(device, family, path, count, path.stat().st_size, entry))
    return rows


def show(device: str, family: str) -> dict[str, Any]:
    """Provenance, row count and the distinct values or range of every key of one table."""
    if family not in FAMILIES:
        raise UnknownName("table family", family, FAMILIES)
    if not has_table(device, family) and device not in devices():
        raise UnknownName("device with tables", device, devices())
    columns = read_table(device, family)
    return {
        "device": device,
        "family": family,
        "rows": len(columns["latency_ns"]),
        "columns": {name: _summary(values) for name, values in columns.items()},
        "provenance": provenance(device, family),
    }


def _summary(values: NDArray[np.generic]) -> dict[str, Any]:
    distinct = np.unique(values.astype(str) if values.dtype.kind == "O" else values)
    if len(distinct) <= 24:
        return {"values": distinct.tolist()}
    return {"distinct": len(distinct), "min": distinct[0].item(), "max": distinct[-1].item()}
