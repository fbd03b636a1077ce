"""Files of the package aiconfigurator-core: finding them, their versions, units and names, and back-filling.

Back-fill: aiconfigurator serves a row that the wanted version of a framework lacks from the nearest earlier version
of the same framework, never from a later one, never for communication (a curve of one topology is worth nothing for
another), and from another framework only where both run the same named kernel (no pair of frameworks does so for the
families read here). Here the newest version is the wanted one. One difference, on purpose: aiconfigurator fills row
by row; here a whole curve (all keys but the last) comes from one version, since versions differ by up to a factor of
two and a curve mixed from both would have steps that no kernel has.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simserve.perf import store
from simserve.perf.importers.rows import Counts, Mask, Origin, Read, join, ns
from simserve.perf.store import Columns

PACKAGE = "aiconfigurator-core"


@dataclass(frozen=True)
class Raw:
    """One source file: columns as arrays, and where it is inside the package."""

    columns: Columns
    origin: Origin


Convert = Callable[[Columns], tuple[Columns, Counts]]


def read_family(
    folder: Path, file: str, convert: Convert, keys: tuple[str, ...], *, fill: bool = True
) -> Read | None:
    """Rows of `file` under folder/<version>/, newest version first; older ones fill whole curves if `fill`.

    None where no version has the file.
    """
    raws: list[Origin] = []
    parts: list[Columns] = []
    left_out: Counts = {}
    for path in versions(folder, file)[: None if fill else 1]:
        raw = read_file(path)
        columns, reasons = convert(raw.columns)
        if parts:
            columns, unused = _new_curves(columns, join(parts), keys)
            if not len(columns["latency_ns"]):
                continue
            reasons["a newer version has the curve"] = unused
        raws.append(raw.origin)
        parts.append(columns)
        for reason, count in reasons.items():
            left_out[reason] = left_out.get(reason, 0) + count
    return Read(tuple(raws), join(parts), left_out) if raws else None


def versions(folder: Path, file: str) -> list[Path]:
    """folder/<version>/file of every released version, newest first; release candidates only without a release."""
    found = sorted(folder.glob(f"*/{file}"), key=lambda path: _order(path.parent.name), reverse=True)
    found = [path for path in found if "dev" not in path.parent.name]
    return [path for path in found if "rc" not in path.parent.name] or found


def read_file(path: Path) -> Raw:
    """One parquet file of <package>/systems/data/<device>/<family>/<framework>/<version>/."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns: Columns = {n: table.column(n).to_numpy() for n in table.column_names}
    said = {n: str(columns[n][0]) if n in columns else "" for n in ("framework", "device")}
    inside = path.relative_to(path.parents[5]).as_posix()
    return Raw(columns, Origin(inside, said["framework"], path.parent.name, said["device"], table.num_rows))


def pick(columns: Columns, keep: Mask, ints: dict[str, str]) -> Columns:
    """Kept rows: our integer columns by the source's name, latency_ns, and the kernel where the source names it."""
    out: Columns = {ours: columns[theirs][keep].astype(np.int32) for ours, theirs in ints.items()}
    out["latency_ns"] = ns(columns["latency"][keep])
    if "kernel_source" in columns:
        out["kernel"] = columns["kernel_source"][keep]
    return out


def _new_curves(older: Columns, newer: Columns, keys: tuple[str, ...]) -> tuple[Columns, int]:
    """Rows of `older` whose curve (keys without the last) `newer` lacks, and how many rows are not."""
    both = join([newer, older])
    curve = store.group_ids(both, keys[:-1])
    rows = len(newer["latency_ns"])
    keep = ~np.isin(curve[rows:], curve[:rows])
    return {name: values[keep] for name, values in older.items()}, int((~keep).sum())


def _order(version: str) -> tuple[tuple[int, ...], int]:
    """1.3.0rc20 -> ((1, 3, 0), 20); a release comes after its candidates."""
    release, _, candidate = version.partition("rc")
    numbers = tuple(int(x) for x in re.findall(r"\d+", release))
    return numbers, int(candidate) if candidate.isdigit() else 1_000_000
