"""Reading columns of CSV and JSON files (gzipped or not), with errors that name file, row and column."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData, SpecError, nearest_name
from simserve.paths import nearest_file
from simserve.spec.lengths import LONGEST
from simserve.units import NS_PER_MS, NS_PER_S, NS_PER_US

_UNITS = {"s": NS_PER_S, "ms": NS_PER_MS, "us": NS_PER_US, "ns": 1}
_MOST_SECONDS = 1e10  # since 1970 until the year 2286; larger numbers are not seconds


def resolve(path: str, base_dir: Path | None) -> Path:
    """`path` relative to the study's folder, or else to the current one; MissingData if neither has it."""
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() else [p / given for p in (base_dir, Path()) if p is not None]
    for place in places:
        if place.is_file():
            return place
    if any(place.is_dir() for place in places):
        raise SpecError("is a folder, not a file", file=path)
    looked = ", ".join(dict.fromkeys(str(p.parent.resolve()) for p in places))
    near = nearest_file(Path(path))
    meant = f"; did you mean {near!r}?" if near else ""
    raise MissingData(f"{path}: no such file (looked in {looked}){meant}")


def read_columns(path: Path, wanted: Mapping[str, str]) -> dict[str, NDArray[np.int64]]:
    """Columns of a CSV as int64: kind "int" as it stands, kind "time" as ns since the first row, which is written as a
    date and time, or as a number of seconds; kinds "s", "ms", "us" and "ns" are numbers of these.
    """
    frame = _read(path)
    for name in wanted:
        if name not in frame.columns:
            known = [str(c) for c in frame.columns]
            problem = f"the column is missing; the file has {', '.join(known)}"
            raise SpecError(problem, file=str(path), key=name, nearest=nearest_name(name, known))
    if frame.empty:
        raise SpecError("the file has no rows", file=str(path))
    return {name: _convert(frame[name], kind, path) for name, kind in wanted.items()}


def header(path: Path) -> list[str]:
    """The names of a CSV's columns."""
    return [str(name) for name in _read(path, rows=0).columns]


def _read(path: Path, rows: int | None = None) -> Any:
    """A CSV as text."""
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, skip_blank_lines=True, nrows=rows)
    except pd.errors.EmptyDataError:
        raise SpecError("the file has no rows", file=str(path)) from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError) as error:
        raise SpecError(f"not a CSV file ({' '.join(str(error).split())})", file=str(path)) from None


def read_json_lengths(path: Path, key: str | None) -> NDArray[np.int64]:
    """Token counts, at least 1: a JSON list of whole numbers or, with `key`, of objects that have it."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            data = json.load(file)
    except (ValueError, OSError, EOFError, RecursionError) as error:
        raise SpecError(f"not a JSON file ({' '.join(str(error).split())})", file=str(path)) from None
    if not isinstance(data, list):
        raise SpecError("must be a list of lengths", file=str(path))
    if not data:
        raise SpecError("the file has no rows", file=str(path))
    return np.array([_json_length(item, key, f"{path}, row {n}") for n, item in enumerate(data, 1)], dtype=np.int64)


def _json_length(item: Any, key: str | None, row: str) -> int:
    """One entry of a list of lengths."""
    if key is None and isinstance(item, dict):
        names = ", ".join(map(str, item))
        raise SpecError(f"an object, not a number; say which key as `column`: {names}", file=row)
    if key is not None:
        if not isinstance(item, dict):
            raise SpecError("not an object", file=row, key=key)
        if key not in item:
            raise SpecError(f"the key is missing; the row has {', '.join(item) or 'none'}", file=row, key=key,
                            nearest=nearest_name(key, item))  # fmt: skip
        item = item[key]
    if type(item) is not int or not 1 <= item <= LONGEST:
        raise SpecError(f"not a whole number from 1 to {LONGEST}", file=row, key=key, value=item)
    return item


def _convert(column: Any, kind: str, path: Path) -> NDArray[np.int64]:
    """A pandas column of text as int64; SpecError names the first row that is neither time nor number."""
    import pandas as pd

    if kind in _UNITS or (kind == "time" and _is_number(column.iloc[0])):
        return _clock(column, kind, path)
    if kind == "time":
        try:
            parsed: Any = pd.to_datetime(column, errors="coerce", format="ISO8601")
        except ValueError:
            problem = "times with and without a time zone are mixed"
            raise SpecError(problem, file=str(path), key=str(column.name)) from None
    else:
        parsed = pd.to_numeric(column, errors="coerce")
        parsed = parsed.where(parsed == parsed.round())
        large = np.flatnonzero(parsed.abs().to_numpy() > LONGEST)
        if len(large):
            row = int(large[0])
            raise SpecError(f"larger than {LONGEST}", file=f"{path}, row {row + 2}", key=str(column.name),
                            value=column.iloc[row])  # fmt: skip
    bad = np.flatnonzero(parsed.isna().to_numpy())
    if len(bad):
        row, what = int(bad[0]), "a time" if kind == "time" else "a whole number"
        raise SpecError(f"not {what}", file=f"{path}, row {row + 2}", key=str(column.name),
                        value=column.iloc[row])  # fmt: skip
    if kind == "time":
        parsed = (parsed - parsed.iloc[0]).to_numpy().astype("timedelta64[ns]")
    return np.asarray(parsed, dtype=np.int64)


def _is_number(text: object) -> bool:
    """Whether a time is a number; four digits are a year."""
    try:
        float(str(text))
    except ValueError:
        return False
    return not re.fullmatch(r"\d{4}", str(text))


def _clock(column: Any, kind: str, path: Path) -> NDArray[np.int64]:
    """Times that are numbers, as ns since the first row."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        row = int(bad[0])
        raise SpecError("not a number", file=f"{path}, row {row + 2}", key=str(column.name), value=column.iloc[row])
    if kind == "time" and numbers[0] > _MOST_SECONDS:
        raise SpecError(f"too large for seconds; say the unit in the column's name: {column.name}_ms, _us or _ns",
                        file=str(path), key=str(column.name), value=column.iloc[0])  # fmt: skip
    return np.asarray(np.rint((numbers - numbers[0]) * _UNITS.get(kind, NS_PER_S)), dtype=np.int64)
