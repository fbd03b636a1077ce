"""LLMServingSim's earlier profiles on A6000, RTX 3090 and H100 (MIT, CASYS Lab, KAIST); the TPU is left out.

layers.csv: operations of one layer in PyTorch, nanoseconds by tokens. The projections become GEMMs, `attn` (one
prompt, nothing cached) prefill attention. Left out: norms, rotary embedding and activations (separate PyTorch
kernels that vLLM fuses), and attention.csv: its decode kernel does not split the KV of a request over the chip (27 ns
per token of a lone request on H100, whatever its heads), which every serving engine's kernel does.
Sizes of the models as in their config.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simserve.errors import UnknownName
from simserve.perf.importers.archive import rows, tables, thinned
from simserve.perf.importers.rows import Origin, Read, join
from simserve.perf.importers.writing import write_device
from simserve.perf.store import Columns
from simserve.spec.hardware import load_gpu

ARCHIVE = "llmservingsim_v0_A6000_H100_RTX3090_TPU.tgz"
FOLDERS = {"rtx_a6000": "A6000", "rtx_3090": "RTX3090", "h100_sxm": "H100"}
SECOND = {"h100_sxm": "llmservingsim_v0"}
# hidden, intermediate (0: experts), query heads, KV heads, head_dim, vocabulary
MODELS = {
    "meta-llama/Llama-3.1-8B": (4096, 14336, 32, 8, 128, 128256),
    "meta-llama/Llama-3.1-70B": (8192, 28672, 64, 8, 128, 128256),
    "mistralai/Mixtral-8x7B-v0.1": (4096, 0, 32, 8, 128, 32000),
    "microsoft/Phi-mini-MoE-instruct": (4096, 0, 32, 8, 128, 32064),
}
ABOUT: dict[str, Any] = {
    "package": "LLMServingSim v0 profiles", "package_version": "v0", "licence": "MIT, CASYS Lab, KAIST",
    "built_by": "simserve perfdb build --from llmservingsim_v0",
}  # fmt: skip


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables of each device under `out_dir`; package_dir: the folder with the archive."""
    for name in devices:
        if name not in FOLDERS:
            raise UnknownName("device of LLMServingSim's first profiles", name, FOLDERS)
    written: list[Path] = []
    for device in devices or FOLDERS:
        reads = read_device(package_dir, device)
        written += write_device(load_gpu(device), SECOND.get(device, ""), out_dir, reads, ABOUT)
    return written


def read_device(package_dir: Path | None, device: str) -> dict[str, Read]:
    """family -> rows of one device."""
    gemms: list[Columns] = []
    attention: list[Columns] = []
    origins: list[Origin] = []
    pattern = rf"perf_models/{FOLDERS[device]}/(.+)/tp(\d+)/layers\.csv$"
    for match, data in tables(package_dir, ARCHIVE, pattern):
        shape, tp = MODELS[match[1]], int(match[2])
        kept = data[thinned(data["input"])]
        for name, (n, k) in projections(shape, tp).items():
            part = kept[kept["layer_name"] == name]
            gemms.append(rows(part["latency(ns)"], 1.0, dtype="bf16", n=n, k=k, m=part["input"]))
        part = kept[kept["layer_name"] == "attn"]
        attention.append(rows(
            part["latency(ns)"], 1.0, kv_dtype="bf16", head_dim=shape[4], heads=shape[2] // tp,
            kv_heads=shape[3] // tp, window=0, past=0, batch=1, tokens=part["input"],
        ))  # fmt: skip
        origins.append(Origin(match.string, "pytorch", "", FOLDERS[device], len(data)))
    found = {"gemm": join(gemms), "prefill_attention": join(attention)}
    total = sum(origin.rows for origin in origins)
    return {
        family: Read(tuple(origins), columns, {"other operations, or between the grid's points":
                                               total - len(columns["latency_ns"])})
        for family, columns in found.items()
    }  # fmt: skip


def projections(shape: tuple[int, ...], tp: int) -> dict[str, tuple[int, int]]:
    """Name in layers.csv -> (n, k) of a rank's GEMM; k_proj and v_proj are alike."""
    hidden, inter, heads, kv_heads, dim, vocabulary = shape
    found = {
        "q_proj": (heads * dim // tp, hidden),
        "k_proj": (kv_heads * dim // tp, hidden),
        "v_proj": (kv_heads * dim // tp, hidden),
        "o_proj": (hidden, heads * dim // tp),
        "lm_head": (vocabulary // tp, hidden),
    }
    if inter:
        split = inter // tp
        found |= {"gate_proj": (split, hidden), "up_proj": (split, hidden), "down_proj": (hidden, split)}
    return found
