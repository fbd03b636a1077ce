"""The journal file of a search on the disk: put aside before a new search, mended before it is taken up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simserve.errors import SpecError


@contextmanager
def claimed(journal: Path) -> Iterator[None]:
    """Hold `<name>.claim`, so that no other search writes this journal; SpecError if one does.

    The system lets go of it when this process ends, even if it is killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    claim = journal.with_name(journal.name + ".claim")
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(claim, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SpecError(f"cannot open the journal: {_problem(error)}", file=str(journal)) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError("another process is at this search", file=str(journal)) from None
        try:
            yield
        finally:
            with suppress(OSError):
                claim.unlink()
    finally:
        os.close(descriptor)


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
        raise SpecError(f"cannot open the journal: {_problem(error)}", file=str(journal)) from None


def _problem(error: OSError) -> str:
    return (error.strerror or "failed").lower()


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
