"""CSV files inside a .tgz archive, or inside the folder it was unpacked to."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simserve.errors import MissingData, SpecError
from simserve.perf.importers.rows import Mask
from simserve.perf.store import Columns

if TYPE_CHECKING:
    import pandas as pd

NS_PER_US, NS_PER_MS = 1e3, 1e6


def tables(where: Path | None, archive: str, pattern: str) -> Iterator[tuple[re.Match[str], pd.DataFrame]]:
    """(match, rows) of every CSV whose path inside `archive` matches the regular expression `pattern`, by path.

    where: the folder that holds the archive, the archive itself, or the folder it was unpacked to. MissingData if
    there is none of them.
    """
    import pandas as pd

    found = sorted(_files(where, archive, pattern))
    if not found:
        raise MissingData(f"{where} holds neither {archive} nor its files")
    for path, data in found:
        match = re.search(pattern, path)
        if match is not None:
            try:
                yield match, pd.read_csv(io.BytesIO(data))
            except ValueError as error:
                raise SpecError(f"is no table: {error}", file=path) from None


def _files(where: Path | None, archive: str, pattern: str) -> Iterator[tuple[str, bytes]]:
    if where is None:
        raise MissingData(f"name the folder that holds {archive} with --package-dir")
    packed = where / archive if where.is_dir() else where
    if packed.is_file() and packed.name == archive:
        try:
            yield from _packed(packed, pattern)
        except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
            raise SpecError(f"cannot be unpacked: {error}", file=str(packed)) from None
    elif where.is_dir():
        for path in where.rglob("*.csv"):
            if re.search(pattern, path.relative_to(where).as_posix()):
                yield path.relative_to(where).as_posix(), path.read_bytes()


def _packed(packed: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    if packed.name.endswith(".csv.gz"):
        yield packed.name, gzip.decompress(packed.read_bytes())
        return
    with tarfile.open(packed) as tar:
        for member in tar:
            content = tar.extractfile(member) if re.search(pattern, member.name) else None
            if content is not None:
                yield member.name, content.read()


def rows(time: Any, unit_ns: float, **keys: Any) -> Columns:
    """Columns of a family: keys as given (one value or one per row), and latency_ns from times of `unit_ns`."""
    count = len(time)
    columns: Columns = {}
    for name, value in keys.items():
        kind = object if isinstance(value, str) else np.int64
        columns[name] = np.full(count, value, dtype=kind) if np.ndim(value) == 0 else np.asarray(value, dtype=np.int64)
    columns["latency_ns"] = np.rint(np.asarray(time, dtype=np.float64) * unit_ns).astype(np.int64)
    return columns


def thinned(tokens: Any) -> Mask:
    """Where tokens lie on a grid about as fine as tiles: all to 16, by 8 to 128, 32 to 512, 64 to 2,048, then 256."""
    t = np.asarray(tokens, dtype=np.int64)
    step = np.select([t <= 16, t <= 128, t <= 512, t <= 2048], [1, 8, 32, 64], default=256)
    return np.asarray(t % step == 0, dtype=np.bool_)
