"""What is printed to a pipe is whole; a terminal keeps its width."""

import pytest
from rich.console import Console

from simserve.cli.main import main
from simserve.report.console import make_console


def test_tables_in_a_pipe_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`perfdb list` names every source in one row, however narrow the environment says the screen is."""
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["perfdb", "list"]) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    (row,) = [line for line in printed.splitlines() if line.split()[:2] == ["h100_sxm", "gemm"]]
    assert "aiconfigurator-core 0.12.0" in row


def test_a_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a screen, its width holds."""
    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("LINES", "20")
    assert make_console().width == 70
    assert make_console(stderr=True).stderr
