"""Layers composed from the H100 tables against what others measured on H100, and mixed launches on RTX PRO 6000.

    python benchmarks/cross_source.py ARCHIVES [--json OUT]

ARCHIVES: the folder with vidur_mlp_network_a100_a40_h100.tgz, llmservingsim_v0_A6000_H100_RTX3090_TPU.tgz,
blis_bench_data_h100.tgz and llmservingsim_perf_RTX4090_RTXPRO6000.tgz. None of these rows were used to fit the
H100 layers; of the mixed launches on RTX PRO 6000, Llama's rows gave the rule for cached context (prefill.py), Qwen's
did not.

Layer of a Llama-class model = its four projections and its attention, by tokens, tensor parallelism and context:
- projections: as measured by Vidur (five models, split 1 to 8 ways) and by LLMServingSim v0 (Llama-3.1-8B, 70B);
- whole prefill layer: LLMServingSim v0's projections and attention of one prompt;
- whole decode layer: projections of either, and BLIS's decode attention of the same heads and split.
Bar: median error of whole layers at most 12 %. Norms, rotary embedding and activation are not compared: the archives
timed them as separate PyTorch operations, which no serving engine runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from simserve.perf import store
from simserve.perf.decode import measured_decode
from simserve.perf.importers import archive, llmservingsim, llmservingsim_v0, vidur
from simserve.perf.prefill import measured_prefill
from simserve.perf.relatives import gemm_table
from simserve.spec.hardware import load_gpu

BAR = 0.12
H100 = load_gpu("h100_sxm")
LLAMA_CLASS = ("Llama-2-7b-hf", "Llama-2-70b-hf", "CodeLlama-34b-Instruct-hf", "internlm-20b", "Qwen-72B")
Row = tuple[str, float, float]  # what, priced ns, measured ns
Layer = tuple[str, int, tuple[int, int, int], dict[int, tuple[float, float]]]


@lru_cache(maxsize=1)
def gemms() -> object:
    """The bf16 GEMMs of H100."""
    return gemm_table(H100, H100, "bf16")


def gemm_ns(n: int, k: int, m: int) -> float:
    """Price of one projection."""
    return float(gemms().curve(n, k, np.array([float(m)])).ns[0])  # type: ignore[attr-defined]


def vidur_layers(folder: Path) -> Iterator[Layer]:
    """(model, tp, heads of a rank, {tokens: (priced, measured)}) of the four projections."""
    for match, data in archive.tables(folder, vidur.ARCHIVE, r"compute/h100/.+/([\w-]+)/mlp\.csv$"):
        if match[1] not in LLAMA_CLASS:
            continue
        for tp in sorted(set(data["num_tensor_parallel_workers"])):
            part = data[data["num_tensor_parallel_workers"] == tp].drop_duplicates("num_tokens")
            part = part[archive.thinned(part["num_tokens"])]
            shapes, first = vidur.projections(part.iloc[0], int(tp)), part.iloc[0]
            heads = (int(first.n_head) // tp, max(int(first.n_kv_head) // tp, 1), int(first.n_embd // first.n_head))
            times = {
                int(row["num_tokens"]): (
                    sum(gemm_ns(n, k, int(row["num_tokens"])) for n, k in shapes.values()),
                    sum(row[f"time_stats.{name}.median"] for name in shapes) * archive.NS_PER_MS,
                )
                for _, row in part.iterrows()
            }
            yield f"vidur {match[1]}", int(tp), heads, times


def v0_layers(folder: Path) -> Iterator[tuple[Layer, dict[int, float]]]:
    """As `vidur_layers`, with the measured attention of one prompt by its tokens."""
    pattern = r"perf_models/H100/(meta-llama/.+)/tp(\d+)/layers\.csv$"
    for match, data in archive.tables(folder, llmservingsim_v0.ARCHIVE, pattern):
        shape, tp = llmservingsim_v0.MODELS[match[1]], int(match[2])
        wide = data.pivot_table(index="input", columns="layer_name", values="latency(ns)")
        wide = wide[archive.thinned(wide.index)]
        shapes = {k: v for k, v in llmservingsim_v0.projections(shape, tp).items() if k != "lm_head"}
        times = {
            int(m): (sum(gemm_ns(n, k, int(m)) for n, k in shapes.values()), float(row[list(shapes)].sum()))
            for m, row in wide.iterrows()
        }
        layer = (f"v0 {match[1].partition('/')[2]}", tp, (shape[2] // tp, shape[3] // tp, shape[4]), times)
        yield layer, {int(m): float(value) for m, value in wide["attn"].items()}


def decode_rows(layers: list[Layer]) -> Iterator[Row]:
    """Whole decode layers: measured projections at the batch plus BLIS's attention of the same heads."""
    blis = store.read_table("h100_sxm/blis", "decode_attention", {"kv_dtype": "bf16"})
    names = ("heads", "kv_heads", "head_dim", "batch", "context", "latency_ns")
    for name, tp, heads, times in layers:
        table = measured_decode(H100, H100, "bf16", *heads, 512)
        for h, kv, dim, batch, context, ns in zip(*(blis[c].tolist() for c in names), strict=True):
            if (h, kv, dim) == heads and batch in times:
                priced, measured = times[batch]
                yield f"decode {name} tp{tp}", priced + table.time_ns(batch, batch * context), measured + ns


