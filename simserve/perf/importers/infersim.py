"""InferSim's kernel benchmarks on H20 and H800 (Apache-2.0, Alibaba); `read_bench` also serves BLIS, same files.

Microseconds of one kernel: DeepGEMM in fp8 with 128 x 128 blocks (the peak that its utilisations divide by is the fp8
one), FlashAttention-3 and FlashMLA in bf16, one prompt per prefill row. Grouped GEMMs: the gate-up and the down
projection of the experts of one rank under equal loads, added up; routing, sorting, activation and sum are not in.
Left out: the sparse attention of DeepSeek-V3.2 and the gated delta net, for which there is no family; and what
`_WITHOUT` and `_of_one_rank` name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from simserve.errors import UnknownName
from simserve.perf.importers.archive import NS_PER_US, rows, tables
from simserve.perf.importers.rows import Counts, Origin, Read, join
from simserve.perf.importers.writing import write_device
from simserve.perf.store import Columns
from simserve.spec.hardware import load_gpu

ARCHIVE = "infersim_bench_data_h20_h800.tgz"
DEVICES = ("h20", "h800")
ABOUT: dict[str, Any] = {
    "package": "InferSim benchmarks", "licence": "Apache-2.0, Alibaba",
    "built_by": "simserve perfdb build --from infersim",
}  # fmt: skip
Convert = Callable[[Any, str], Columns]
_UNEVEN = "experts of a rank do not add up"
# One prompt of 4,096 takes 85 us there, 27 and 29 us with half and twice the heads: its kernel did not split the cache.
_WITHOUT = {"mha/decode/h20/64-2-128": "of a kernel that does not split the cache"}


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables of each device under `out_dir`; package_dir: the folder with the archive."""
    for name in devices:
        if name not in DEVICES:
            raise UnknownName("device of InferSim's benchmarks", name, DEVICES)
    return [
        path
        for device in devices or DEVICES
        for path in write_device(load_gpu(device), "", out_dir, read_bench(package_dir, ARCHIVE, device), ABOUT)
    ]


def read_bench(package_dir: Path | None, archive: str, folder: str) -> dict[str, Read]:
    """family -> rows of one device of such an archive."""
    parts: dict[str, list[Columns]] = {}
    origins: dict[str, list[Origin]] = {}
    left_out: dict[str, Counts] = {}
    pattern = rf"bench_data/(.+)/{folder}/([\w-]+)\.csv$"
    for match, data in tables(package_dir, archive, pattern):
        if match[1] not in _FAMILIES:
            continue
        family, convert = _FAMILIES[match[1]]
        origin = Origin(match.string, "kernel benchmark", "", folder, len(data))
        origins.setdefault(family, []).append(origin)
        counts = left_out.setdefault(family, {})
        whole = f"{match[1]}/{folder}/{match[2]}"
        if whole in _WITHOUT:
            counts[_WITHOUT[whole]] = len(data)
            continue
        kept = _of_one_rank(data)
        if len(kept) < len(data):
            counts[_UNEVEN] = counts.get(_UNEVEN, 0) + len(data) - len(kept)
        parts.setdefault(family, []).append(convert(kept, match[2]))
    return {family: Read(tuple(origins[family]), join(found), left_out[family]) for family, found in parts.items()}


def _of_one_rank(data: Any) -> Any:
    """Expert rows whose experts of a rank, times ranks, are the model's; everything of other files."""
    if "num_local_experts" not in data:
        return data
    return data[data["num_local_experts"] * data["num_gpus"] == data["num_experts"]]


def _gemm(data: Any, name: str) -> Columns:
    return rows(data["latency_us"], NS_PER_US, dtype="fp8_block", n=data["n"], k=data["k"], m=data["m"])


def _heads(name: str) -> dict[str, int]:
    """Per rank, of '64-8-128' or '64-8-128-tp4': query heads, KV heads, head_dim of the model, and the split."""
    heads, kv_heads, dim, *split = name.split("-")
    tp = int(split[0].removeprefix("tp")) if split else 1
    return {"head_dim": int(dim), "heads": int(heads) // tp, "kv_heads": max(int(kv_heads) // tp, 1), "window": 0}


def _prefill(data: Any, name: str) -> Columns:
    return rows(data["latency_us"], NS_PER_US, kv_dtype="bf16", **_heads(name), past=0, batch=1,
                tokens=data["seq_len"])  # fmt: skip


def _decode(data: Any, name: str) -> Columns:
    keys = {**_heads(name), "batch": data["batch_size"], "context": data["kv_len"]}
    columns = rows(data["latency_us"], NS_PER_US, **keys)
    return {"kv_dtype": data["kv_dtype"].to_numpy(dtype=object), **columns}


def _mla_prefill(data: Any, name: str) -> Columns:
    return rows(data["latency_us"], NS_PER_US, part="kernel", dtype="bf16", kv_dtype="bf16",
                heads=int(name.split("-")[0]), past=0, batch=1, tokens=data["seq_len"])  # fmt: skip


def _mla_decode(data: Any, name: str) -> Columns:
    return rows(data["latency_us"], NS_PER_US, part="kernel", dtype="bf16", kv_dtype="bf16",
                heads=int(name.split("-")[0]), batch=data["batch_size"], context=data["kv_len"])  # fmt: skip


def _experts(data: Any, name: str) -> Columns:
    per_gpu = data["seq_len_per_gpu"] if "seq_len_per_gpu" in data else data["batch_size_per_gpu"]
    return rows(data["up_proj_us"] + data["down_proj_us"], NS_PER_US, dtype="fp8_block", hidden=data["hidden_size"],
                inter=data["intermediate_size"], experts=data["num_experts"], topk=data["topk"], tp=1,
                ep=data["num_gpus"], distribution="balanced", tokens=per_gpu * data["num_gpus"])  # fmt: skip


_FAMILIES: dict[str, tuple[str, Convert]] = {
    "gemm": ("gemm", _gemm),
    "mha/prefill": ("prefill_attention", _prefill),
    "mha/decode": ("decode_attention", _decode),
    "mla/prefill": ("mla_prefill", _mla_prefill),
    "mla/decode": ("mla_decode", _mla_decode),
    "grouped_gemm/prefill": ("moe", _experts),
    "grouped_gemm/decode": ("moe", _experts),
}
