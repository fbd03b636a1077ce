"""Reading columns of CSV files (gzipped or not), with errors that name file, row and column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData, SpecError, nearest_name
from simserve.spec.workload import LONGEST


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
    raise MissingData(f"{path}: no such file (looked in {looked})")


def read_columns(path: Path, wanted: Mapping[str, str]) -> dict[str, NDArray[np.int64]]:
    """Columns of a CSV as int64: kind "int" as it stands, kind "time" as ns since the first row."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, skip_blank_lines=True)
    except pd.errors.EmptyDataError:
        raise SpecError("the file has no rows", file=str(path)) from None
    except (pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError) as error:
        raise SpecError(f"not a CSV file ({' '.join(str(error).split())})", file=str(path)) from None
    for name in wanted:
        if name not in frame.columns:
            known = [str(c) for c in frame.columns]
            problem = f"the column is missing; the file has {', '.join(known)}"
            raise SpecError(problem, file=str(path), key=name, nearest=nearest_name(name, known))
    if frame.empty:
        raise SpecError("the file has no rows", file=str(path))
    return {name: _convert(frame[name], kind, path) for name, kind in wanted.items()}


def _convert(column: Any, kind: str, path: Path) -> NDArray[np.int64]:
    """A pandas column of text as int64; SpecError names the first row that is neither time nor number."""
    import pandas as pd

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
