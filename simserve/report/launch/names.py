"""Flags that a version of a framework knows: tables in `flags/`, and commands that take no others.

`flags/<package>-<version>.yaml` holds names, made by `benchmarks/launch_flags.py` from the package itself, or by hand
from the source that it states where PyPI has no package (TensorRT-LLM, llm-d).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

from simserve.errors import UnknownName

FOLDER = "flags"


@dataclass(frozen=True)
class Known:
    """One version of one package: flags by command, and what some of them are restricted to."""

    package: str
    version: str
    programs: dict[str, frozenset[str]]
    choices: dict[str, dict[str, tuple[str, ...]]]


def known(package: str, version: str = "") -> Known:
    """The table of the newest version that is not newer than `version`, else of the oldest; the newest for ''."""
    versions = sorted(_versions(package), key=_order)
    if not versions:
        raise UnknownName("table of flags", package, _packages())
    older = [v for v in versions if not version or _order(v) <= _order(version)]
    return _table(package, older[-1] if older else versions[0])


@dataclass
class Command:
    """Words of a command that the table allows, and remarks on what it does not.

    head: the words before the flags; program: which of the package's commands it is.
    """

    known: Known
    program: str
    head: tuple[str, ...] = ()
    words: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, flag: str, *values: object) -> bool:
        """Add a flag; where this version has no such flag, or not the value, a remark instead."""
        texts = [str(value) for value in values]
        allowed = self.known.choices.get(self.program, {}).get(flag)
        if flag in self.known.programs[self.program] and (allowed is None or set(texts) <= set(allowed)):
            self.words += [flag, *texts]
            return True
        asked = " ".join([flag, *texts])
        self.remark(f"simulated with {asked}, which {self.known.package} {self.known.version} does not have")
        return False

    def has(self, flag: str) -> bool:
        """Whether this version knows the flag."""
        return flag in self.known.programs[self.program]

    def remark(self, text: str) -> None:
        """One comment, without its '#'."""
        self.remarks.append(text)

    @property
    def line(self) -> list[str]:
        """All words."""
        return [*self.head, *self.words]


@lru_cache(maxsize=32)
def _table(package: str, version: str) -> Known:
    import yaml

    data: dict[str, Any] = yaml.load(
        files(__package__).joinpath(FOLDER, f"{package}-{version}.yaml").read_text(encoding="utf-8"),
        Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    return Known(
        str(data["package"]), str(data["version"]),
        {name: frozenset(flags) for name, flags in data["programs"].items()},
        {name: {flag: tuple(values) for flag, values in of.items()} for name, of in data.get("choices", {}).items()},
    )  # fmt: skip


def _names() -> list[tuple[str, str]]:
    stems = [entry.name.removesuffix(".yaml") for entry in files(__package__).joinpath(FOLDER).iterdir()]
    return [(package, version) for package, _, version in (stem.rpartition("-") for stem in stems)]


def _versions(package: str) -> list[str]:
    return [version for name, version in _names() if name == package]


def _packages() -> list[str]:
    return sorted({name for name, _ in _names()})


def _order(version: str) -> tuple[int, ...]:
    """0.5.10 is after 0.5.9, and 1.3.0 after 1.3.0rc27."""
    numbers, _, candidate = version.partition("rc")
    parts = [int(n) for n in re.findall(r"\d+", numbers)][:4]
    first = re.match(r"\d+", candidate)
    return (*parts, *([0] * (4 - len(parts))), int(first[0]) if first else 1 << 30)
