"""Searches as processes of `simserve search`, one folder each: what runs, what ended how, and the lines that it wrote.

A folder holds study.yaml, what the command writes with -o, and of this page progress.jsonl and log.txt. Its state can
be told from it, so that a page that was started again shows what an earlier one left.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simserve.errors import SpecError, UnknownName
from simserve.explore.saved import FILE
from simserve.report.save import make_folder, write_atomic

STUDY, PROGRESS, LOG, JOURNAL = "study.yaml", "progress.jsonl", "log.txt", "search.journal"
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
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
            taken = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
            number = 1
            while (own := name if number == 1 else f"{name}-{number}") in taken:
                number += 1
            make_folder(self.folder / own)
            write_atomic(self.folder / own / STUDY, text)
            self._run(own, ())
        return own

    def resume(self, name: str) -> None:
        """Go on with a search that was stopped; SpecError if it runs or has nothing to go on with."""
        place = self.place(name)
        with self._lock:
            if self.state(name) != STOPPED:
                raise SpecError(f"is {self.state(name)}, so there is nothing to resume", key="search", value=name)
            self._run(name, ("--resume",) if (place / JOURNAL).exists() else ())

    def stop(self, name: str) -> None:
        """End a search: an interrupt, as Ctrl-C is, then a signal that nothing outlives."""
        self.place(name)
        process = self._processes.get(name)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def stop_all(self) -> list[str]:
        """End what runs; the names."""
        names = [name for name, process in self._processes.items() if process.poll() is None]
        for name in names:
            self.stop(name)
        return names

    def state(self, name: str) -> str:
        """RUNNING, DONE (there is a result), STOPPED (it can be resumed), FAILED (the log says why)."""
        process, place = self._processes.get(name), self.place(name)
        if process is not None and process.poll() is None:
            return RUNNING
        if (place / FILE).is_file():
            return DONE
        interrupted = "interrupted; resume with" in self.message(name) or not self.message(name)
        return STOPPED if interrupted else FAILED

    def message(self, name: str) -> str:
        """The last line that the search wrote on stderr, without the program's name."""
        log = self.place(name) / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        last = next((line for line in reversed(lines) if line.startswith("simserve: ")), "")
        return last.removeprefix("simserve: ").removeprefix("error: ")

    def progress(self, name: str, seen: int = 0) -> list[dict[str, Any]]:
        """The whole lines that it wrote after the first `seen` of them."""
        file = self.place(name) / PROGRESS
        lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
        return [json.loads(line) for line in lines[seen:]]

    def _run(self, name: str, more: tuple[str, ...]) -> None:
        place = self.folder / name
        jobs = () if self.jobs is None else ("--jobs", str(self.jobs))
        command = [sys.executable, "-m", "simserve", "search", STUDY, "-o", ".", "--progress-file", PROGRESS, *jobs]
        (place / FILE).unlink(missing_ok=True)
        with (place / LOG).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*command, *more], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
            )  # fmt: skip
