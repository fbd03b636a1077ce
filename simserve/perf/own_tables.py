"""A user's own kernel tables: $SIMSERVE_DATA/perfdb/<device>/<family>.csv or .parquet, checked row by row.

Refused in one line that names file, row, column and value (rows as lines of the CSV, counted from 1 in parquet):
a column that is missing, unknown or there twice; text where a whole number belongs; a number below 1 (`past` and
`window` may be 0); two rows of the same keys; and a wrong unit. latency_ns is in nanoseconds: a row faster than the
device's roofline with its caches granted, or than any kernel can be launched, or a table that typically takes a
hundred times its roofline and a generous launch, is in other units.
The columns are the keys of the family in `simserve.perf.store.KEYS`, latency_ns, and kernel if you like.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import Infeasible, SpecError, UnknownName, nearest_name
from simserve.perf import bounds, checks, store
from simserve.perf.store import KEYS, WORDS, Columns
from simserve.spec.hardware import GpuSpec, load_gpu, load_link
from simserve.units import MIB

MAY_BE_ZERO = ("past", "window")
FASTEST_NS = 300  # the shipped tables' fastest kernel takes 1360 ns
LAUNCH_NS = 30_000.0
# Median of latency / (LAUNCH_NS + roofline): 0.07 to 7.6 over all shipped tables.
SLOWEST_MEDIAN = 100.0
UNKNOWN_L2 = 256 * MIB


def load(path: Path, device: str, family: str) -> Columns:
    """Columns of the table at `path`, keys first; SpecError at the first thing that is wrong."""
    stat = path.stat()
    return _load(path, device, family, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _load(path: Path, device: str, family: str, _changed: int, _size: int) -> Columns:
    """`load`, once per version of the file."""
    names = [*KEYS[family], "latency_ns"]
    columns, lines = (_read_csv if path.suffix == ".csv" else _read_parquet)(path, names)
    file = str(path)
    if not len(lines):
        raise SpecError("holds no rows", file=file)
    for name in names:
        if name not in WORDS:
            least = 0 if name in MAY_BE_ZERO else 1
            values = columns[name].astype(np.int64)
            _refuse(values < least, values, lines, f"must be at least {least}", file, name)
    _refuse_repeats(columns, KEYS[family], lines, file)
    _refuse_units(columns, device, family, lines, file)
    return columns


def _read_csv(path: Path, names: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    file = str(path)
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.reader(handle)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(header, names, file)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise SpecError(f"is no CSV file: {error}", file=file) from None
    for line, row in rows:
        if len(row) != len(header):
            raise SpecError(f"needs {len(header)} values, one per column", file=file, line=line, value=len(row))
    at = {name: header.index(name) for name in names}
    columns: Columns = {}
    for name in names:
        cells = [(line, row[at[name]].strip()) for line, row in rows]
        if name in WORDS:
            columns[name] = np.array([_word(cell, line, file, name) for line, cell in cells], dtype=object)
        else:
            columns[name] = np.array([_whole(cell, line, file, name) for line, cell in cells], dtype=np.int64)
    return columns, np.array([line for line, _ in rows], dtype=np.int64)


def _read_parquet(path: Path, names: list[str]) -> tuple[Columns, NDArray[np.int64]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = str(path)
    try:
        table = pq.ParquetFile(path).read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise SpecError(f"is no parquet file: {str(error).splitlines()[0]}", file=file) from None
    _check_header(table.column_names, names, file)
    columns: Columns = {}
    for name in names:
        column = table.column(name)
        if not column.null_count and name not in WORDS and pa.types.is_integer(column.type):
            columns[name] = store.numbers(column.chunks, str(column.type)).astype(np.int64)
            continue
        check = _word if name in WORDS else _whole
        cells = [check(value, line, file, name) for line, value in enumerate(column.to_pylist(), 1)]
        columns[name] = np.array(cells, dtype=object if name in WORDS else np.int64)
    return columns, np.arange(1, table.num_rows + 1)


def _check_header(header: list[str], names: list[str], file: str) -> None:
    for name in names:
        if name not in header:
            near = nearest_name(name, [other for other in header if other not in names])
            raise SpecError("this column is missing", file=file, key=name, nearest=near)
    for name in header:
        if name not in (*names, "kernel"):
            raise SpecError(f"unknown column; the columns are {', '.join(names)}", file=file, key=name)
        if header.count(name) > 1:
            raise SpecError("this column stands here twice", file=file, key=name)


def _word(cell: Any, line: int, file: str, name: str) -> str:
    if not isinstance(cell, str) or not cell:
        raise SpecError("must be a word", file=file, line=line, key=name, value=cell)
    return cell


def _whole(cell: Any, line: int, file: str, name: str) -> int:
    """A whole number; 12.0 is one, 12.5, true and text are none."""
    try:
        number = float(cell)
        if isinstance(cell, bool) or number != int(number):
            raise ValueError
        return int(cell) if isinstance(cell, int) or str(cell).lstrip("+-").isdigit() else int(number)
    except (TypeError, ValueError, OverflowError):
        hint = "must be a whole number of nanoseconds" if name == "latency_ns" else "must be a whole number"
        raise SpecError(hint, file=file, line=line, key=name, value=cell) from None


def _refuse(
    wrong: NDArray[np.bool_], values: NDArray[Any], lines: NDArray[np.int64], why: str, file: str, key: str
) -> None:
    """SpecError for the first row of the mask, if any."""
    if wrong.any():
        row = int(np.argmax(wrong))
        raise SpecError(why, file=file, line=int(lines[row]), key=key, value=values[row].item())


def _refuse_repeats(columns: Columns, keys: tuple[str, ...], lines: NDArray[np.int64], file: str) -> None:
    ids = store.group_ids(columns, keys)
    _, first = np.unique(ids, return_index=True)
    if len(first) < len(ids):
        again = int(np.setdiff1d(np.arange(len(ids)), first)[0])
        before = int(lines[first[ids[again]]])
        raise SpecError(f"has the same keys as row {before} ({_keys(columns, keys, again)})", file=file,
                        line=int(lines[again]))  # fmt: skip


def _refuse_units(columns: Columns, device: str, family: str, lines: NDArray[np.int64], file: str) -> None:
    """Rows that the device cannot reach, and tables that it cannot need; physics only where it is known."""
    gpu = _gpu(device)
    if gpu is None or not (family in bounds.WORK or family in bounds.LINKED):
        return
    link, time = load_link(gpu.interconnect), columns["latency_ns"].astype(np.float64)
    l2 = checks.known_l2(gpu.name, UNKNOWN_L2)
    try:
        least = np.maximum(bounds.bound_ns(family, columns, gpu, link, l2), FASTEST_NS)
    except Infeasible as error:
        raise SpecError(str(error), file=file, key="dtype") from None
    if (time < least).any():
        row = int(np.argmin(time / least))
        why = f"faster than {gpu.name} can be at these keys, {least[row]:.0f} ns; the unit is nanoseconds"
        raise SpecError(f"{why} ({_keys(columns, KEYS[family], row)})", file=file, line=int(lines[row]),
                        key="latency_ns", value=int(time[row]))  # fmt: skip
    ratio = time / (LAUNCH_NS + bounds.bound_ns(family, columns, gpu, link))
    typical = float(np.median(ratio))
    if typical > SLOWEST_MEDIAN:
        row = int(np.argmax(ratio))
        why = f"rows take {typical:.0f} times what {gpu.name} needs at best, this one {ratio[row]:.0f} times"
        raise SpecError(f"{why}; the unit is nanoseconds ({_keys(columns, KEYS[family], row)})", file=file,
                        line=int(lines[row]), key="latency_ns", value=int(time[row]))  # fmt: skip


def _gpu(device: str) -> GpuSpec | None:
    """The device's description, None for one that has none (a CPU, a link)."""
    try:
        return load_gpu(device)
    except UnknownName:
        return None


def _keys(columns: Columns, keys: Iterable[str], row: int) -> str:
    return ", ".join(f"{key}={columns[key][row]}" for key in keys)
