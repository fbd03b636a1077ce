"""Where the trials of a search are kept: in memory, in a journal file, or on a PostgreSQL server.

On a server a search is the Optuna study `NAME:FINGERPRINT`, a repeated one `NAME:FINGERPRINT#2` and so on: many
searches share a database, and none overwrites another. No message holds a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simserve.errors import MissingData, SpecError
from simserve.explore.journal import ANOTHER, claimed, ready

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, RDBStorage

JOURNAL = "search.journal"
_STUDY_NAME = "simserve"
_OTHER = "{} belongs to another study, seed or version; leave --resume out"
_DIGITS = 12  # of the fingerprint, in a study's name
_LONGEST = 200  # characters of a search's name in a study's name, which Optuna limits to 512
_SERVER = re.compile(r"(?:postgresql|postgres)(?:\+psycopg)?://")
_SECRET = re.compile(r"(?<=://)([^:/?#]*):[^?#]*(?=@)|(?<=[?&]password=)[^&]*", re.IGNORECASE)


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server by URL, which may hold a password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return masked(self.url).replace("+psycopg", "", 1)


Place = Path | Postgres | None


def place(storage: str | None, out_dir: Path | None) -> Place:
    """What `--storage` names; without it a journal in `out_dir`, or memory if there is no such folder."""
    if storage is None:
        return out_dir / JOURNAL if out_dir is not None else None
    if storage.startswith("journal:") and storage != "journal:":
        return Path(storage.removeprefix("journal:"))
    if server := _SERVER.match(storage):
        return Postgres("postgresql+psycopg://" + storage[server.end() :])
    raise SpecError("a storage is journal:PATH or postgresql://...", file="--storage", value=masked(storage))


def kind(where: Place) -> str:
    """'memory', 'journal' or 'postgresql': what may be told of a place."""
    if where is None:
        return "memory"
    return "journal" if isinstance(where, Path) else "postgresql"


def masked(text: str) -> str:
    """`text` with the passwords of its URLs as ***."""
    return _SECRET.sub(lambda found: f"{found[1]}:***" if found[1] is not None else "***", text)


@contextmanager
def opened(where: Place, fingerprint: str, *, resume: bool, name: str, keep: bool = False) -> Iterator[Study]:
    """`open_study` for one process at a time; SpecError in one line if another has it, or a server is lost."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with claimed(where) if isinstance(where, Path) else nullcontext():
            study = open_study(where, fingerprint, resume=resume, name=name, keep=keep)
            with _claimed_on_server(study, where) if isinstance(where, Postgres) else nullcontext():
                yield study
    except (SQLAlchemyError, StorageInternalError) as error:
        why = _why(error.__cause__ if isinstance(error, StorageInternalError) else error, where)
        raise SpecError(f"lost the storage, go on with --resume: {why}", file=str(where)) from None


def open_study(
    where: Place, fingerprint: str, *, resume: bool, name: str = _STUDY_NAME, keep: bool = False
) -> Study:  # fmt: skip
    """The Optuna study of a search called `name`; with `resume` the last one that has this fingerprint.

    What becomes of a journal that is there already: see `journal.ready`; keep: one of another search stays, as its
    place is no folder of results but a file that somebody named. SpecError if what to resume is not
    there, is none, or belongs to another search, and if the storage cannot be opened.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(where, Postgres):
        study = _on_server(where, f"{name[:_LONGEST]}:{fingerprint[:_DIGITS]}", resume=resume)
    else:
        study = optuna.create_study(
            study_name=_STUDY_NAME, storage=_in_file(where, resume, fingerprint if keep else None),
            directions=["maximize", "minimize"], load_if_exists=resume,
        )  # fmt: skip
    known = study.user_attrs.get("fingerprint")
    if known is None:
        study.set_user_attr("fingerprint", fingerprint)
    elif known != fingerprint:
        raise SpecError(ANOTHER if keep else _OTHER.format("the journal"), file=str(where))
    return study


def _in_file(journal: Path | None, resume: bool, only: str | None) -> BaseStorage:
    from optuna.storages import InMemoryStorage, JournalStorage

    from simserve.explore.journal_file import JournalFile

    if journal is None:
        return InMemoryStorage()
    ready(journal, resume=resume, only=only)
    return JournalStorage(JournalFile(str(journal)))


def _on_server(where: Postgres, name: str, *, resume: bool) -> Study:
    """The study `name` to resume, or a new one beside those of that name."""
    import optuna

    storage = _connect(where)
    names = optuna.get_all_study_names(storage)
    repeats = [found for found in names if re.fullmatch(re.escape(name) + r"(#\d+)?", found)]
    if not resume:
        fresh = f"{name}#{len(repeats) + 1}" if repeats else name
        return optuna.create_study(study_name=fresh, storage=storage, directions=["maximize", "minimize"])
    if repeats:
        return optuna.load_study(study_name=max(repeats, key=lambda n: (len(n), n)), storage=storage)
    storage.engine.dispose()
    others = any(found.startswith(name[:-_DIGITS]) for found in names)
    raise SpecError(_OTHER.format("what is stored") if others else "there is no search to resume", file=str(where))


@contextmanager
def _claimed_on_server(study: Study, where: Postgres) -> Iterator[None]:
    """An advisory lock on the study, which the server takes back when this process ends, however it ends."""
    from sqlalchemy import text

    storage: Any = study._storage  # Optuna's cache in front of the RDBStorage
    engine = storage._backend.engine
    lock = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if not connection.execute(lock, {"name": study.study_name}).scalar():
                raise SpecError("another process is at this search", file=str(where))
            yield
            connection.invalidate()
    finally:
        storage.remove_session()
        engine.dispose()


def _connect(where: Postgres) -> RDBStorage:
    """A connection that notices, before each use, when the server had dropped it."""
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # Optuna takes braces for a template of its own; SQLAlchemy writes them as %7B and %7D.
        url = make_url(where.url).render_as_string(hide_password=False)
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError:
        raise MissingData("psycopg is not installed; `pip install 'simserve[postgres]'`") from None
    except (SQLAlchemyError, RuntimeError, ValueError) as error:
        raise SpecError(f"cannot open the storage: {_why(error, where)}", file=str(where)) from None


def _why(error: BaseException | None, where: Place) -> str:
    """The driver's first line, without what SQLAlchemy puts around it and without the password."""
    line = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    secret = re.search(r"://[^:/?#]*:([^?#]*)@", where.url) if isinstance(where, Postgres) else None
    return masked(line.replace(secret[1], "***") if secret and secret[1] else line)
