"""Where the data folders are: the user's own first, then the wheel's, then the checkout's."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from simserve.errors import UnknownName

_PACKAGE = Path(__file__).resolve().parent
STUDY_FOLDERS = ("papers", "records")  # of studies/, which hold other things
DATA_KINDS = ("perfdb", "hw_specs", "models", "studies")


def nearest_file(missing: Path, suffixes: Sequence[str] = ()) -> str | None:
    """A file beside one that is missing with nearly its name, of the same kind or of these kinds; None for none."""
    folder, kinds = missing.parent, suffixes or (missing.suffix,)
    try:
        here = [path.name for path in folder.iterdir() if path.suffix in kinds]
    except OSError:
        return None
    close = difflib.get_close_matches(missing.name, here, n=1, cutoff=0.7)
    return str(folder / close[0]) if close else None


def data_roots() -> list[Path]:
    """Existing roots, in order of precedence: `SIMSERVE_DATA` entries, `simserve/_data`, the checkout."""
    user = [Path(p).expanduser() for p in os.environ.get("SIMSERVE_DATA", "").split(os.pathsep) if p]
    roots = [*user, _PACKAGE / "_data", _PACKAGE.parent]
    return [r for r in roots if any((r / kind).is_dir() for kind in DATA_KINDS)]


def data_dirs(kind: str) -> list[Path]:
    """The folders called `kind` (one of DATA_KINDS) in all roots, the user's first."""
    return [r / kind for r in data_roots() if (r / kind).is_dir()]


def data_files(kind: str, suffix: str = ".yaml") -> Iterator[Path]:
    """All files of a kind, the user's first; a name seen earlier hides later ones."""
    seen: set[str] = set()
    for folder in data_dirs(kind):
        for path in sorted(folder.rglob(f"*{suffix}")):
            relative = path.relative_to(folder).as_posix()
            if relative not in seen:
                seen.add(relative)
                yield path


def find_data(kind: str, name: str, suffix: str = ".yaml") -> Path:
    """The file `name` + `suffix` of a kind; UnknownName with the nearest name if there is none."""
    known = {path.stem: path for path in reversed(list(data_files(kind, suffix)))}
    if name not in known:
        raise UnknownName(kind, name, known)
    return known[name]
