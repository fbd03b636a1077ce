"""Families of gated delta nets and of DeepSeek sparse attention in aiconfigurator-core.

- gated delta nets: the causal convolution and the delta rule of one layer, over prompts (`conv`, `scan`) and one token
  a request (`conv_update`, `recurrence`); heads per rank of the sizes of Qwen3.5. The model's hidden size changes
  nothing, so rows of several are repeats. vLLM's rows (FlashInfer's scan on Hopper and Blackwell, Triton's elsewhere);
  where vLLM has none (A100) SGLang's, decode alone: its file of A100 has no scan, and convolutions of a quarter of the
  bytes that they must move. Its scan elsewhere is Triton's, up to three times as slow on long prompts, and in its file
  of H200 repeats disagree by up to 4.6 times, against 1.2 in vLLM's;
- sparse attention: the whole block with projections and indexer, GLM-5 (hidden 6144) and DeepSeek-V3.2 (7168), heads
  per rank. SGLang's rows: decode as captured in CUDA graphs, where vLLM's hold the host's launches (GLM-5, 8 heads,
  fp8_block, one request on H200: 60 us against 175). Prompts were launched eagerly, as SGLang serves them, so that
  short ones take 0.75 ms. Prompts of up to 2048 tokens, cached ones included, are dense in SGLang, without the indexer.
  Kept: prompts without cached context, and single ones after 2048, 4096, ... cached tokens. Left out: layers that reuse
  another's index (GLM-5.2), and decode from the batch on that was no longer captured, told by more than three times the
  time of half of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.perf import store
from simserve.perf.importers.aiconfigurator_source import Convert, pick, read_family
from simserve.perf.importers.rows import Counts, Mask, Read, dtype_names
from simserve.perf.store import KEYS, Columns

_OPS = {
    "causal_conv1d_fn": "conv",
    "chunk_gated_delta_rule": "scan",
    "chunk_gated_delta_rule_flashinfer": "scan",
    "chunk_gated_delta_rule_triton": "scan",
    "causal_conv1d_update": "conv_update",
    "fused_recurrent_gated_delta_rule": "recurrence",
    "fused_recurrent_gated_delta_rule_packed_decode": "recurrence",
}
_HEADS = {"k_heads": "num_k_heads", "v_heads": "num_v_heads", "batch": "batch_size", "tokens": "seq_len"}
_HIDDEN = {"GlmMoeDsaForCausalLM": 6144, "DeepseekV32ForCausalLM": 7168}
_PAST = (0, *(2048 * 2**i for i in range(7)))
_CAPTURED = 3.0


def gdn(folder: Path) -> Read | None:
    """Convolution and delta rule, prompts and decode."""
    keys, file = KEYS["gdn"], "gdn_perf.parquet"
    read = read_family(folder / "linear_attention" / "vllm", file, _gdn, keys)
    return read or read_family(folder / "linear_attention" / "sglang", file, _decode_alone, keys, fill=False)


def _gdn(c: Columns) -> tuple[Columns, Counts]:
    name = c["kernel_source"].astype(str)
    known = np.isin(name, list(_OPS))
    usual = (c["d_conv"] == 4) & (c["head_k_dim"] == 128) & (c["head_v_dim"] == 128)
    keep = known & usual
    op = np.array([_OPS[kernel] for kernel in name[keep]], dtype=object)
    return {"op": op, **pick(c, keep, _HEADS)}, {"other kernels or head sizes": int((~keep).sum())}


def _decode_alone(c: Columns) -> tuple[Columns, Counts]:
    out, left_out = _gdn(c)
    one = np.isin(out["op"].astype(str), ("conv_update", "recurrence"))
    return {name: values[one] for name, values in out.items()}, {**left_out, "prompts": int((~one).sum())}


def dsa_prefill(folder: Path) -> Read | None:
    """The block over prompts."""
    ints = {"heads": "num_heads", "past": "step", "batch": "batch_size", "tokens": "isl"}

    def convert(c: Columns) -> tuple[Columns, Counts]:
        wanted = np.isin(c["step"], _PAST) & ((c["step"] == 0) | (c["batch_size"] == 1))
        out, left_out = _block(c, wanted, ints)
        return out, {**left_out, "other lengths of cached context, or of several prompts": int((~wanted).sum())}

    return _read(folder, "dsa_context_module_perf.parquet", convert, "dsa_prefill")


def dsa_decode(folder: Path) -> Read | None:
    """The block with one new token per request, which attends `step` tokens."""
    ints = {"heads": "num_heads", "batch": "batch_size", "context": "step"}

    def convert(c: Columns) -> tuple[Columns, Counts]:
        out, left_out = _block(c, np.ones(len(c["latency"]), dtype=np.bool_), ints)
        captured = _captured(out)
        kept = {name: values[captured] for name, values in out.items()}
        return kept, {**left_out, "launched eagerly": int((~captured).sum())}

    return _read(folder, "dsa_generation_module_perf.parquet", convert, "dsa_decode")


def _read(folder: Path, file: str, convert: Convert, family: str) -> Read | None:
    return read_family(folder / "sparse_attention" / "sglang", file, convert, KEYS[family])


def _block(c: Columns, wanted: Mask, ints: dict[str, str]) -> tuple[Columns, Counts]:
    """Rows of the whole block with an indexer of its own, in our keys."""
    full = ~np.char.endswith(c["op_name"].astype(str), "_skip_indexer")
    known = np.isin(c["architecture"].astype(str), list(_HIDDEN))
    keep = full & known & wanted
    names = {"dtype": dtype_names(c["gemm_type"][keep]), "kv_dtype": dtype_names(c["kv_cache_dtype"][keep])}
    hidden = np.array([_HIDDEN[name] for name in c["architecture"][keep]], dtype=np.int32)
    left_out = {"an index of another layer": int((wanted & ~full).sum()), "other models": int((full & ~known).sum())}
    return {**names, "hidden": hidden, **pick(c, keep, ints)}, left_out


def _captured(columns: Columns) -> Mask:
    """Rows below the first batch that takes more than three times as long as half of it at equal context, per shape."""
    keep = np.ones(len(columns["latency_ns"]), dtype=np.bool_)
    for rows in store.groups(columns, ("hidden", "dtype", "kv_dtype", "heads")):
        batch, context, ns = (columns[name][rows].tolist() for name in ("batch", "context", "latency_ns"))
        time = dict(zip(zip(batch, context, strict=True), ns, strict=True))
        jumps = [b for (b, c), value in time.items() if value > _CAPTURED * time.get((b // 2, c), value)]
        keep[rows] = np.array(batch) < min(jumps, default=max(batch) + 1)
    return keep
