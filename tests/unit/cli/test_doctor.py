"""`simserve doctor`: what it finds, what it advises, and that a problem is told by the exit code."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from simserve.cli import doctor
from simserve.cli.main import main
from simserve.errors import SpecError

ROOT = Path(__file__).resolve().parents[3]


def findings(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, Any]]:
    """The rows by the name of the check."""
    assert main(["doctor", "--json", "-"]) == code
    rows = json.loads(capsys.readouterr().out)["findings"]
    return {row["check"]: row for row in rows}


def test_all_is_well_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No problem; data is counted, a simulation ends, and every note says what to do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMSERVE_DATA", raising=False)
    found = findings(capsys)

    assert {row["status"] for row in found.values()} <= {"ok", "note"}
    assert all(row["do"] for row in found.values() if row["status"] == "note")
    assert "h100_sxm" in found["kernel tables"]["found"]
    assert "a10g" in found["other GPUs"]["found"]
    assert found["simulation"]["found"].startswith("20 requests in ")
    assert list(tmp_path.iterdir()) == []  # leaves nothing behind


def test_the_table_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each check, and the same as JSON beside it."""
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    shown = capsys.readouterr().out
    rows = json.loads((tmp_path / "d.json").read_text())["findings"]

    assert all(row["check"] in shown for row in rows)
    assert "0 problems" in shown


def test_extras_are_those_of_the_package() -> None:
    """Every optional part that a user installs, by what pyproject.toml lists for it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(listed["optional-dependencies"]) - {"dev", "docs"}

    assert set(doctor.EXTRAS) == extras
    assert len(doctor.NEEDED) == len(listed["dependencies"])


def test_an_extra_that_is_missing_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A note, not a problem."""
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in ("ray", "plotly") else real(name))
    found = findings(capsys)

    assert (found["extra ray"]["status"], found["extra ray"]["do"]) == ("note", "pip install 'simserve[ray]'")
    assert found["extra report"]["status"] == "note"


def test_a_package_that_is_missing_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1."""
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "optuna" else real(name))

    assert "optuna" in findings(capsys, code=1)["packages"]["found"]


def test_data_that_cannot_be_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file and the key, in one line."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.yaml").write_text("name: mine\n")
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    found = findings(capsys, code=1)

    assert "mine.yaml" in found["data"]["found"]
    assert found["SIMSERVE_DATA"]["status"] == "ok"


def test_a_folder_of_data_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIMSERVE_DATA may have a typo; SIMSERVE_DEBUG is told."""
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path / "typo"))
    monkeypatch.setenv("SIMSERVE_DEBUG", "1")
    found = findings(capsys, code=1)

    assert found["SIMSERVE_DATA"]["status"] == "problem"
    assert found["SIMSERVE_DEBUG"]["status"] == "note"


def test_a_results_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a read-only disk."""

    def refused(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    found = findings(capsys, code=1)["results folder"]

    assert (found["status"], found["found"].endswith("Permission denied")) == ("problem", True)


def test_a_simulation_that_fails_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it raises."""

    def broken(*arguments: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("simserve.explore.runner.play", broken)
    assert findings(capsys, code=1)["simulation"]["found"] == "KeyError: 'x'"


def test_errors_of_a_check_are_findings() -> None:
    """One that knows its words, and one that does not."""

    def spec() -> Any:
        raise SpecError("no")
        yield

    assert [(f.status, f.found) for f in doctor._tried("a", spec)] == [("problem", "no")]


@pytest.mark.parametrize(("shell", "script"), [("bash", ".bash_completions/simserve.sh"), ("fish", None), ("sh", None)])
def test_completion(shell: str, script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, not installed, and a shell without."""
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if script is not None:
        (tmp_path / script).parent.mkdir()
        (tmp_path / script).touch()

    (found,) = doctor._completion()
    assert (found.status, shell in found.found) == ("ok" if script else "note", True)
