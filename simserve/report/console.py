"""Where the commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

UNCUT = 10_000  # columns, more than any table has


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; in a pipe or a file nothing is cut or wrapped."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=UNCUT)
