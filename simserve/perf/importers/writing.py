"""What every importer ends with: repeats merged, impossible rows dropped, tables and provenance.json written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simserve.perf import checks, leave_out, store
from simserve.perf.importers.rows import Read, median_of_repeats
from simserve.spec.hardware import GpuSpec, load_link


def write_device(
    gpu: GpuSpec, tables: str, out_dir: Path, reads: Mapping[str, Read | None], about: dict[str, Any]
) -> list[Path]:
    """Tables of one device, {family: rows}, under out_dir/<device>[/<tables>]; returns the files written.

    tables: '' for the device's own folder, else the name of a second source. about: package, licence, built_by.
    """
    device = f"{gpu.name}/{tables}" if tables else gpu.name
    named = gpu.model_copy(update={"name": device})
    entries: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    for family, read in reads.items():
        if read is not None and len(read.columns.get("latency_ns", ())):
            path = out_dir / device / f"{family}.parquet"
            entries[family] = _write_table(named, family, path, read)
            written.append(path)
    note = out_dir / device / "provenance.json"
    whole = {**about, "built": datetime.now(UTC).date().isoformat(), "tables": entries}
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return [*written, note]


def _write_table(gpu: GpuSpec, family: str, path: Path, read: Read) -> dict[str, Any]:
    columns, repeats = median_of_repeats(family, read.columns)
    columns, dropped = checks.drop_unphysical(family, columns, gpu, load_link(gpu.interconnect))
    store.write_table(path, family, columns)
    return {
        "sources": [
            {"file": r.file, "framework": r.framework, "version": r.version, "device": r.device} for r in read.raws
        ],
        "kernels": sorted({str(k) for k in columns["kernel"]} - {""}) if "kernel" in columns else [],
        "rows_source": sum(raw.rows for raw in read.raws),
        "rows_kept": len(columns["latency_ns"]),
        "rows_left_out": read.left_out,
        "rows_merged_repeats": repeats,
        "rows_dropped": [asdict(row) for row in dropped],
        "latency_unit": "ns",
        "left_out_error": leave_out.summary(family, columns, gpu),
    }
