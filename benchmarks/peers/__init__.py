"""Other simulators, for playing the same work beside simserve; none of them is a dependency."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class PeerMissing(Exception):
    """The peer cannot be run by the given Python."""


def check(peer: str, python: Path, module: str) -> None:
    """PeerMissing if `python` cannot import the peer's `module`."""
    try:
        done = subprocess.run([python, "-I", "-c", f"import {module}"], capture_output=True, text=True)
    except OSError as error:
        raise PeerMissing(f"{peer} cannot be run: {python}: {error.strerror}") from None
    if done.returncode:
        raise PeerMissing(f"{peer} cannot be run by {python}: {_last_line(done.stderr)}")


def play(peer: str, python: Path, runner: Path, job: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """What `runner` makes of a folder with job.json and `files`: its result.json."""
    with tempfile.TemporaryDirectory(prefix=f"simserve-{peer.lower()}-") as name:
        folder = Path(name)
        for path, text in {"job.json": json.dumps(job), **files}.items():
            (folder / path).write_text(text)
        done = subprocess.run([python, "-I", runner, folder], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise PeerMissing(f"{peer} failed: {_last_line(done.stderr)}")
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
