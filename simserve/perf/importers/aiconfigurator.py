"""Tables from the PyPI package aiconfigurator-core (Apache-2.0, NVIDIA); none of its code runs.

Which rows are kept
- framework vLLM, the newest version that has the family; NCCL all-reduce from the newest NCCL version;
- GEMM: bf16 (torch.nn.functional.linear) and fp8 with per-tensor scales (CutlassFP8ScaledMM): one kernel per
  shape in the source. Block-scaled fp8 and nvfp4 are left out until a model asks for them;
- attention: head_dim 64, 128, 256, no sliding window, bf16 and fp8 KV. The source holds one row per shape:
  the backend vLLM selects by itself (FlashAttention, or FlashInfer where that is the default). Triton rows,
  which vLLM takes only where no other backend works, are left out. Repeats of a key (A100): their median;
- all-reduce: bf16. `vllm_custom` as captured in a CUDA graph, and `nccl`.
Units at the source are ms, and message_size counts elements, not bytes: NCCL rows of `half` at size s equal
those of `int8` at 2 s. A generation row at `step` s attends s + 1 tokens in each of batch_size requests.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import MissingData
from simserve.perf import checks, leave_out, store
from simserve.spec.hardware import load_gpu, load_link

PACKAGE, IMPORT_NAME, LICENCE = "aiconfigurator-core", "aiconfigurator_core", "Apache-2.0, NVIDIA"
DEVICES = ("h100_sxm", "h200_sxm", "a100_sxm", "l40s", "b200_sxm")
HEAD_DIMS = (64, 128, 256)
_DTYPES = {"bfloat16": "bf16", "fp8": "fp8"}
_GEMM_KERNELS = ("torch.nn.functional.linear", "CutlassFP8ScaledMMLinearKernel", "vllm_default")
_ATTENTION_KEYS = (
    ("head_dim", "head_dim"),
    ("heads", "num_heads"),
    ("kv_heads", "num_key_value_heads"),
    ("batch", "batch_size"),
)
Columns = store.Columns


@dataclass(frozen=True)
class Raw:
    """One source file: columns as arrays, and where it is inside the package."""

    columns: Columns
    file: str
    framework: str
    version: str
    device: str


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
    if not (root / "systems" / "data" / device).is_dir():
        known = ", ".join(sorted(p.name for p in (root / "systems" / "data").iterdir()))
        raise MissingData(f"{PACKAGE} has no tables for {device}; it has {known}")
    tables: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    for family in _READERS:
        path = out_dir / device / f"{family}.parquet"
        tables[family] = _build_table(device, family, path, root)
        written.append(path)
    about = {
        "package": PACKAGE,
        "package_version": _package_version(root),
        "licence": LICENCE,
        "built": datetime.now(UTC).date().isoformat(),
        "built_by": "simserve perfdb build --from aiconfigurator",
        "tables": tables,
    }
    note = out_dir / device / "provenance.json"
    note.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return [*written, note]


def _build_table(device: str, family: str, path: Path, root: Path) -> dict[str, Any]:
    gpu = load_gpu(device)
    raws, columns, left_out = _READERS[family](root / "systems" / "data" / device)
    columns, repeats = _median_of_repeats(family, columns)
    columns, dropped = checks.drop_unphysical(family, columns, gpu, load_link(gpu.interconnect))
    store.write_table(path, family, columns)
    return {
        "sources": [
            {"file": r.file, "framework": r.framework, "version": r.version, "device": r.device} for r in raws
        ],
        "kernels": sorted({str(k) for k in columns["kernel"]}) if "kernel" in columns else [],
        "rows_source": sum(len(next(iter(r.columns.values()))) for r in raws),
        "rows_kept": len(columns["latency_ns"]),
        "rows_left_out": left_out,
        "rows_merged_repeats": repeats,
        "rows_dropped": [asdict(entry) for entry in dropped],
        "latency_unit": "ns",
        "left_out_error": leave_out.summary(family, columns, gpu),
    }


def _gemm(folder: Path) -> tuple[list[Raw], Columns, dict[str, int]]:
    raw = _read_newest(folder / "gemm" / "vllm", "gemm_perf.parquet")
    c = raw.columns
    keep = np.isin(c["gemm_dtype"].astype(str), list(_DTYPES)) & np.isin(
        c["kernel_source"].astype(str), _GEMM_KERNELS
    )
    out: Columns = {"dtype": _dtype(c["gemm_dtype"][keep])}
    out |= {name: c[name][keep].astype(np.int32) for name in ("n", "k", "m")}
    out["latency_ns"], out["kernel"] = _ns(c["latency"][keep]), c["kernel_source"][keep]
    return [raw], out, {"fp8_block, nvfp4": int((~keep).sum())}


def _attention(folder: Path, file: str) -> tuple[Raw, Columns, dict[str, int]]:
    raw = _read_newest(folder / "attention" / "vllm", file)
    c = raw.columns
    window = c["window_size"] if "window_size" in c else np.zeros(len(c["latency"]), dtype=np.int64)
    triton = np.char.find(c["kernel_source"].astype(str), "triton") >= 0
    windowed, wide = window != 0, ~np.isin(c["head_dim"], HEAD_DIMS)
    keep = ~(triton | windowed | wide)
    out: Columns = {"kv_dtype": _dtype(c["kv_cache_dtype"][keep])}
    out |= {ours: c[theirs][keep].astype(np.int32) for ours, theirs in _ATTENTION_KEYS}
    out["tokens"], out["context"] = c["isl"][keep].astype(np.int32), c["step"][keep].astype(np.int32) + 1
    out["latency_ns"], out["kernel"] = _ns(c["latency"][keep]), c["kernel_source"][keep]
    left_out = {
        "sliding window": int(windowed.sum()),
        "head_dim not 64, 128 or 256": int((wide & ~windowed).sum()),
        "triton backend": int((triton & ~windowed & ~wide).sum()),
    }
    return raw, out, left_out


def _prefill(folder: Path) -> tuple[list[Raw], Columns, dict[str, int]]:
    raw, columns, left_out = _attention(folder, "context_attention_perf.parquet")
    del columns["context"]
    return [raw], columns, left_out


def _decode(folder: Path) -> tuple[list[Raw], Columns, dict[str, int]]:
    raw, columns, left_out = _attention(folder, "generation_attention_perf.parquet")
    del columns["tokens"]
    return [raw], columns, left_out


def _all_reduce(folder: Path) -> tuple[list[Raw], Columns, dict[str, int]]:
    custom = _read_newest(folder / "comm" / "vllm", "custom_allreduce_perf.parquet")
    nccl = _read_newest(folder / "comm" / "nccl", "nccl_perf.parquet")
    graph = custom.columns["kernel_source"].astype(str) == "vLLM_custom_graph"
    half = (nccl.columns["op_name"].astype(str) == "all_reduce") & (
        nccl.columns["nccl_dtype"].astype(str) == "half"
    )
    parts = [("vllm_custom", custom.columns, graph), ("nccl", nccl.columns, half)]
    out: Columns = {
        "method": np.concatenate([np.full(int(mask.sum()), name, dtype=object) for name, _, mask in parts]),
        "ranks": np.concatenate([c["num_gpus"][mask].astype(np.int32) for _, c, mask in parts]),
        "bytes": np.concatenate([2 * c["message_size"][mask].astype(np.int64) for _, c, mask in parts]),
        "latency_ns": np.concatenate([_ns(c["latency"][mask]) for _, c, mask in parts]),
    }
    left_out = {"eager mode": int((~graph).sum()), "other NCCL operations and types": int((~half).sum())}
    return [custom, nccl], out, left_out


_READERS: dict[str, Callable[[Path], tuple[list[Raw], Columns, dict[str, int]]]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "all_reduce": _all_reduce,
}


def _read_newest(folder: Path, file: str) -> Raw:
    """The file in the highest version folder that has it."""
    import pyarrow.parquet as pq

    found = [path for path in folder.glob(f"*/{file}") if "rc" not in path.parent.name]
    if not found:
        raise MissingData(f"{PACKAGE} has no {file} under {folder}")
    path = max(found, key=lambda p: tuple(int(x) for x in p.parent.name.split(".") if x.isdigit()))
    table = pq.read_table(path)
    columns: Columns = {n: table.column(n).to_numpy(zero_copy_only=False) for n in table.column_names}
    said = {n: str(columns[n][0]) if n in columns else "" for n in ("framework", "device")}
    inside = path.relative_to(folder.parents[3]).as_posix()
    return Raw(columns, inside, said["framework"], path.parent.name, said["device"])


def _median_of_repeats(family: str, columns: Columns) -> tuple[Columns, int]:
    """One row per key: the median of its repeats. Returns how many rows went."""
    keys = store.KEYS[family]
    codes = np.stack([np.unique(columns[k].astype(str), return_inverse=True)[1] for k in keys], axis=1)
    _, first, group = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    repeats = len(group) - len(first)
    if not repeats:
        return columns, 0
    group, time = group.reshape(-1), columns["latency_ns"].astype(np.float64)
    order = np.lexsort((time, group))
    splits = np.split(time[order], np.flatnonzero(np.diff(group[order])) + 1)
    out = {name: values[first] for name, values in columns.items()}
    out["latency_ns"] = np.array([round(float(np.median(part))) for part in splits], dtype=np.int64)
    return out, repeats


def _ns(milliseconds: NDArray[np.generic]) -> NDArray[np.int64]:
    return np.rint(milliseconds.astype(np.float64) * 1e6).astype(np.int64)


def _dtype(names: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.array([_DTYPES[str(name)] for name in names], dtype=object)


def _package_version(root: Path) -> str:
    for info in root.parent.glob(f"{IMPORT_NAME}-*.dist-info"):
        return info.name.removeprefix(f"{IMPORT_NAME}-").removesuffix(".dist-info")
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"
