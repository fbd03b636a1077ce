"""Tables from the PyPI package aiconfigurator-core (Apache-2.0, NVIDIA); none of its code runs.

Rows are of vLLM, the newest version that has the family, older ones filling what it lacks (aiconfigurator_source.py);
other frameworks only for kernels that vLLM's tables do not hold, and `sources` of provenance.json names them.
What each family keeps is said in aiconfigurator_dense.py and aiconfigurator_moe.py. Units at the source are ms.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from simserve.errors import MissingData
from simserve.perf import checks, leave_out, store
from simserve.perf.importers import aiconfigurator_dense as dense
from simserve.perf.importers import aiconfigurator_moe as experts
from simserve.perf.importers.aiconfigurator_source import PACKAGE, Read, median_of_repeats
from simserve.spec.hardware import GpuSpec, load_gpu, load_link

IMPORT_NAME, LICENCE = "aiconfigurator_core", "Apache-2.0, NVIDIA"
DEVICES = (
    "a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "l40s", "rtx_pro_6000",
)  # fmt: skip
_FOLDERS = {"rtx_pro_6000": "rtx_pro_6000_server"}
_READERS: dict[str, Callable[[Path], Read | None]] = {
    "gemm": dense.gemm,
    "prefill_attention": dense.prefill,
    "decode_attention": dense.decode,
    "mla_prefill": experts.mla_prefill,
    "mla_decode": experts.mla_decode,
    "mla_bmm": experts.mla_bmm,
    "moe": experts.moe,
    "moe_exchange": experts.moe_exchange,
    "encoder_attention": dense.encoder,
    "elementwise": dense.elementwise,
    "all_reduce": dense.all_reduce,
    "collective": dense.collective,
}


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables and provenance.json of each device under `out_dir`; returns the files written.

    package_dir: an unpacked aiconfigurator_core, instead of the installed one. MissingData without either.
    """
    root = find_package(package_dir)
    return [path for device in devices or DEVICES for path in _build_device(device, out_dir, root)]


def find_package(package_dir: Path | None = None) -> Path:
    """The package's folder, found without importing it. MissingData says how to install it."""
    if package_dir is None:
        spec = importlib.util.find_spec(IMPORT_NAME)
        if spec is None or not spec.submodule_search_locations:
            raise MissingData(f"{PACKAGE} is not installed; pip install 'simserve[aiconfigurator]'")
        package_dir = Path(next(iter(spec.submodule_search_locations)))
    if not (package_dir / "systems" / "data").is_dir():
        raise MissingData(f"{package_dir} holds no {IMPORT_NAME} tables (no systems/data inside)")
    return package_dir


def _build_device(device: str, out_dir: Path, root: Path) -> list[Path]:
    folder = root / "systems" / "data" / _FOLDERS.get(device, device)
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in (root / "systems" / "data").iterdir()))
        raise MissingData(f"{PACKAGE} has no tables for {device}; it has {known}")
    gpu = load_gpu(device)
    tables: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    for family, reader in _READERS.items():
        read = reader(folder)
        if read is not None:
            path = out_dir / gpu.name / f"{family}.parquet"
            tables[family] = _build_table(gpu, family, path, read)
            written.append(path)
    about = {
        "package": PACKAGE,
        "package_version": _package_version(root),
        "licence": LICENCE,
        "built": datetime.now(UTC).date().isoformat(),
        "built_by": "simserve perfdb build --from aiconfigurator",
        "tables": tables,
    }
    note = out_dir / gpu.name / "provenance.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [*written, note]


def _build_table(gpu: GpuSpec, family: str, path: Path, read: Read) -> dict[str, Any]:
    columns, repeats = median_of_repeats(family, read.columns)
    columns, dropped = checks.drop_unphysical(family, columns, gpu, load_link(gpu.interconnect))
    store.write_table(path, family, columns)
    entry: dict[str, Any] = {
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
    return entry


def _package_version(root: Path) -> str:
    for info in root.parent.glob(f"{IMPORT_NAME}-*.dist-info"):
        return info.name.removeprefix(f"{IMPORT_NAME}-").removesuffix(".dist-info")
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
