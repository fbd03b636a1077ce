"""The journal file of a search on the disk: put aside before a new search, mended before it is taken up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from simserve.errors import SpecError

ANOTHER = "holds another study, seed or version; name another file, or move it away"
_NONE = "this is not the journal of a search; name another file"
_BEGINS, _CREATE_TRIAL = b'{"op_code":', 4  # as Optuna writes them
_LONGEST, _HEAD = 1 << 16, 100  # bytes of a line, and lines, that are read to see whose a file is


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


def ready(journal: Path, *, resume: bool, only: str | None = None) -> None:
    """Make `journal` fit to be opened.

    Without `resume` an existing one is put aside as `<name>.old`. With it, one that a crash tore is cut back to its
    last complete line, and what it was stays as `<name>.torn`. only: touch no journal but that of this fingerprint.
    SpecError if there is none to resume, if the file is no journal, or another's, or if the disk refuses.
    """
    try:
        if resume and not journal.is_file():
            raise SpecError("there is no search to resume", file=str(journal))
        if journal.exists():
            _check_whose(journal, only)
        if resume:
            _mend(journal)
        elif journal.exists():
            journal.replace(journal.with_name(journal.name + ".old"))
    except OSError as error:
        raise SpecError(f"cannot open the journal: {_problem(error)}", file=str(journal)) from None


def _check_whose(journal: Path, only: str | None) -> None:
    """SpecError unless the file is the journal of a search, of that with the fingerprint `only` if given.

    One without a trial is nobody's: it is empty, or was torn in its first line.
    """
    if journal.is_dir():
        raise SpecError("is a folder; a journal is a file", file=str(journal))
    with journal.open("rb") as file:
        lines = list(islice(iter(lambda: file.readline(_LONGEST), b""), _HEAD))
    if not lines or (not lines[0].endswith(b"\n") and lines[0].startswith(_BEGINS)):
        return
    entries = [json.loads(line) if _is_entry(line) else {} for line in lines]
    found = [mark for entry in entries if (mark := (entry.get("user_attr") or {}).get("fingerprint")) is not None]
    if not entries[0] or (not found and any(entry.get("op_code") == _CREATE_TRIAL for entry in entries)):
        raise SpecError(_NONE, file=str(journal))
    if only is not None and found and found[0] != only:
        raise SpecError(ANOTHER, file=str(journal))


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
