"""A folder of YAML descriptions, found by name: case, '-' and '_' do not matter, a miss names the nearest."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from simserve.errors import SpecError, UnknownName, nearest_name
from simserve.paths import data_dirs, data_files
from simserve.spec.base import Spec, load
from simserve.units import NS_PER_S


class NamedSpec(Spec):
    """A description that can be found: by its name, or by one of its aliases."""

    name: str
    aliases: tuple[str, ...] = ()


S = TypeVar("S", bound=NamedSpec)


def fold(name: str) -> str:
    """The form in which names are compared: 'H100-SXM' and 'h100_sxm' agree."""
    return name.strip().lower().replace("/", "--").replace("-", "_").replace(" ", "_")


@dataclass(frozen=True)
class _Listing:
    """What the folders held when each was last changed (ns): name -> file, and by the forms that are compared."""

    roots: list[Path]
    changed_ns: dict[Path, int]
    paths: dict[str, Path]
    by_name: dict[str, Path]
    by_last_part: dict[str, Path]

    def holds(self, roots: list[Path]) -> bool:
        """Whether no file came or went. A folder changed within the last second may change again at the same time."""
        settled = max(self.changed_ns.values(), default=0) < time.time_ns() - NS_PER_S
        return settled and self.roots == roots and self.changed_ns == _changed_ns(self.changed_ns)


def _changed_ns(folders: Iterable[Path]) -> dict[Path, int]:
    return {folder: folder.stat().st_mtime_ns if folder.is_dir() else 0 for folder in folders}


class Catalogue(Generic[S]):
    """All descriptions of one class. File stem = name, with '--' for '/' as in the Hugging Face cache.

    kind: the word in messages; data: the data folder ('models'); folder: a subfolder of it, or ''.
    """

    def __init__(self, kind: str, cls: type[S], data: str, folder: str = "") -> None:
        self.kind, self.data, self.folder = kind, data, folder
        self._cls = cls
        self._read: dict[tuple[Path, int], S] = {}
        self._known: _Listing | None = None

    def names(self) -> list[str]:
        """All names, sorted; the user's own (SIMSERVE_DATA) included."""
        return sorted(self._listing().paths)

    def get(self, name: str) -> S:
        """The description called `name`: by name, by the part after '/', or by an alias, in this order.

        Raises UnknownName with the nearest name, and SpecError when the file is wrong.
        """
        listing, wanted = self._listing(), fold(name)
        path = listing.by_name.get(wanted) or listing.by_last_part.get(wanted)
        return self._load(path) if path is not None else self._by_alias(name, wanted, listing.paths)

    def read(self, path: Path) -> S:
        """The description in the file `path`, wherever it is."""
        if not path.is_file():
            raise SpecError(f"no such {self.kind} file", file=str(path))
        return self._load(path)

    def _by_alias(self, name: str, wanted: str, paths: dict[str, Path]) -> S:
        known = set(paths) | {full.rpartition("/")[2] for full in paths}
        for path in paths.values():
            entry = self._load(path)
            if any(wanted in (fold(alias), fold(alias.rpartition("/")[2])) for alias in entry.aliases):
                return entry
            known.update(entry.aliases)
        if nearest_name(name, known) is None:
            # The list then follows in the message: names alone, or it would drown the reader.
            known = set(paths)
        raise UnknownName(self.kind, name, known)

    def _listing(self) -> _Listing:
        """All files by name; the user's file hides a shipped one of the same name."""
        roots = data_dirs(self.data)
        if self._known is None or not self._known.holds(roots):
            changed_ns = _changed_ns(folder for root in roots for folder in (root, *root.rglob("*/")))
            paths: dict[str, Path] = {}
            for path in data_files(self.data):
                if not self.folder or path.parent.name == self.folder:
                    paths.setdefault(path.stem.replace("--", "/"), path)
            # Reversed, so that of two files with one name the user's, which comes first, wins.
            backwards = list(reversed(paths.items()))
            self._known = _Listing(
                roots, changed_ns, paths, {fold(known): path for known, path in backwards},
                {fold(known.rpartition("/")[2]): path for known, path in backwards},
            )  # fmt: skip
        return self._known

    def _load(self, path: Path) -> S:
        key = (path, path.stat().st_mtime_ns)
        if key not in self._read:
            self._read[key] = load(self._cls, path)
        return self._read[key]
