"""Vidur's profiles (MIT, Microsoft): projections on A40, A100 and H100, all-reduce on A100 and H100, attention on A30.

Medians in milliseconds of PyTorch operations of one layer, launched from the host: times below 20 us are rounded to
the microsecond and may hold a launch. `mlp.csv` names the sizes of its model and the tensor parallelism. The A30's
attention (FlashInfer, Qwen2-7B) has cached tokens before the chunk in some rows.
All-reduce: bytes of the summed vector; DGX folders and one node alone (up to eight GPUs behind one switch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import UnknownName
from simserve.perf.importers.archive import NS_PER_MS, rows, tables, thinned
from simserve.perf.importers.rows import Origin, Read, join
from simserve.perf.importers.writing import write_device
from simserve.perf.store import Columns
from simserve.spec.hardware import load_gpu

ARCHIVE, A30_ARCHIVE = "vidur_mlp_network_a100_a40_h100.tgz", "vidur_opt_a30_qwen2_7b_attention.csv.gz"
FOLDERS = {"a40": "a40", "a100_sxm": "a100", "h100_sxm": "h100"}
SECOND = {"a100_sxm": "vidur", "h100_sxm": "vidur"}
DEVICES = (*FOLDERS, "a30")
ABOUT: dict[str, Any] = {
    "package": "Vidur profiles", "licence": "MIT, Microsoft", "built_by": "simserve perfdb build --from vidur",
}  # fmt: skip


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables of each device under `out_dir`; package_dir: the folder with the archives."""
    for name in devices:
        if name not in DEVICES:
            raise UnknownName("device of Vidur's profiles", name, DEVICES)
    written: list[Path] = []
    for device in devices or DEVICES:
        reads = read_device(package_dir, device)
        written += write_device(load_gpu(device), SECOND.get(device, ""), out_dir, reads, ABOUT)
    return written


def read_device(package_dir: Path | None, device: str) -> dict[str, Read]:
    """family -> rows of one device."""
    if device == "a30":
        return _attention(package_dir)
    found = {"gemm": _gemms(package_dir, FOLDERS[device]), "all_reduce": _all_reduce(package_dir, FOLDERS[device])}
    return {family: read for family, read in found.items() if read is not None}


def projections(row: Any, tp: int) -> dict[str, tuple[int, int]]:
    """Operation in mlp.csv -> (n, k) of a rank's GEMM, from the sizes that a row of the file names."""
    hidden, inter, dim = int(row.n_embd), int(row.n_expanded_embd), int(row.n_embd // row.n_head)
    wide = 2 if row.use_gated_mlp else 1
    return {
        "attn_pre_proj": (int(row.n_head + 2 * row.n_kv_head) * dim // tp, hidden),
        "attn_post_proj": (hidden, hidden // tp),
        "mlp_up_proj": (wide * inter // tp, hidden),
        "mlp_down_proj": (hidden, inter // tp),
    }


def _gemms(package_dir: Path | None, folder: str) -> Read:
    parts: list[Columns] = []
    origins: list[Origin] = []
    for match, data in tables(package_dir, ARCHIVE, rf"compute/{folder}/.+/mlp\.csv$"):
        origins.append(Origin(match.string, "pytorch", "", folder, len(data)))
        for tp in sorted(set(data["num_tensor_parallel_workers"].astype(int))):
            part = data[data["num_tensor_parallel_workers"] == tp]
            kept = part[thinned(part["num_tokens"])]
            for name, (n, k) in projections(part.iloc[0], tp).items():
                time = kept[f"time_stats.{name}.median"]
                parts.append(rows(time, NS_PER_MS, dtype="bf16", n=n, k=k, m=kept["num_tokens"]))
    columns = join(parts)
    cells = 4 * sum(origin.rows for origin in origins)
    return Read(tuple(origins), columns, {"between the grid's points (a row holds 4 GEMMs)":
                                          cells - len(columns["latency_ns"])})  # fmt: skip


def _all_reduce(package_dir: Path | None, folder: str) -> Read | None:
    for match, data in tables(package_dir, ARCHIVE, r"network/.+/all_reduce\.csv$"):
        if f"/{folder}_dgx/" in match.string:
            one_node = data["devices_per_node"] == data["num_workers"]
            kept = data[(data["rank"] == 0) & (data["size"] > 0) & one_node]
            columns = rows(kept["time_stats.all_reduce.median"], NS_PER_MS, method="nccl",
                           ranks=kept["num_workers"], bytes=kept["size"])  # fmt: skip
            origin = Origin(match.string, "nccl", "", folder, len(data))
            return Read((origin,), columns, {"other ranks, or several nodes": len(data) - len(kept)})
    return None


def _attention(package_dir: Path | None) -> dict[str, Read]:
    _, data = next(tables(package_dir, A30_ARCHIVE, r"attention\.csv"))
    origin = Origin(A30_ARCHIVE, "flashinfer", "", "a30", len(data))
    first = data.iloc[0]
    dim = int(first.n_embd // first.n_q_head)
    heads, kv_heads = int(first.n_q_head), int(first.n_kv_head)
    keys: dict[str, Any] = {
        "kv_dtype": "bf16", "head_dim": dim, "heads": heads, "kv_heads": kv_heads, "window": 0,
    }  # fmt: skip
    p, d = data[data["is_prefill"]], data[~data["is_prefill"]]
    prefill = rows(p["time_stats.attn_prefill.median"], NS_PER_MS, **keys, past=p["kv_cache_size"],
                   batch=np.ones(len(p), dtype=np.int64), tokens=p["prefill_chunk_size"])  # fmt: skip
    decode = rows(d["time_stats.attn_decode.median"], NS_PER_MS, **keys, batch=d["batch_size"],
                  context=d["kv_cache_size"])  # fmt: skip
    return {
        "prefill_attention": Read((origin,), prefill, {"decode": len(d)}),
        "decode_attention": Read((origin,), decode, {"prefill": len(p)}),
    }
