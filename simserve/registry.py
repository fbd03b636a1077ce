"""Registry[T]: one decorator registers a part, entry points add outside ones, a miss names the nearest.

A registry scans its home package once, on first use, so that adding a file is the whole registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from simserve.errors import SimserveError, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """Named parts of one kind, e.g. schedulers.

    kind: the word used in messages; homes: packages whose modules register parts when imported;
    group: the entry-point group through which other distributions add parts.
    """

    def __init__(self, kind: str, *, homes: tuple[str, ...] = (), group: str | None = None) -> None:
        self.kind, self.homes, self.group = kind, homes, group
        self._parts: dict[str, type[T]] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator. Registering a name twice is an error, never a silent replacement; but a notebook's cell may
        be run again."""

        def add(part: type[T]) -> type[T]:
            before = self._parts.get(name)
            if before is not None and (part.__module__ != "__main__" or _place(part) != _place(before)):
                raise SimserveError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> type[T]:
        """The part called `name`; raises UnknownName with the nearest known name."""
        self._scan()
        try:
            return self._parts[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._parts) from None

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._scan()
        return sorted(self._parts)

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        for home in self.homes:
            package = importlib.import_module(home)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{home}.{module.name}")
        if self.group is not None:
            for entry in entry_points(group=self.group):
                if entry.name not in self._parts:
                    self._parts[entry.name] = entry.load()


def _place(part: type) -> tuple[str, str]:
    return part.__module__, part.__qualname__
