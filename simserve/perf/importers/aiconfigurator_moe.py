"""Families of mixture-of-experts and MLA models in aiconfigurator-core.

- exchange of tokens between the ranks of expert parallelism: DeepEP's kernels as vLLM calls them, tokens per rank;
- MoE: one fused layer (routing result to summed output) on one rank; `tokens` are those of the whole expert-parallel
  group, `inter` and `experts` those of the model, before the split by `tp` and `ep`. Under a power law over the
  experts the rank with the most load was measured. vLLM, older versions filling models that the newest lacks; gpt-oss
  in w4a8_mxfp4_mxfp8, which vLLM was not measured in, from SGLang, on FlashInfer's trtllm-gen as vLLM's are;
- MLA, part `module`: vLLM's whole attention block of DeepSeek-V3 (hidden 7168, query rank 1536, KV rank 512, heads per
  rank), projections included in the GEMM format `dtype`. Rows of other models and of an fp8 query are left out;
  Norms, rotary embedding and KV writes are inside, and on Hopper the launches of a dozen kernels: with 16 heads at one
  request and 1024 tokens 98 us on H100 against 59 of GEMMs, `mla_bmm` and kernel, 52 against 55 on B200;
- MLA, part `kernel`: attention alone; vLLM has no such rows. Prefill from TensorRT-LLM (it expands K and V per head as
  vLLM does). Decode from SGLang, whose kernels are vLLM's (trtllm_mla, Triton on L40S and RTX PRO 6000), but from
  TensorRT-LLM on Hopper and where SGLang has none (A100): SGLang's on Hopper (flash_attention) converts an fp8 cache as
  it reads. vLLM's module there grows as TensorRT-LLM's kernel does (H200, 64 requests, 16 heads, 1,024 to 8,192 tokens:
  by 84 us, 87 and SGLang's 888);
- MLA batched GEMMs of decode (up-projection of K into the query, of V out of the result): vLLM, else SGLang, else
  TensorRT-LLM.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simserve.perf.importers.aiconfigurator_source import Convert, pick, read_family
from simserve.perf.importers.rows import Counts, Read, constant, dtype_names, together
from simserve.perf.store import KEYS, Columns

_MOE = {
    "hidden": "hidden_size",
    "inter": "inter_size",
    "experts": "num_experts",
    "topk": "topk",
    "tp": "moe_tp_size",
    "ep": "moe_ep_size",
    "tokens": "num_tokens",
}
PROMPTS = {"heads": "num_heads", "past": "step", "batch": "batch_size", "tokens": "isl"}
DECODES = {"heads": "num_heads", "batch": "batch_size", "context": "step"}
_MODULE_MODEL = "DeepseekV3ForCausalLM"
_GPT_OSS_HIDDEN = 2880


def moe(folder: Path) -> Read | None:
    """Fused expert layer."""

    def gpt_oss(c: Columns) -> tuple[Columns, Counts]:
        kept = (c["moe_dtype"].astype(str) == "w4a8_mxfp4_mxfp8") & (c["hidden_size"] == _GPT_OSS_HIDDEN)
        rows = {name: values[kept] for name, values in c.items()}
        return layers(rows), {"other framework, other formats and models": int((~kept).sum())}

    file, keys = "moe_perf.parquet", KEYS["moe"]
    own = read_family(folder / "moe" / "vllm", file, lambda c: (layers(c), {}), keys)
    more = read_family(folder / "moe" / "sglang", file, gpt_oss, keys, fill=False)
    return together(own, more if more is not None and len(more.columns["latency_ns"]) else None)


def layers(c: Columns) -> Columns:
    """Rows of an expert file in our keys."""
    out = pick(c, np.ones(len(c["latency"]), dtype=np.bool_), _MOE)
    return {"dtype": dtype_names(c["moe_dtype"]), "distribution": c["distribution"], **out}


def moe_exchange(folder: Path) -> Read | None:
    """DeepEP's dispatch of tokens to the ranks of their experts, and combine, in one node; the source counts us."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        keep = (c["node_num"] == 1) & (c["comm_dtype"].astype(str) == "default")
        ints = {"ranks": "ep_size", "hidden": "hidden_size", "experts": "num_experts", "topk": "topk"}
        in_ms = {**c, "latency": c["latency"].astype(np.float64) / 1e3}
        out = pick(in_ms, keep, {**ints, "tokens": "num_tokens"})
        return {"op": c["phase"][keep], "method": c["comm_backend"][keep], **out}, {"several nodes": int((~keep).sum())}

    return read_family(folder / "comm" / "vllm", "moe_a2a_perf.parquet", convert, KEYS["moe_exchange"], fill=False)


