"""Host-device copies: figures that others measured and published, typed in with their source; no file is read.

Rates in 10^9 bytes/s. `pieces` pieces of `bytes` each in one batched copy; one piece is a plain copy. All to the GPU
from pinned memory unless said. Nobody has published a size curve for pageable memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import UnknownName
from simserve.perf import store
from simserve.units import KIB, MIB

BATCH = "H100, PCIe 5.0 x16, one cuMemcpyBatchAsync of many pages, vllm-project/vllm PR 42212"
_PAGES_KIB = (4, 8, 16, 24, 28, 64)
_BATCH_RATES = {
    10_000: (6.8, 6.8, 7.1, 25.8, 27.5, 38.8),
    50_000: (4.0, 5.2, 6.3, 6.7, 39.9, 51.4),
    100_000: (3.8, 5.3, 6.3, 6.9, 44.1, 51.8),
}


@dataclass(frozen=True)
class Figure:
    """One measured rate."""

    direction: str
    size_bytes: int
    pieces: int
    gb_per_s: float
    source: str


FIGURES: dict[str, tuple[Figure, ...]] = {
    "pcie3_x16": (Figure("h2d", 512 * MIB, 1, 12.0, "V100, ingress peak, ZaidQureshi/bam issue 54"),),
    "pcie4_x16": (
        Figure("h2d", 512 * MIB, 1, 26.0, "A100 class, 25.94 to 26.19, NVIDIA/nvbandwidth README, copy engine"),
        Figure("d2h", 512 * MIB, 1, 26.3, "twice the 13.17 of x8, RTX 3050 Laptop, nvbandwidth v0.8 log [derived]"),
        Figure("bidir", 512 * MIB, 1, 25.3, "twice the 12.66 to the GPU of x8 while both run, the same log [derived]"),
    ),
    "pcie5_x16": (
        Figure("h2d", 1024 * MIB, 1, 55.63, "H100 class, NVIDIA nvbandwidth example, copy engine"),
        *(
            Figure("h2d", page * KIB, pieces, rate, BATCH)
            for pieces, rates in _BATCH_RATES.items()
            for page, rate in zip(_PAGES_KIB, rates, strict=True)
        ),
    ),
}


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write host_copy.parquet and provenance.json of each link under `out_dir`; returns the files written."""
    for name in devices:
        if name not in FIGURES:
            raise UnknownName("link with copy figures", name, FIGURES)
    return [path for name in devices or FIGURES for path in _build(name, out_dir / name)]


def _build(name: str, folder: Path) -> list[Path]:
    figures = FIGURES[name]
    columns: dict[str, Any] = {
        "direction": np.array([f.direction for f in figures], dtype=object),
        "memory": np.array(["pinned"] * len(figures), dtype=object),
        "bytes": np.array([f.size_bytes for f in figures], dtype=np.int64),
        "pieces": np.array([f.pieces for f in figures], dtype=np.int64),
        "latency_ns": np.array([round(f.size_bytes * f.pieces / f.gb_per_s) for f in figures], dtype=np.int64),
    }
    path, note = folder / "host_copy.parquet", folder / "provenance.json"
    store.write_table(path, "host_copy", columns)
    about = {
        "package": "published figures", "licence": "figures quoted with their source",
        "built": datetime.now(UTC).date().isoformat(), "built_by": "simserve perfdb build --from pcie",
        "tables": {"host_copy": {
            "sources": [{"file": "", "framework": source, "version": "", "device": name}
                        for source in dict.fromkeys(f.source for f in figures)],
            "rows_source": len(figures), "rows_kept": len(figures), "rows_left_out": {}, "rows_merged_repeats": 0,
            "rows_dropped": [], "latency_unit": "ns", "left_out_error": {},
        }},
    }  # fmt: skip
    note.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [path, note]
