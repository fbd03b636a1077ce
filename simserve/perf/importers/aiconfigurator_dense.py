"""Families of a dense model in aiconfigurator-core: GEMM, attention, encoder, elementwise, communication.

- GEMM: bf16 (torch.nn.functional.linear), fp8 with per-tensor scales (CutlassFP8ScaledMM), nvfp4 (FlashInfer): one
  kernel per shape in the source, the one vLLM selects. fp8_block (128 x 128 blocks) is taken from SGLang, from
  TensorRT-LLM where SGLang has none (L40S, RTX PRO 6000): vLLM's rows of it were launched eagerly and hold the
  host's time (4096 x 4096 at one token: 156 us on B200, 59 on H100, against 10 and 13 of the same DeepGEMM kernel
  in SGLang's table), which a captured step does not pay;
- attention: the source holds one row per shape, of the backend vLLM selects by itself. Triton rows are kept where
  vLLM has no other backend for the head size (192 on Blackwell) and left out otherwise. No row of any framework has
  a cached prefix, so `past` is 0 throughout. A generation row at `step` s attends s + 1 tokens per request;
- encoder attention: bidirectional, no cache;
- elementwise: static fp8 quantisation as measured, and per-token dynamic quantisation as the sum of the source's two
  rows (static, and dynamic minus static); where the sum falls below the static row the difference was noise;
- communication: 16-bit messages; vLLM's kernel as captured in a CUDA graph, and NCCL. message_size counts elements:
  NCCL rows of `half` at size s equal those of `int8` at 2 s, and is the whole message (all gathered parts together):
  at half a GiB (ranks - 1) / ranks of it cross the link at 74 % of NVLink 4.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.perf.importers.aiconfigurator_source import pick, read_family
from simserve.perf.importers.rows import Counts, Mask, Read, constant, dtype_names, join, median_of_repeats, together
from simserve.perf.store import KEYS, Columns

_ATTENTION = {
    "head_dim": "head_dim",
    "heads": "num_heads",
    "kv_heads": "num_key_value_heads",
    "batch": "batch_size",
}
_COLLECTIVES = {"all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all"}


def gemm(folder: Path) -> Read | None:
    """[m, k] x [k, n] of each dtype."""
    keys, file = KEYS["gemm"], "gemm_perf.parquet"

    def captured(c: Columns) -> tuple[Columns, Counts]:
        return gemms(c, c["gemm_dtype"].astype(str) != "fp8_block", "fp8_block with the host's time")

    def block(c: Columns) -> tuple[Columns, Counts]:
        return gemms(c, c["gemm_dtype"].astype(str) == "fp8_block", "other framework, other format than fp8_block")

    reads = [read_family(folder / "gemm" / "vllm", file, captured, keys)]
    others = (read_family(folder / "gemm" / name, file, block, keys, fill=False) for name in ("sglang", "trtllm"))
    reads.append(next((read for read in others if read is not None and len(read.columns["latency_ns"])), None))
    return together(*reads)


def gemms(c: Columns, keep: Mask, reason: str) -> tuple[Columns, Counts]:
    """Kept rows of a GEMM file in our keys; what is not kept is left out for `reason`."""
    out = pick(c, keep, {"n": "n", "k": "k", "m": "m"})
    return {"dtype": dtype_names(c["gemm_dtype"][keep]), **out}, {reason: int((~keep).sum())}


def prefill(folder: Path) -> Read | None:
    """Prompts of equal length."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        out, left_out = attention(c, {"tokens": "isl", "past": "step"})
        return out, left_out

    return read_family(
        folder / "attention" / "vllm", "context_attention_perf.parquet", convert, KEYS["prefill_attention"]
    )