def mla_prefill(folder: Path) -> Read | None:
    """MLA on prompts of equal length."""
    keys = KEYS["mla_prefill"]
    module = read_family(folder / "mla" / "vllm", "mla_context_module_perf.parquet", _module(PROMPTS), keys)
    alone = _first(folder / "mla", ("trtllm", "sglang"), "context_mla_perf.parquet", kernel(PROMPTS, 0), keys)
    return together(module, alone)


def mla_decode(folder: Path) -> Read | None:
    """MLA with one new token per request; a module row at `step` attends step tokens, a kernel row one more."""
    keys = KEYS["mla_decode"]
    module = read_family(folder / "mla" / "vllm", "mla_generation_module_perf.parquet", _module(DECODES), keys)
    file, convert = "generation_mla_perf.parquet", kernel(DECODES, 1)
    alone = read_family(folder / "mla" / "sglang", file, convert, keys, fill=False)
    if alone is None or "flash_attention" in alone.columns["kernel"]:
        alone = _first(folder / "mla", ("trtllm", "sglang"), file, convert, keys)
    return together(module, alone)


def mla_bmm(folder: Path, frameworks: tuple[str, ...] = ("vllm", "sglang", "trtllm")) -> Read | None:
    """The two batched GEMMs around MLA decode."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        name = c["op_name"].astype(str)
        keep = np.isin(name, ("mla_gen_pre", "mla_gen_post"))
        out = pick(c, keep, {"heads": "num_heads", "tokens": "num_tokens"})
        op = np.array([n.removeprefix("mla_gen_") for n in name[keep]], dtype=object)
        return {"op": op, "dtype": dtype_names(c["bmm_dtype"][keep]), **out}, {"other operations": int((~keep).sum())}

    return _first(folder / "mla_bmm", frameworks, "mla_bmm_perf.parquet", convert, KEYS["mla_bmm"])


def _module(ints: dict[str, str]) -> Convert:
    def convert(c: Columns) -> tuple[Columns, Counts]:
        model = c["architecture"].astype(str) == _MODULE_MODEL
        wide = c["mla_dtype"].astype(str) == "bfloat16"
        keep = model & wide
        out = pick(c, keep, ints)
        names = {"part": constant("module", int(keep.sum())), "dtype": dtype_names(c["gemm_type"][keep])}
        left_out = {"other models": int((~model).sum()), "fp8 query": int((model & ~wide).sum())}
        return {**names, "kv_dtype": dtype_names(c["kv_cache_dtype"][keep]), **out}, left_out

    return convert


def kernel(ints: dict[str, str], beyond: int) -> Convert:
    """Rows of MLA alone. beyond: tokens attended on top of the `step` of a generation row."""

    def convert(c: Columns) -> tuple[Columns, Counts]:
        out = pick(c, np.ones(len(c["latency"]), dtype=np.bool_), ints)
        if "context" in out:
            out["context"] = out["context"].astype(np.int32) + beyond
        names = {"part": constant("kernel", len(c["latency"])), "dtype": dtype_names(c["mla_dtype"])}
        return {**names, "kv_dtype": dtype_names(c["kv_cache_dtype"]), **out}, {}

    return convert


def _first(
    folder: Path, frameworks: tuple[str, ...], file: str, convert: Convert, keys: tuple[str, ...]
) -> Read | None:
    """The file of the first framework that has it, its newest version."""
    reads = (read_family(folder / name, file, convert, keys, fill=False) for name in frameworks)
    return next((read for read in reads if read is not None), None)
