"""A study in hand: what `search` and `simulate` are asked, read from a file, from a mapping, or from another study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from simserve.errors import SpecError
from simserve.spec.base import Located, Path_, read_yaml

if TYPE_CHECKING:
    from simserve.explore.runner import Inputs
    from simserve.spec.study import StudySpec


@dataclass(frozen=True)
class Study:
    """One question, as a study file asks it; `load_study` makes one, `change` another one.

    data: the file's content (keys and units: `StudySpec`); folder: what relative paths in it refer to; file, lines:
    where it was read, for errors.

    >>> import simserve
    >>> study = simserve.load_study("quickstart")
    >>> study.change({"slo.ttft_ms": 300}).spec.slo.ttft_ms
    300.0
    """

    data: Mapping[str, Any]
    folder: Path = Path()
    lines: Mapping[Path_, int] = field(default_factory=dict, compare=False, repr=False)
    file: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _frozen(self.data))
        self.spec  # noqa: B018 - a study that is wrong is refused when it is made

    def __hash__(self) -> int:
        return hash((self.spec, self.folder))

    @cached_property
    def spec(self) -> StudySpec:
        """The validated study, frozen; every key with its unit is a field."""
        from simserve.spec.study import parse_study

        return parse_study(Located(_plain(self.data), self.lines, self.file))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.spec.name

    def change(self, changes: Mapping[str, Any] | None = None, /, **top: Any) -> Study:
        """The study with other values, named by dotted keys; None takes a key away; lists are replaced whole.

        SpecError for what is not valid.

        >>> import simserve
        >>> study = simserve.load_study("quickstart")
        >>> study.change({"workload.requests": 100, "deployment.gpu": "l40s"}, seed=3).data["workload"]["requests"]
        100
        """
        if not isinstance(changes or {}, Mapping):
            raise SpecError("changes are a mapping of dotted keys to values", value=changes)
        data: dict[str, Any] = _plain(self.data)
        for key, value in {**(changes or {}), **top}.items():
            if not isinstance(key, str) or "[" in key:
                raise SpecError("a key is text such as 'slo.ttft_ms'; a list is replaced whole", value=key)
            _put(data, key, _plain(value))
        return Study({"name": self.name, **data}, self.folder)

    def to_yaml(self) -> str:
        """The text of a study file that asks the same."""
        return _text(_plain(self.data))

    def save(self, path: Path | str) -> Path:
        """Write the study file, atomically, its paths still those of the same files; SpecError if that cannot be."""
        from simserve.report.save import write_atomic

        moved = Path(path).resolve().parent != self.folder.resolve()
        data = _with_paths(_plain(self.data), self.folder.resolve()) if moved else _plain(self.data)
        return write_atomic(Path(path), _text(data))

    def inputs(self, requests: int | None = None) -> Inputs:
        """The study with its model and its requests, the first so many of them; UnknownName, MissingData, SpecError."""
        from simserve.explore.runner import prepare

        if requests is not None:
            at_least_one("requests", requests)
        return prepare(self.spec, base_dir=self.folder, requests=requests)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.to_yaml())}</pre>"


StudyLike = Study | Path | str | Mapping[str, Any]


def load_study(source: StudyLike) -> Study:
    """A study from a file, the name of one that comes with simserve, or a mapping with a study file's keys.

    Raises SpecError (file, line, key, value, nearest name) for what is not valid, UnknownName for an unknown name.

    >>> import simserve
    >>> simserve.load_study({
    ...     "model": "meta-llama/Llama-3.1-8B",
    ...     "workload": {
    ...         "arrivals": {"kind": "poisson", "rate_rps": 4},
    ...         "prompt_tokens": {"kind": "fixed", "value": 1000},
    ...         "output_tokens": {"kind": "fixed", "value": 100},
    ...         "requests": 200,
    ...     },
    ...     "deployment": {"gpu": "h100_sxm"},
    ... }).spec.deployment.gpu
    'h100_sxm'
    """
    if isinstance(source, Study):
        return source
    if isinstance(source, Mapping):
        return Study(source)
    if not isinstance(source, str | Path) or not str(source):
        raise SpecError("a study is a path, a name or a mapping", value=source)
    from simserve.spec.study import find_study

    path = find_study(Path(source))
    read = read_yaml(path)
    if not isinstance(read.data, Mapping):
        raise SpecError("must be a mapping of keys to values", file=str(path), line=1)
    return Study(read.data, path.parent, read.lines, read.file)


def describe(**options: Any) -> Study:
    """The study that the options of `simserve search` describe, their names without dashes; lists for several values.

    Raises UnknownName for an option that there is not, SpecError for one that is wrong or missing.

    >>> import simserve
    >>> study = simserve.describe(model="Qwen/Qwen3-32B", gpu=["h100_sxm", "h200_sxm"], gpus=8, rate=4, isl=2000,
    ...                           osl=300, ttft=500, tpot=30)
    >>> study.spec.search.max_gpus, study.spec.slo.ttft_ms
    (8, 500.0)
    """
    from simserve.asked.described import described

    return Study(described(options))


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the sections on its way; None removes it."""
    *path, last = key.split(".")
    for part in path:
        below = data.setdefault(part, {})
        if not isinstance(below, dict):
            raise SpecError(f"{part} has no keys below it", key=key, value=value)
        data = below
    if value is None:
        data.pop(last, None)
    else:
        data[last] = value


def _plain(value: Any) -> Any:
    """A copy with dictionaries, lists and text, as YAML knows them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _frozen(value: Any) -> Any:
    """A copy that nobody can change."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _with_paths(data: Any, folder: Path) -> Any:
    """The same with what `path` names in full."""
    if isinstance(data, dict):
        return {key: str(folder / item) if key == "path" else _with_paths(item, folder) for key, item in data.items()}
    return [_with_paths(item, folder) for item in data] if isinstance(data, list) else data


def _text(data: Any) -> str:
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def at_least_one(key: str, value: Any) -> int:
    """The value; SpecError if it is no whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SpecError("must be a whole number above 0", key=key, value=value)
    return value
