"""A folder of YAML descriptions, found by name: case, '-' and '_' do not matter, a miss names the nearest.

A short name stands for the one description that it can be read as ('llama-8b', 'rtx4090'); if there are several, the
message lists them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
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


def words_of(name: str) -> list[str]:
    """The parts of a name after its organisation: 'Qwen/Qwen2.5-VL-7B' -> qwen2.5, vl, 7b; 'L40-S' -> l40s."""
    words: list[str] = []
    for word in re.split(r"[-_\s]+", name.rpartition("/")[2].strip().lower()):
        if len(word) == 1 and word.isalpha() and words:  # no part of its own: an L40 is no L40S
            words[-1] += word
        elif word:
            words.append(word)
    return words


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
        """The description called `name`: by name, by the part after '/', by an alias, or as the one that a short
        name can be read as, in this order.

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
        if readings := self._readings(name, paths):
            if len(readings) == 1 and re.search(r"\d", name):  # a family's name alone says too little
                return readings[0]
            raise UnknownName(self.kind, name, known, choices=[entry.name for entry in readings])
        if nearest_name(name, known) is None:
            # The list then follows in the message: names alone, or it would drown the reader.
            known = set(paths)
        raise UnknownName(self.kind, name, known)

    def _readings(self, name: str, paths: dict[str, Path]) -> list[S]:
        """The descriptions that a short name may mean: equal but for separators, else those whose name begins with
        its words, else those that have them all and begin with the first.
        """
        wanted = words_of(name)
        names = [(words_of(known), path) for path in paths.values() for known in self._load(path).aliases]
        names += [(words_of(known), path) for known, path in paths.items()]
        if not wanted:
            return []
        rules: tuple[Callable[[list[str]], bool], ...] = (
            lambda words: "".join(words) == "".join(wanted),
            lambda words: words[: len(wanted)] == wanted,
            lambda words: words[:1] == wanted[:1] and set(wanted) <= set(words),
        )
        for rule in rules:
            if found := {path for words, path in names if rule(words)}:
                return [self._load(path) for path in sorted(found)]
        return []

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
