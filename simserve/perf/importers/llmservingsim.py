"""LLMServingSim's profiles of vLLM 0.19 on RTX 4090 and RTX PRO 6000 (MIT, CASYS Lab, KAIST).

One layer of a model ran eagerly under vLLM's own profiler hooks; times are kernel times in microseconds.
- dense.csv: the four projections of a layer by tokens, a GEMM each, and the passes between them (width: elements read
  per token); per_sequence.csv: the LM head by rows, and the sampler (width: vocabulary);
- attention.csv: one launch over a prefill chunk (after kv_prefill cached tokens) and n_decode requests of kv_decode
  tokens each. Rows of prefill alone and of decode alone become tables; mixed rows are left out, and are what
  `benchmarks/cross_source.py` checks the rule for mixed steps with.
RTX PRO 6000 has tables from aiconfigurator, so these are a second source there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simserve.errors import UnknownName
from simserve.perf.importers.archive import NS_PER_US, rows, tables
from simserve.perf.importers.rows import Origin, Read, join
from simserve.perf.importers.writing import write_device
from simserve.perf.store import Columns
from simserve.spec.hardware import load_gpu

ARCHIVE = "llmservingsim_perf_RTX4090_RTXPRO6000.tgz"
FOLDERS = {"rtx_4090": "RTX4090", "rtx_pro_6000": "RTXPRO6000"}
SECOND = {"rtx_pro_6000": "llmservingsim"}
VERSION = "0.19.0"
# hidden, intermediate (0: experts, not imported), query heads, KV heads, head_dim, vocabulary: the models' config.json.
MODELS = {
    "meta-llama/Llama-3.1-8B": (4096, 14336, 32, 8, 128, 128256),
    "Qwen/Qwen3-32B": (5120, 25600, 64, 8, 128, 151936),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": (2048, 0, 32, 4, 128, 151936),
}
# Name in dense.csv -> op: the norms add the residual stream, the activation is silu and mul.
PASSES = {"embedding": "embedding", "layernorm": "add_rms_norm", "qk_norm": "qk_norm", "rotary_emb": "rotary",
          "act_fn": "silu_and_mul"}  # fmt: skip
ABOUT: dict[str, Any] = {
    "package": "LLMServingSim profiles", "package_version": "profiler 1.0.0", "licence": "MIT, CASYS Lab, KAIST",
    "built_by": "simserve perfdb build --from llmservingsim",
}  # fmt: skip


def build(devices: Sequence[str], out_dir: Path, package_dir: Path | None = None) -> list[Path]:
    """Write the tables of each device under `out_dir`; package_dir: the folder with the archive."""
    for name in devices:
        if name not in FOLDERS:
            raise UnknownName("device of LLMServingSim's profiles", name, FOLDERS)
    written: list[Path] = []
    for device in devices or FOLDERS:
        reads = read_device(package_dir, device)
        written += write_device(load_gpu(device), SECOND.get(device, ""), out_dir, reads, ABOUT)
    return written


def read_device(package_dir: Path | None, device: str) -> dict[str, Read]:
    """family -> rows of one device."""
    parts: dict[str, list[Columns]] = {
        family: [] for family in ("gemm", "elementwise", "prefill_attention", "decode_attention")
    }
    origins: dict[str, list[Origin]] = {family: [] for family in parts}
    unused: dict[str, int] = dict.fromkeys(parts, 0)
    pattern = rf"perf/{FOLDERS[device]}/(.+)/bf16/tp(\d+)/(dense|per_sequence|attention)\.csv$"
    for match, data in tables(package_dir, ARCHIVE, pattern):
        model, tp, kind = match[1], int(match[2]), match[3]
        for family, columns in _READERS[kind](data, MODELS[model], tp).items():
            parts[family].append(columns)
            origins[family].append(Origin(match.string, "vllm", VERSION, FOLDERS[device], len(data)))
            unused[family] += len(data) - len(columns["latency_ns"])
    return {
        family: Read(tuple(origins[family]), join(found), {"other operations, or mixed launches": unused[family]})
        for family, found in parts.items()
    }


def projections(shape: tuple[int, ...], tp: int) -> dict[str, tuple[int, int]]:
    """Name in dense.csv -> (n, k) of a rank's GEMM."""
    hidden, inter, heads, kv_heads, dim, _ = shape
    found = {"qkv_proj": ((heads + 2 * kv_heads) * dim // tp, hidden), "o_proj": (hidden, heads * dim // tp)}
    if inter:
        found |= {"gate_up_proj": (2 * inter // tp, hidden), "down_proj": (hidden, inter // tp)}
    return found


def _dense(data: Any, shape: tuple[int, ...], tp: int) -> dict[str, Columns]:
    parts = []
    for name, (n, k) in projections(shape, tp).items():
        part = data[data["layer"] == name]
        parts.append(rows(part["time_us"], NS_PER_US, dtype="bf16", n=n, k=k, m=part["tokens"]))
    hidden, inter, heads, kv_heads, dim, _ = shape
    query_key = (heads + kv_heads) * dim // tp
    widths = {"embedding": hidden, "layernorm": hidden, "qk_norm": query_key, "rotary_emb": query_key,
              "act_fn": 2 * inter // tp}  # fmt: skip
    passes = [_pass(data[data["layer"] == name], PASSES[name], width, "tokens") for name, width in widths.items()]
    return {"gemm": join(parts), "elementwise": join(passes)}


def _pass(part: Any, op: str, width: int, by: str) -> Columns:
    return rows(part["time_us"], NS_PER_US, op=op, dtype="bf16", width=width, tokens=part[by])


def _per_sequence(data: Any, shape: tuple[int, ...], tp: int) -> dict[str, Columns]:
    part = data[data["layer"] == "lm_head"]
    n, k = shape[-1] // tp, shape[0]
    sampler = _pass(data[data["layer"] == "sampler"], "sampler", shape[-1], "sequences")
    return {"gemm": rows(part["time_us"], NS_PER_US, dtype="bf16", n=n, k=k, m=part["sequences"]),
            "elementwise": sampler}  # fmt: skip


def _attention(data: Any, shape: tuple[int, ...], tp: int) -> dict[str, Columns]:
    _, _, heads, kv_heads, dim, _ = shape
    keys: dict[str, Any] = {"kv_dtype": "bf16", "head_dim": dim, "heads": heads // tp, "kv_heads": kv_heads // tp}
    p, d = data[data["n_decode"] == 0], data[data["prefill_chunk"] == 0]
    ones = np.ones(len(p), dtype=np.int64)
    prefill = rows(p["time_us"], NS_PER_US, **keys, window=0, past=p["kv_prefill"], batch=ones,
                   tokens=p["prefill_chunk"])  # fmt: skip
    decode = rows(d["time_us"], NS_PER_US, **keys, window=0, batch=d["n_decode"], context=d["kv_decode"])
    return {"prefill_attention": prefill, "decode_attention": decode}


_READERS = {"dense": _dense, "per_sequence": _per_sequence, "attention": _attention}
