"""Inputs that all worker processes of this machine read: pickled once, arrays mapped into memory, not copied."""

from __future__ import annotations

import mmap
import pickle
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ALIGNMENT = 64  # bytes; what numpy itself gives its arrays
_FILE = "inputs"


@dataclass(frozen=True)
class Shared:
    """An object in a file: `spans` are (first byte, bytes) of its pickle and then of each of its arrays."""

    folder: Path
    spans: tuple[tuple[int, int], ...]

    def read(self) -> Any:
        """The object; its arrays are read-only and lie in pages that all readers share."""
        with (self.folder / _FILE).open("rb") as file:
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        head, *buffers = (memory[first : first + length] for first, length in self.spans)
        return pickle.loads(head, buffers=buffers)

    def remove(self) -> None:
        """Delete the file; who has read it keeps what it read."""
        from joblib.externals.loky.backend import resource_tracker

        shutil.rmtree(self.folder, ignore_errors=True)
        resource_tracker.unregister(str(self.folder), "folder")


def write(thing: Any) -> Shared:
    """Put `thing` into a temporary folder, which goes away with this process even if that is killed."""
    from joblib.externals.loky.backend import resource_tracker

    folder = Path(tempfile.mkdtemp(prefix="simserve-"))
    resource_tracker.register(str(folder), "folder")
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    spans = []
    with (folder / _FILE).open("wb") as file:
        for part in (memoryview(head), *(buffer.raw() for buffer in buffers)):
            file.write(bytes(-file.tell() % _ALIGNMENT))
            spans.append((file.tell(), len(part)))
            file.write(part)
    return Shared(folder, tuple(spans))