def decode(folder: Path, framework: str = "vllm") -> Read | None:
    """One new token per request."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        out, left_out = attention(c, {"context": "step"})
        out["context"] = out["context"].astype(np.int32) + 1
        return out, left_out

    return read_family(
        folder / "attention" / framework, "generation_attention_perf.parquet", convert, KEYS["decode_attention"]
    )


def attention(c: Columns, more: dict[str, str]) -> tuple[Columns, Counts]:
    """Rows of an attention file in our keys."""
    triton = np.char.find(c["kernel_source"].astype(str), "triton") >= 0
    usual = triton & np.isin(c["head_dim"].astype(np.int64), (64, 128, 256))
    out = pick(c, ~usual, {**_ATTENTION, **more})
    window = c["window_size"] if "window_size" in c else np.zeros(len(triton), dtype=np.int32)
    out["window"] = np.maximum(window[~usual].astype(np.int32), 0)
    return {"kv_dtype": dtype_names(c["kv_cache_dtype"][~usual]), **out}, {"triton backend": int(usual.sum())}


def encoder(folder: Path) -> Read | None:
    """Attention of a vision or audio encoder."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        ints = {"head_dim": "head_dim", "heads": "num_heads", "batch": "batch_size", "tokens": "isl"}
        out = pick(c, np.ones(len(c["latency"]), dtype=np.bool_), ints)
        return {"dtype": dtype_names(c["attn_dtype"]), **out}, {}

    where = folder / "encoder_attention" / "vllm"
    return read_family(where, "encoder_attention_perf.parquet", convert, KEYS["encoder_attention"])


def elementwise(folder: Path) -> Read | None:
    """fp8 quantisation of [tokens, width], static scale and dynamic scale per token."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        out = pick(c, np.ones(len(c["latency"]), dtype=np.bool_), {"width": "k", "tokens": "m"})
        rows = len(c["latency"])
        return {"op": constant("fp8_quant_static", rows), "dtype": dtype_names(c["quant_dtype"]), **out}, {}

    where, keys = folder / "quantize" / "vllm", KEYS["elementwise"]
    static = read_family(where, "scale_matrix_perf.parquet", convert, keys, fill=False)
    more = read_family(where, "computescale_perf.parquet", convert, keys, fill=False)
    if static is None or more is None:
        return None
    first, extra = (median_of_repeats("elementwise", read.columns)[0] for read in (static, more))
    base = dict(zip(zip(first["width"], first["tokens"], strict=True), first["latency_ns"], strict=True))
    pairs = list(zip(extra["width"], extra["tokens"], strict=True))
    known = np.array([pair in base for pair in pairs])
    dynamic = {name: values[known] for name, values in extra.items()}
    dynamic["op"] = constant("fp8_quant_dynamic", int(known.sum()))
    under = np.array([base[pair] for pair in pairs if pair in base], dtype=np.int64)
    dynamic["latency_ns"] = under + np.maximum(dynamic["latency_ns"].astype(np.int64), 0)
    columns = join([static.columns, dynamic])
    lost = len(more.columns["latency_ns"]) - len(dynamic["latency_ns"])
    return Read((*static.raws, *more.raws), columns, {"dynamic without its static row": lost})


def all_reduce(folder: Path) -> Read | None:
    """vLLM's own all-reduce and NCCL's."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        graph = c["kernel_source"].astype(str) == "vLLM_custom_graph"
        return messages(c, graph, "vllm_custom"), {"eager mode": int((~graph).sum())}

    def nccl(c: Columns) -> tuple[Columns, Counts]:
        half = (c["op_name"].astype(str) == "all_reduce") & (c["nccl_dtype"].astype(str) == "half")
        return messages(c, half, "nccl"), {"other NCCL operations and types": int((~half).sum())}

    keys = KEYS["all_reduce"]
    found = [
        read_family(folder / "comm" / "vllm", "custom_allreduce_perf.parquet", convert, keys, fill=False),
        read_family(folder / "comm" / "nccl", "nccl_perf.parquet", nccl, keys, fill=False),
    ]
    return together(*found)


def collective(folder: Path) -> Read | None:
    """NCCL's all-gather, reduce-scatter and all-to-all."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        name = c["op_name"].astype(str)
        keep = np.isin(name, list(_COLLECTIVES)) & (c["nccl_dtype"].astype(str) == "half")
        ops = np.array([_COLLECTIVES[str(op)] for op in name[keep]], dtype=object)
        return {"op": ops, **messages(c, keep, "nccl")}, {"all-reduce, and other types": int((~keep).sum())}

    return read_family(folder / "comm" / "nccl", "nccl_perf.parquet", convert, KEYS["collective"], fill=False)


def messages(c: Columns, keep: Mask, method: str) -> Columns:
    """Kept rows of a file of messages in 16 bit."""
    out = pick(c, keep, {"ranks": "num_gpus"})
    out.pop("kernel", None)
    size = 2 * c["message_size"][keep].astype(np.int64)
    return {"method": constant(method, int(keep.sum())), "bytes": size, **out}
