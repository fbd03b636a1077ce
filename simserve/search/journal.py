"""The journal file of a search on the disk: put aside before a new search, mended before it is taken up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from simserve.errors import SpecError


def ready(journal: Path, *, resume: bool) -> None:
    """Make `journal` fit to be opened.

    Without `resume` an existing one is put aside as `<name>.old`. With it, one that a crash tore is cut back to
    its last complete line, and what it was stays as `<name>.torn`. SpecError if there is none to resume, if it
    is no journal at all, or if the disk refuses.
    """
    try:
        if not resume:
            if journal.exists():
                journal.replace(journal.with_name(journal.name + ".old"))
            return
        if not journal.is_file():
            raise SpecError("there is no search to resume", file=str(journal))
        _mend(journal)
    except OSError as error:
        raise SpecError(f"cannot open the journal: {(error.strerror or 'failed').lower()}", file=str(journal)) from None


def _mend(journal: Path) -> None:
    content = journal.read_bytes()
    sound = 0
    for line in content.splitlines(keepends=True):
        if not _is_entry(line):
            break
        sound += len(line)
    if sound == len(content):
        return
    # A journal that was torn in its very first line looks like the beginning of an entry.
    if sound == 0 and not content.startswith(b'{"op_code":'):
        raise SpecError("this is not the journal of a search; leave --resume out", file=str(journal))
    shutil.copyfile(journal, journal.with_name(journal.name + ".torn"))
    with journal.open("r+b") as file:
        file.truncate(sound)


def _is_entry(line: bytes) -> bool:
    """A complete line as Optuna writes it."""
    if not line.endswith(b"\n"):
        return False
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and isinstance(entry.get("op_code"), int)
