"""Tables from the PyPI package aiconfigurator-core (Apache-2.0, NVIDIA); none of its code runs.

Rows are of vLLM, the newest version that has the family, older ones filling what it lacks (aiconfigurator_source.py);
other frameworks only for kernels that vLLM's tables do not hold, and `sources` of provenance.json names them. What each
family keeps is said in aiconfigurator_dense.py, aiconfigurator_moe.py and aiconfigurator_hybrid.py. Units at the source
are ms.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from simserve.errors import MissingData
from simserve.perf.importers import aiconfigurator_dense as dense
from simserve.perf.importers import aiconfigurator_engines as engines
from simserve.perf.importers import aiconfigurator_hybrid as hybrid
from simserve.perf.importers import aiconfigurator_moe as experts
from simserve.perf.importers.aiconfigurator_source import PACKAGE
from simserve.perf.importers.rows import Read
from simserve.perf.importers.writing import write_device
from simserve.spec.hardware import load_gpu

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
    "dsa_prefill": hybrid.dsa_prefill,
    "dsa_decode": hybrid.dsa_decode,
    "gdn": hybrid.gdn,
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
    about = {
        "package": PACKAGE,
        "package_version": _package_version(root),
        "licence": LICENCE,
        "built_by": "simserve perfdb build --from aiconfigurator",
    }
    reads = {family: reader(folder) for family, reader in _READERS.items()}
    gpu = load_gpu(device)
    written = write_device(gpu, "", out_dir, reads, about)
    for engine, own in engines.reads(folder, gpu).items():
        written += write_device(gpu, engine, out_dir, own, about)
    return written


def _package_version(root: Path) -> str:
    for info in root.parent.glob(f"{IMPORT_NAME}-*.dist-info"):
        return info.name.removeprefix(f"{IMPORT_NAME}-").removesuffix(".dist-info")
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
