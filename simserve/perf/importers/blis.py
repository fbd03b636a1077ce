"""BLIS's kernel benchmarks on H100 (Apache-2.0): InferSim's files, a second source beside aiconfigurator.

Its decode folder names the tensor parallelism: files hold the model's heads, rows are those of one rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simserve.errors import UnknownName
from simserve.perf.importers.infersim import read_bench
from simserve.perf.importers.writing import write_device
from simserve.spec.hardware import load_gpu

ARCHIVE = "blis_bench_data_h100.tgz"
DEVICES = ("h100_sxm",)
ABOUT: dict[str, Any] = {
    "package": "BLIS benchmarks", "licence": "Apache-2.0", "built_by": "simserve perfdb build --from blis",
}  # fmt: skip


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables under `out_dir`/h100_sxm/blis; package_dir: the folder with the archive."""
    for name in devices:
        if name not in DEVICES:
            raise UnknownName("device of BLIS's benchmarks", name, DEVICES)
    return write_device(load_gpu("h100_sxm"), "blis", out_dir, read_bench(package_dir, ARCHIVE, "h100"), ABOUT)