def layer_rows(folder: Path) -> dict[str, list[Row]]:
    """Kind of comparison -> rows."""
    of_vidur, of_v0 = list(vidur_layers(folder)), list(v0_layers(folder))
    prefill: list[Row] = []
    for (name, tp, heads, times), attention in of_v0:
        table = measured_prefill(H100, H100, "bf16", *heads)
        prefill += [
            (f"prefill {name} tp{tp}", priced + table.time_ns(1.0, float(m)), measured + attention[m])
            for m, (priced, measured) in times.items()
        ]
    layers = [*of_vidur, *(layer for layer, _ in of_v0)]
    alone = [(f"projections {name} tp{tp}", *pair) for name, tp, _, times in layers for pair in times.values()]
    return {"projections": alone, "prefill layer": prefill, "decode layer": list(decode_rows(layers))}


def mixed_rows(folder: Path) -> Iterator[Row]:
    """One launch over a prefill chunk and decoding requests on RTX PRO 6000, as a step prices it."""
    gpu = load_gpu("rtx_pro_6000")
    pattern = r"perf/RTXPRO6000/(.+)/bf16/tp(\d+)/attention\.csv$"
    for match, data in archive.tables(folder, llmservingsim.ARCHIVE, pattern):
        _, _, heads, kv_heads, dim, _ = llmservingsim.MODELS[match[1]]
        shape = (heads // int(match[2]), kv_heads // int(match[2]), dim)
        prefill = measured_prefill(gpu, gpu, "bf16", *shape)
        for chunk, past, batch, context, us in data.itertuples(index=False):
            if chunk and batch:
                beside = prefill.beside_ns(int(batch), int(batch * context))
                priced = prefill.chunks_ns([(int(chunk), int(past))], beside, float(context))
                yield f"mixed {match[1]} tp{match[2]}", priced, us * archive.NS_PER_US


def summary(rows: list[Row]) -> dict[str, float]:
    """Median and 90th percentile of |error|, signed median."""
    error = np.array([priced / measured - 1 for _, priced, measured in rows])
    size = np.abs(error)
    return {"median": round(float(np.median(size)), 4), "p90": round(float(np.quantile(size, 0.9)), 4),
            "signed_median": round(float(np.median(error)), 4), "points": len(rows)}  # fmt: skip


def main() -> None:
    """Print every model, then every kind, then the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archives", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kinds = layer_rows(options.archives)
    whole = [row for kind in ("prefill layer", "decode layer") for row in kinds[kind]]
    kinds |= {"whole layers": whole, "mixed launch, RTX PRO 6000": list(mixed_rows(options.archives))}
    found: dict[str, dict[str, float]] = {}
    for kind, rows in kinds.items():
        if kind != "whole layers":
            for name in dict.fromkeys(name for name, _, _ in rows):
                found[name] = summary([row for row in rows if row[0] == name])
                print(f"  {name:45} {found[name]}")
        found[kind] = summary(rows)
        print(f"{kind:47} {found[kind]}")
    verdict = "met" if found["whole layers"]["median"] <= BAR else "missed"
    print(f"bar: median of whole layers <= {100 * BAR:g} %: {verdict}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
