"""A folder of YAML descriptions, found by name: case, '-' and '_' do not matter, a miss names the nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from simserve.errors import SpecError, UnknownName, nearest_name
from simserve.paths import data_files
from simserve.spec.base import Spec, load


class NamedSpec(Spec):
    """A description that can be found: by its name, or by one of its aliases."""

    name: str
    aliases: tuple[str, ...] = ()


S = TypeVar("S", bound=NamedSpec)


def fold(name: str) -> str:
    """The form in which names are compared: 'H100-SXM' and 'h100_sxm' agree."""
    return name.strip().lower().replace("/", "--").replace("-", "_").replace(" ", "_")


class Catalogue(Generic[S]):
    """All descriptions of one class. File stem = name, with '--' for '/' as in the Hugging Face cache.

    kind: the word in messages; data: the data folder ('models'); folder: a subfolder of it, or ''.
    """

    def __init__(self, kind: str, cls: type[S], data: str, folder: str = "") -> None:
        self.kind, self.data, self.folder = kind, data, folder
        self._cls = cls
        self._read: dict[tuple[Path, int], S] = {}

    def names(self) -> list[str]:
        """All names, sorted; the user's own (SIMSERVE_DATA) included."""
        return sorted(set(self._paths()))

    def get(self, name: str) -> S:
        """The description called `name`: by name, by the part after '/', or by an alias, in this order.

        Raises UnknownName with the nearest name, and SpecError when the file is wrong.
        """
        paths = self._paths()
        wanted = fold(name)
        # Reversed, so that of two files with one name the user's, which comes first, wins.
        backwards = list(reversed(paths.items()))
        by_name = {fold(known): path for known, path in backwards}
        by_last_part = {fold(known.rpartition("/")[2]): path for known, path in backwards}
        path = by_name.get(wanted) or by_last_part.get(wanted)
        if path is not None:
            return self._load(path)
        return self._by_alias(name, wanted, paths)

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

    def _paths(self) -> dict[str, Path]:
        """Name -> file; the user's file hides a shipped one of the same name."""
        found: dict[str, Path] = {}
        for path in data_files(self.data):
            if not self.folder or path.parent.name == self.folder:
                found.setdefault(path.stem.replace("--", "/"), path)
        return found

    def _load(self, path: Path) -> S:
        key = (path, path.stat().st_mtime_ns)
        if key not in self._read:
            self._read[key] = load(self._cls, path)
        return self._read[key]
