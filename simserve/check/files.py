"""Which files `simserve check` is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from simserve.errors import SimserveError, SpecError
from simserve.spec.study import load_study

_SUFFIXES = (".yaml", ".yml")
_TOP_LEVEL = r"""^["']?{}["']?\s*:"""
_EXPECTS = re.compile(_TOP_LEVEL.format("expect"), re.MULTILINE)
_IS_STUDY = re.compile(_TOP_LEVEL.format("workload"), re.MULTILINE)


def study_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """(studies to check, studies in folders that expect nothing), each once; SpecError for a path that is not there.

    A file that is named is always one to check. Of a folder, and the folders in it but hidden ones, all YAML files
    with a top-level `expect`, and broken studies, which might have had one; others are not studies.
    """
    wanted: dict[Path, None] = {}
    without: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            for file in _yaml_files(path):
                text = _text(file)
                if _EXPECTS.search(text) or (_IS_STUDY.search(text) and not _can_be_read(file)):
                    wanted[file] = None
                elif _IS_STUDY.search(text):
                    without[file] = None
        elif path.exists():
            wanted[path] = None
        else:
            raise SpecError("no such file or folder", file=str(path))
    return list(wanted), [path for path in without if path not in wanted]


def _yaml_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and path.is_file() and not hidden:
            yield path


def _text(path: Path) -> str:
    """What can be read of a file; one that cannot be read counts as a study, so that its error shows."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "expect:"


def _can_be_read(path: Path) -> bool:
    try:
        load_study(path)
    except SimserveError:
        return False
    return True
