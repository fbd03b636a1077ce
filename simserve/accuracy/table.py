"""Rows of a CSV as dataclasses: the columns are the fields, under the CSV's own names if a `Layout` says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field

from simserve.errors import MissingData, SpecError, nearest_name
from simserve.spec.base import Spec

T = TypeVar("T")
Cell = str | int | float | bool


class Layout(Spec):
    """How a CSV says what the fields of a row need.

    columns: field -> column, where the names differ (two fields may read the same column); values: field -> what a
    text of the CSV stands for, every text listed; constants: field -> the value of every row; where: column -> the
    texts that a row must have one of, or be left out.
    """

    columns: dict[str, str] = Field(default_factory=dict)
    values: dict[str, dict[str, Cell]] = Field(default_factory=dict)
    constants: dict[str, Cell] = Field(default_factory=dict)
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Kind(Generic[T]):
    """A kind of row: its dataclass; fields that must be given; that must be above 0; measured ones, at least one."""

    of: type[T]
    needed: tuple[str, ...]
    positive: tuple[str, ...]
    measured: tuple[str, ...]
    derived: tuple[str, ...] = ()  # fields that are no columns

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [f.name for f in fields(self.of) if f.name not in self.derived]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Rows(Generic[T]):
    """Rows in the order of the file, and how many were left out, by reason."""

    rows: list[T]
    left_out: dict[str, int]


def read_rows(path: Path, kind: Kind[T], layout: Layout | None = None) -> Rows[T]:
    """Rows of a CSV; SpecError names line and column of what is wrong. Without a layout no other columns may be."""
    import pandas as pd

    if not path.is_file():
        raise MissingData(f"{path}: no such file")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError, EOFError) as error:
        raise SpecError(f"not a CSV file ({' '.join(str(error).split())})", file=str(path)) from None
    header = [str(name) for name in frame.columns]
    if layout is None:
        for name in header:
            if name not in kind.names:
                problem = f"unknown column; the columns are {', '.join(kind.names)}"
                raise SpecError(problem, file=str(path), key=name, nearest=nearest_name(name, kind.names))
    layout = layout or Layout()
    sources = _sources(layout, kind, header, str(path))
    rows: list[T] = []
    left_out: Counter[str] = Counter()
    for line, cells in enumerate(frame.to_dict("records"), 2):
        unwanted = next((c for c, wanted in layout.where.items() if str(cells[c]) not in wanted), None)
        if unwanted is not None:
            left_out[f"{unwanted} is {cells[unwanted] or 'empty'}"] += 1
            continue
        texts = {name: str(cells[column]).strip() for name, column in sources.items()}
        rows.append(_row(kind, _translated(texts, layout, str(path), line), str(path), line))
    return Rows(rows, dict(left_out))


def _sources(layout: Layout, kind: Kind[T], header: Sequence[str], file: str) -> dict[str, str]:
    """Field -> column, for all fields that the file has."""
    for name in [*layout.columns.values(), *layout.where]:
        if name not in header:
            raise SpecError("this column is missing", file=file, key=name, nearest=nearest_name(name, header))
    sources = {name: layout.columns.get(name, name) for name in kind.names if name not in layout.constants}
    sources = {name: column for name, column in sources.items() if column in header}
    for name in kind.needed:
        if name not in sources and name not in layout.constants:
            raise SpecError("this column is missing", file=file, key=name, nearest=nearest_name(name, header))
    return sources


def _translated(texts: Mapping[str, str], layout: Layout, file: str, line: int) -> dict[str, str]:
    """The texts of a row after `values`, and the constants."""
    found = {name: str(value) for name, value in layout.constants.items()}
    for name, text in texts.items():
        known = layout.values.get(name)
        if known is not None and text and text not in known:
            problem = f"`values` does not say what this stands for; it lists {', '.join(known)}"
            raise SpecError(problem, file=file, line=line, key=name, value=text, nearest=nearest_name(text, known))
        found[name] = str(known[text]) if known is not None and text else text
    return found


def _row(kind: Kind[T], texts: Mapping[str, str], file: str, line: int) -> T:
    values: dict[str, Any] = {}
    for f in fields(kind.of):  # type: ignore[arg-type]
        text = texts.get(f.name, "")
        if text:
            values[f.name] = _value(text, str(f.type), f.name in kind.positive, file, line, f.name)
    for name in kind.needed:
        if name not in values:
            raise SpecError("is empty", file=file, line=line, key=name)
    if not any(name in values for name in kind.measured):
        raise SpecError(f"needs {' or '.join(kind.measured)}", file=file, line=line)
    try:
        return kind.of(**values)
    except SpecError as error:
        raise SpecError(error.problem, file=file, line=line, key=error.key, value=error.value) from None


def _value(text: str, kind: str, positive: bool, file: str, line: int, key: str) -> Any:
    if kind == "str":
        return text
    if kind == "bool":
        if text.lower() not in ("true", "false", "0", "1"):
            raise SpecError("must be true or false", file=file, line=line, key=key, value=text)
        return text.lower() in ("true", "1")
    try:
        number = float(text)
    except ValueError:
        raise SpecError("must be a number", file=file, line=line, key=key, value=text) from None
    whole = kind == "int"
    finite = number - number == 0
    if not finite or number < 0 or (whole and number != int(number)) or (number == 0 and positive):
        what = "a whole number" if whole else "a number"
        least = "above 0" if positive else "of at least 0"
        raise SpecError(f"must be {what} {least}", file=file, line=line, key=key, value=text)
    return int(number) if whole else number
