"""How far off a price is where a device has no table: `python benchmarks/transfer_errors.py [--json OUT]`.

Each device with tables is treated as if it had none: its rows are priced by the roofline (modelled), or with the
tables of a relative scaled to its datasheet (transferred), and compared with what was measured. The 90th percentiles
over all devices are the half-widths of `perfdb/uncertainty.yaml`. Nothing is fitted here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simserve.arch.ops import LinearAttention
from simserve.errors import Infeasible
from simserve.perf import dsa, gdn, store
from simserve.perf.collective import measured_all_reduce, roofline_all_reduce
from simserve.perf.decode import measured_decode, roofline_decode
from simserve.perf.gemm import GemmTable, roofline_curve
from simserve.perf.prefill import measured_prefill, roofline_prefill
from simserve.perf.relatives import has_rows
from simserve.spec.hardware import load_gpu

Errors = NDArray[np.float64]
DEVICES = ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s")
RELATIVES = (("h200_sxm", "h100_sxm"), ("h100_sxm", "a100_sxm"), ("a100_sxm", "h100_sxm"), ("b200_sxm", "h100_sxm"),
             ("l40s", "h100_sxm"))  # fmt: skip
SHAPES = ((32, 8, 128), (64, 8, 128), (8, 1, 128))  # Llama-3.1-8B, 70B, and 70B over 8 ranks
MOST_SHAPES = 60


def gemm(device: str, source: str | None) -> Errors:
    """Relative errors over a sample of the shapes of LLM layers, up to 8,192 tokens."""
    gpu, found = load_gpu(device), []
    for dtype in ("bf16", "fp8"):
        columns = store.read_table(device, "gemm", {"dtype": dtype})
        wide = (columns["n"] >= 1024) & (columns["k"] >= 1024) & (columns["m"] <= 8192)
        shapes = np.unique(np.stack([columns["n"][wide], columns["k"][wide]], axis=1), axis=0)
        if not len(shapes) or (source and dtype not in load_gpu(source).peak_flops):
            continue
        picked = np.random.default_rng(0).permutation(len(shapes))[:MOST_SHAPES]
        table = GemmTable(gpu, load_gpu(source), dtype) if source else None
        for n, k in shapes[picked].tolist():
            rows = np.flatnonzero(wide & (columns["n"] == n) & (columns["k"] == k))
            rows = rows[np.argsort(columns["m"][rows])]
            m = columns["m"][rows].astype(np.float64)
            curve = table.curve(n, k, m) if table else roofline_curve(gpu, dtype, n, k, m)
            found.append(curve.ns / columns["latency_ns"][rows] - 1)
    return np.concatenate(found) if found else np.zeros(0)


Shape = Callable[[int, int, int], Callable[[int, int], float]]


def _attention(device: str, family: str, keys: tuple[str, str], price: Shape) -> Errors:
    """Relative errors over the shapes of Llama models; `price` makes a function of the two keys from a shape."""
    columns, found = store.read_table(device, family, {"kv_dtype": "bf16"}), []
    for heads, kv_heads, dim in SHAPES:
        rows = (columns["heads"] == heads) & (columns["kv_heads"] == kv_heads) & (columns["head_dim"] == dim)
        rows &= (columns["batch"] <= 256) & (columns[keys[1]] >= 64) & (columns["window"] == 0)
        ns = price(heads, kv_heads, dim)
        pairs = zip(columns[keys[0]][rows].tolist(), columns[keys[1]][rows].tolist(), strict=True)
        found.append(np.array([ns(a, b) for a, b in pairs]) / columns["latency_ns"][rows] - 1)
    return np.concatenate(found)


def decode(device: str, source: str | None) -> Errors:
    """Relative errors of decode attention."""
    gpu = load_gpu(device)

    def price(heads: int, kv_heads: int, dim: int) -> Callable[[int, int], float]:
        table = (measured_decode(gpu, load_gpu(source), "bf16", heads, kv_heads, dim, 256) if source
                 else roofline_decode(gpu, 2, kv_heads, dim, 256))  # fmt: skip
        return lambda batch, context: table.time_ns(batch, batch * context)

    return _attention(device, "decode_attention", ("batch", "context"), price)


def prefill(device: str, source: str | None) -> Errors:
    """Relative errors of prefill attention."""
    gpu = load_gpu(device)

    def price(heads: int, kv_heads: int, dim: int) -> Callable[[int, int], float]:
        table = (measured_prefill(gpu, load_gpu(source), "bf16", heads, kv_heads, dim) if source
                 else roofline_prefill(gpu, heads, dim))  # fmt: skip
        return table.time_ns

    return _attention(device, "prefill_attention", ("batch", "tokens"), price)


def all_reduce(device: str, source: str | None) -> Errors:
    """Relative errors of the faster method, up to 64 MiB."""
    gpu, columns, found = load_gpu(device), store.read_table(device, "all_reduce"), []
    for ranks in np.unique(columns["ranks"]).tolist():
        rows = (columns["ranks"] == ranks) & (columns["bytes"] <= 1 << 26)
        sizes = np.unique(columns["bytes"][rows])
        best = np.array([columns["latency_ns"][rows & (columns["bytes"] == size)].min() for size in sizes])
        curve = (measured_all_reduce(gpu, load_gpu(source), ranks, sizes.astype(np.float64)) if source
                 else roofline_all_reduce(gpu, ranks, sizes.astype(np.float64)))  # fmt: skip
        found.append(curve.ns / best - 1)
    return np.concatenate(found)


def nets(device: str, source: str | None) -> Errors:
    """Relative errors of gated delta nets: the two kernels of a layer, for Qwen3.5-397B on 1, 4 and 8 ranks."""
    gpu, columns, found = load_gpu(device), store.read_table(device, "gdn"), []
    for keys, values in ((16, 64), (4, 16), (2, 8)):
        op = LinearAttention(keys, values, gdn.DIM, gdn.DIM, gdn.CONV, 4, 1)
        mine = (columns["k_heads"] == keys) & (columns["v_heads"] == values) & (columns["batch"] <= 256)
        rows = {name: _by_two(columns, mine & (columns["op"] == name)) for name in (*gdn.PROMPTS, *gdn.ONE_TOKEN)}
        scans = not source or has_rows(source, "gdn", "op", "scan")  # A100 has none
        prompts = gdn.measured_prefill(gpu, load_gpu(source), op) if source and scans else gdn.roofline_prefill(gpu, op)
        decode = gdn.measured_decode(gpu, load_gpu(source), op, 256) if source else gdn.roofline_decode(gpu, op, 256)
        for (first, second), ns in (
            (gdn.PROMPTS, lambda batch, tokens, table=prompts: table.time_ns(batch, tokens)),
            (gdn.ONE_TOKEN, lambda batch, _, table=decode: table.time_ns(batch, batch)),
        ):
            known = rows[first] if scans or first == gdn.ONE_TOKEN[0] else {}
            both = {key: time + rows[second][key] for key, time in known.items() if key in rows[second]}
            found.append(np.array([ns(*key) / time - 1 for key, time in both.items() if key[1] == 1 or key[1] >= 64]))
    return np.concatenate(found)


def _by_two(columns: store.Columns, rows: NDArray[np.bool_]) -> dict[tuple[int, int], int]:
    names = ("batch", "tokens", "latency_ns")
    return {(batch, tokens): ns for batch, tokens, ns in zip(*(columns[n][rows].tolist() for n in names), strict=True)}


def block_prefill(device: str, source: str | None) -> Errors:
    """Relative errors of blocks of sparse attention over prompts: GLM-5 on 8 and 2 ranks."""
    gpu, columns, found = load_gpu(device), store.read_table(device, "dsa_prefill", _BLOCK), []
    for heads in (8, 32):
        op, rows = dsa.block_of(6144, heads, "fp8_block"), columns["heads"] == heads
        table = dsa.measured_prefill(gpu, load_gpu(source), "bf16", op) if source else dsa.RooflinePrefill(gpu, op)
        keys = zip(*(columns[name][rows].tolist() for name in ("batch", "tokens", "past")), strict=True)
        ns = np.array([table.chunks_ns([(tokens, past)] * batch) for batch, tokens, past in keys])
        found.append(ns / columns["latency_ns"][rows] - 1)
    return np.concatenate(found)


def block_decode(device: str, source: str | None) -> Errors:
    """Relative errors of blocks of sparse attention, one new token per request: GLM-5 on 8 and 2 ranks."""
    gpu, columns, found = load_gpu(device), store.read_table(device, "dsa_decode", _BLOCK), []
    for heads in (8, 32):
        op, rows = dsa.block_of(6144, heads, "fp8_block"), columns["heads"] == heads
        table = (dsa.measured_decode(gpu, load_gpu(source), "bf16", op, 512) if source
                 else dsa.roofline_decode(gpu, "bf16", op, 512))  # fmt: skip
        keys = zip(columns["batch"][rows].tolist(), columns["context"][rows].tolist(), strict=True)
        ns = np.array([table.time_ns(batch, batch * context) for batch, context in keys])
        found.append(ns / columns["latency_ns"][rows] - 1)
    return np.concatenate(found)


_BLOCK: dict[str, str | int] = {"hidden": 6144, "dtype": "fp8_block", "kv_dtype": "bf16"}
FAMILIES = {
    "gemm": gemm, "prefill_attention": prefill, "decode_attention": decode, "all_reduce": all_reduce, "gdn": nets,
    "dsa_prefill": block_prefill, "dsa_decode": block_decode,
}  # fmt: skip


def summary(errors: Errors) -> dict[str, float]:
    """Median and 90th percentile of the size, and the signed median."""
    size = np.abs(errors)
    return {"median": round(float(np.median(size)), 3), "p90": round(float(np.quantile(size, 0.9)), 3),
            "signed_median": round(float(np.median(errors)), 3), "points": len(errors)}  # fmt: skip


def main() -> None:
    """Print each device and family, then all devices together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for family, errors_of in FAMILIES.items():
        for kind, pairs in (("modelled", [(d, None) for d in DEVICES]), ("transferred", RELATIVES)):
            together = []
            for device, source in pairs:
                if not all(store.has_table(name, family) for name in (device, source) if name):
                    continue
                try:
                    together.append(errors_of(device, source))
                except Infeasible:
                    continue
                rows.append({"family": family, "kind": kind, "device": device, "source": source,
                             **summary(together[-1])})  # fmt: skip
                print(f"{family:18} {kind:12} {device:10} {source or 'roofline':10} {summary(together[-1])}")
            rows.append({"family": family, "kind": kind, "device": "all", **summary(np.concatenate(together))})
            print(f"{family:18} {kind:12} all        {'':10} {summary(np.concatenate(together))}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
