"""Measured points as lines of JSON, written one by one, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from simserve.errors import SpecError
from simserve.perf.collect.grid import Point
from simserve.perf.collect.timer import Sample


class Journal:
    """The file of one family on one machine; settings: what must be the same for points to belong together."""

    def __init__(self, path: Path, settings: dict[str, Any], *, fresh: bool = False) -> None:
        self.path = path
        self.samples: dict[Point, Sample] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh or not path.is_file():
            path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
        self._read(settings)

    def _read(self, settings: dict[str, Any]) -> None:
        lines = self.path.read_bytes().split(b"\n")
        whole = lines[:-1]  # what follows the last newline was cut off
        entries = [self._entry(line, number) for number, line in enumerate(whole, 1)]
        before = entries[0].get("settings", {}) if entries else {}
        for key in sorted(set(before) | set(settings)):
            if before.get(key) != settings.get(key):
                problem = f"was measured with {before.get(key)!r}, now {settings.get(key)!r}; --fresh starts anew"
                raise SpecError(problem, file=str(self.path), key=key)
        for entry in entries[1:]:
            point = tuple(sorted((str(k), v) for k, v in entry["point"].items()))
            self.samples[point] = Sample(entry["ns"], entry["repeats"], entry["outliers"])
        if lines[-1]:
            self.path.write_bytes(b"\n".join([*whole, b""]))

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry: dict[str, Any] = json.loads(line)
            if number > 1:
                _ = dict(entry["point"]), entry["ns"] + entry["repeats"] + entry["outliers"]
            elif not isinstance(entry["settings"], dict):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            problem = "is no line of a journal; --fresh starts anew"
            raise SpecError(problem, file=str(self.path), line=number) from None
        return entry

    def add(self, point: Point, sample: Sample) -> None:
        """Append one point and make sure that it is on the disk."""
        entry = {"point": dict(point), "ns": sample.ns, "repeats": sample.repeats, "outliers": sample.outliers}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.samples[point] = sample
