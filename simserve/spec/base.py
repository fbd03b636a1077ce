"""Strict YAML into frozen models: one clear line for whatever is wrong.

A problem names file, line, key, value and the nearest valid name. Durations may carry a unit.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from simserve.errors import SpecError
from simserve.paths import nearest_file

S = TypeVar("S", bound="Spec")
Path_ = tuple[str | int, ...]


class Spec(BaseModel):
    """Base of everything that a user writes: frozen, hashable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_silent_conversion(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is no number and `"5"` is none either, though pydantic would convert them."""
        if not isinstance(value, bool | str):
            return value
        kinds = _scalar_kinds(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and bool not in kinds and kinds <= {int, float, str}:
            raise ValueError("must be a number or text, not true or false")
        text_is_a_duration = (info.field_name or "").endswith("_ms")
        if isinstance(value, str) and kinds <= {int, float, bool} and not text_is_a_duration:
            wanted = "true or false" if kinds == {bool} else "a number"
            raise ValueError(f"must be {wanted}, not text")
        return value


@dataclass(frozen=True)
class Located:
    """Parsed YAML with the line of every key path, and the file it came from."""

    data: Any
    lines: Mapping[Path_, int]
    file: str


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and remembers lines."""


def read_yaml(path: Path | str) -> Located:
    """Read one YAML document; SpecError if it cannot be read, is no YAML, or repeats a key."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError("no such file", file=str(path), nearest=nearest_file(path)) from None
    except IsADirectoryError:
        raise SpecError("is a folder, not a file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot be read ({error.__class__.__name__})", file=str(path)) from None
    return parse_yaml(text, file=str(path))


def parse_yaml(text: str, *, file: str) -> Located:
    """YAML text with line numbers."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines: dict[Path_, int] = {}
            if node is None:
                raise SpecError("the file is empty", file=file)
            _walk(node, (), lines, file)
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else None
        raise SpecError(f"not valid YAML: {error.problem}", file=file, line=line) from None
    except RecursionError:
        raise SpecError("not a study: nested too deeply, or an alias of itself", file=file) from None
    except (ValueError, yaml.YAMLError) as error:
        raise SpecError(f"not valid YAML: {' '.join(str(error).split())}", file=file) from None
    return Located(data, lines, file)


def _walk(node: yaml.Node, path: Path_, lines: dict[Path_, int], file: str) -> None:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError("a key must be plain text", file=file, line=line, key=dotted(path) or None)
            name = key.value
            if name in seen:
                raise SpecError("the key stands here twice", file=file, line=line, key=dotted((*path, name)))
            seen.add(name)
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, file)


def load(cls: type[S], path: Path | str) -> S:
    """Read `path` as a `cls`; SpecError in one line otherwise."""
    return parse(cls, read_yaml(path))


def parse(cls: type[S], source: Located | Mapping[str, Any], *, file: str | None = None) -> S:
    """Validate `source` as a `cls`; SpecError in one line, for the first problem, otherwise."""
    located = source if isinstance(source, Located) else Located(dict(source), {}, file or "")
    if not isinstance(located.data, Mapping):
        raise SpecError("must be a mapping of keys to values", file=located.file or None, line=1)
    try:
        return cls.model_validate(located.data)
    except ValidationError as error:
        raise _first_problem(cls, error, located) from None


def _first_problem(cls: type[Spec], error: ValidationError, located: Located) -> SpecError:
    """The first pydantic error (an unknown key first, for it often explains a missing one) as SpecError."""
    details = error.errors(include_url=False)
    first = next((e for e in details if e["type"] == "extra_forbidden"), details[0])
    path = _path_in(located.data, first["loc"], missing=first["type"] == "missing")
    places = (path[:n] for n in range(len(path), -1, -1))
    line = next((located.lines[place] for place in places if place in located.lines), None)
    kind, value, nearest = first["type"], first.get("input"), None
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if kind == "extra_forbidden":
        known = _field_names(cls, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        nearest, value = (close[0] if close else None), None
        problem = "unknown key" if close else f"unknown key; known here: {', '.join(known)}"
    elif kind == "missing":
        problem, value = "this key is missing", None
    elif kind == "model_type":
        problem = "must be a mapping of keys to values"
    elif kind in ("literal_error", "enum"):
        expected = str(first.get("ctx", {}).get("expected", ""))
        names = [n.strip().strip("'") for n in expected.replace(" or ", ", ").split(",")]
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
        nearest, problem = (close[0] if close else None), f"must be one of {', '.join(names)}"
    elif kind == "too_short" and not value:
        problem, value = "is empty; give at least one value, or leave the key out", [] if value == () else value
    if isinstance(value, Mapping | list) and value:
        value = None
    return SpecError(problem, file=located.file or None, line=line, key=dotted(path) or None, value=value,
                     nearest=nearest)  # fmt: skip


def _path_in(data: Any, loc: Path_, *, missing: bool) -> Path_:
    """A pydantic location without the parts that are no keys of the data: tags of unions, converted values."""
    path: list[str | int] = []
    parts = iter(loc)
    for part in parts:
        if isinstance(data, Mapping) and isinstance(part, int) and part < len(data):  # kept as sorted pairs
            part, _ = sorted(data, key=str)[part], next(parts, None)
        listed = isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)
        if listed or (isinstance(data, Mapping) and part in data):
            path.append(part)
            data = data[part]
    return (*path, loc[-1]) if missing else tuple(path)


def _field_names(cls: type[Spec], path: Path_) -> list[str]:
    """The keys that are valid at `path` below `cls`."""
    current: set[type[BaseModel]] = {cls}
    for part in path:
        if isinstance(part, int):
            continue
        current = {
            model
            for owner in current
            if part in owner.model_fields
            for model in _models_in(owner.model_fields[part].annotation)
        } or current
    return sorted({name for model in current for name in model.model_fields})


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    """All models that occur in a type annotation."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return {annotation} if issubclass(annotation, BaseModel) else set()
    return {model for argument in get_args(annotation) for model in _models_in(argument)}


def _scalar_kinds(annotation: Any) -> set[Any]:
    """The types that a field annotation allows, None aside: `int | None` -> {int}."""
    if get_origin(annotation) is Annotated:
        return _scalar_kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for a in get_args(annotation) if a is not type(None) for kind in _scalar_kinds(a)}
    return {annotation}


def dotted(path: Path_) -> str:
    """A key as errors name it: ('search', 'space', 'gpu', 0) -> 'search.space.gpu[0]'."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
