"""Searches as processes of `simserve search`, one folder each: what runs, what ended how, and the lines that it wrote.

A folder holds study.yaml, what the command writes with -o, and of this page progress.jsonl, log.txt and which process
it is. Its state can be told from it, so that a page that was started again shows what an earlier one left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simserve.errors import SpecError, UnknownName
from simserve.explore.saved import FILE
from simserve.report.save import make_folder, write_atomic

STUDY, PROGRESS, LOG, JOURNAL = "study.yaml", "progress.jsonl", "log.txt", "search.journal"
PROCESS, ENDED = "process", "stopped"  # number and start of the process; that somebody ended it
FILES = "files"  # what was uploaded, beside the searches
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
_POLL_S = 0.05
PATIENCE_S = 10.0  # from the request to end to the signal that cannot be refused
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass
class Searches:
    """All searches below a folder; safe to be asked by several threads. closing: whoever watches one shall leave."""

    folder: Path
    jobs: int | None = None
    closing: bool = False
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """All of them, the latest first."""
        found = [path for path in self.folder.iterdir() if (path / STUDY).is_file()] if self.folder.is_dir() else []
        return [path.name for path in sorted(found, key=lambda path: -(path / STUDY).stat().st_mtime_ns)]

    def place(self, name: str) -> Path:
        """The folder of a search; UnknownName if there is none of that name."""
        if not _NAME.fullmatch(name) or name in (".", "..") or not (self.folder / name / STUDY).is_file():
            raise UnknownName("search", name, self.names())
        return self.folder / name

    def start(self, text: str, name: str) -> str:
        """Begin a search of a study; its name here: the study's, with a number if that is taken."""
        with self._lock:
            taken = {FILES, *(path.name for path in self.folder.iterdir())} if self.folder.is_dir() else {FILES}
            number = 1
            while (own := name if number == 1 else f"{name}-{number}") in taken:
                number += 1
            make_folder(self.folder / own)
            write_atomic(self.folder / own / STUDY, text)
            self._run(own, ())
        return own

    def resume(self, name: str) -> None:
        """Go on with a search that ended before its time; SpecError if it runs or is done."""
        place = self.place(name)
        with self._lock:
            if not self.resumable(name):
                raise SpecError(f"is {self.state(name)}, so there is nothing to resume", key="search", value=name)
            if not (place / JOURNAL).exists():
                (place / PROGRESS).unlink(missing_ok=True)
            self._run(name, ("--resume",) if (place / JOURNAL).exists() else ())

    def resumable(self, name: str) -> bool:
        """Whether there is something to go on with: it was stopped, or ended with trials in its journal."""
        state = self.state(name)
        return state == STOPPED or (state == FAILED and (self.folder / name / JOURNAL).exists())

    def stop(self, name: str) -> None:
        """End a search: an interrupt, as Ctrl-C is, then a signal that nothing outlives."""
        place = self.place(name)
        number = self._alive(name)
        if number is None:
            return
        write_atomic(place / ENDED, "")
        os.kill(number, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_S
        while self._alive(name) is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if self._alive(name) is not None:
            os.killpg(number, signal.SIGKILL)

    def stop_all(self) -> list[str]:
        """End what this object started and what runs; the names."""
        names = [name for name, process in self._processes.items() if process.poll() is None]
        for name in names:
            self.stop(name)
        return names

    def state(self, name: str) -> str:
        """RUNNING (of any server), DONE (there is a result), STOPPED by somebody, FAILED (the log may say why)."""
        place = self.place(name)
        if self._alive(name) is not None:
            return RUNNING
        if (place / FILE).is_file():
            return DONE
        stopped = (place / ENDED).exists() or "interrupted; resume with" in self.message(name)
        return STOPPED if stopped else FAILED

    def _alive(self, name: str) -> int | None:
        """The number of the process of a search, if it runs: ours, or one that another server left running."""
        process = self._processes.get(name)
        if process is not None:
            return process.pid if process.poll() is None else None
        try:
            number, began = (self.folder / name / PROCESS).read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return None
        return int(number) if number.isdecimal() and _began(int(number)) == began else None

    def message(self, name: str) -> str:
        """The last line that the search wrote on stderr, without the program's name."""
        log = self.place(name) / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        last = next((line for line in reversed(lines) if line.startswith("simserve: ")), "")
        return last.removeprefix("simserve: ").removeprefix("error: ")

    def progress(self, name: str, seen: int = 0) -> tuple[list[tuple[int, dict[str, Any]]], int]:
        """([(its end, line)], end): the whole lines that it wrote after its first `seen` bytes."""
        file, found = self.place(name) / PROGRESS, []
        if file.is_file():
            with file.open("rb") as lines:
                lines.seek(seen)
                for line in lines:
                    if line.endswith(b"\n"):
                        seen += len(line)
                        found.append((seen, json.loads(line)))
        return found, seen

    def _run(self, name: str, more: tuple[str, ...]) -> None:
        place = self.folder / name
        jobs = () if self.jobs is None else ("--jobs", str(self.jobs))
        command = [sys.executable, "-m", "simserve", "search", STUDY, "-o", ".", "--progress-file", PROGRESS, *jobs]
        for left in (FILE, ENDED):
            (place / left).unlink(missing_ok=True)
        with (place / LOG).open("wb") as log:
            process = subprocess.Popen(
                [*command, *more], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        write_atomic(place / PROCESS, f"{process.pid} {_began(process.pid)}")


def _began(number: int) -> str:
    """When a process began, in ticks since the machine did; '' if it is not there, or where nobody can tell."""
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
