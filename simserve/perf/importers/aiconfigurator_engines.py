"""Kernels of engines other than vLLM in aiconfigurator-core, where they are not those of vLLM: `<device>/<engine>`.

TensorRT-LLM, its newest version, older ones filling what it lacks:

- GEMM and attention as torch_flow selected them, but GEMMs in fp8: those rows hold the quantisation of their input
  (H100, 5,120 deep: 7 us more than SGLang's at 8 tokens, 37 us at 8,192 and narrow widths, where scale_matrix takes 43;
  in 16 bit no difference), and 1.0's runs fuse it with the pass before (TPOT of Qwen3-32B at 8 clients, uncalibrated: 3
  instead of 16 % too long, with vLLM's rows). A prompt over fp8 KV attends in fp8 (attentionOp.cpp sets
  mFP8ContextFMHA where the cache is fp8 and context attention is paged [known]); the rows of 16-bit attention over it
  are left out;
- all-reduce: its own kernels, which cross an NVL72 rack (GB300, 8 ranks, 16 kB: 4.5 us, vLLM's 14.0) and do not fall
  back to NCCL at 128 kB (B200, 8 ranks: 7.9 against 25.8 us);
- MLA: kernels and batched GEMMs;
- experts on Hopper alone, where its runs use the kernels that were measured (CUTLASS). On Blackwell CUTLASS and
  DeepGEMM were measured, where runs use trtllm-gen, which vLLM's tables hold (FlashInfer calls it). Layers without a
  gate are left out.

SGLang: MLA decode on Hopper alone, where its kernel (FlashAttention 3) converts an fp8 cache as it reads (H200, 64
requests of 8,192 tokens, 16 heads: 1,042 us, TensorRT-LLM's 119).

Experts before the newest versions, whose layers take up to twice as long; a folder is asked for what it holds alone:

- `sglang_0.5.10`, on Hopper: Triton, slow over prompts under expert parallelism (H200, 512 experts over 8 ranks, 8,192
  tokens in blocks of fp8: 3.1 ms, 1.3 in 0.5.14);
- `triton`, on Blackwell where vLLM 0.22.0 was measured (B200): its Triton kernels for MiniMax-M2.5, whose runs of vLLM
  before 0.18 are as slow as these, and Qwen3.5, as under SGLang before 0.5.10 (DeepSeek's were on trtllm-gen by then);
  0.24.0 measured trtllm-gen (Qwen3.5, 8,192 tokens over 4 ranks: 2.3 ms, 1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from simserve.perf.importers import aiconfigurator_dense as dense
from simserve.perf.importers import aiconfigurator_moe as experts
from simserve.perf.importers.aiconfigurator_source import Convert, read_family, read_file
from simserve.perf.importers.rows import Counts, Read
from simserve.perf.store import KEYS, Columns
from simserve.spec.hardware import GpuSpec

_TRTLLM = "trtllm"
_FORMATS = ("bfloat16", "fp8_block", "nvfp4")
_ON_TRITON = ((3072, 1536, 256), (4096, 1024, 512))  # (hidden, inter, experts)


def reads(folder: Path, gpu: GpuSpec) -> Mapping[str, Mapping[str, Read | None]]:
    """Engine -> family -> rows of one device."""
    families: dict[str, Callable[[Path], Read | None]] = {
        "gemm": _gemm, "prefill_attention": _prefill, "decode_attention": _decode, "all_reduce": _all_reduce,
        "mla_prefill": _mla_prefill, "mla_decode": _mla_decode(_TRTLLM), "mla_bmm": _mla_bmm,
    }  # fmt: skip
    if gpu.architecture != "hopper":
        triton = {"moe": _moe_of(folder / "moe" / "vllm" / "0.22.0", _ON_TRITON)}
        older = {"triton": triton} if triton["moe"] else {}
        return {_TRTLLM: {family: reader(folder) for family, reader in families.items()}, **older}
    own = {family: reader(folder) for family, reader in {**families, "moe": _moe}.items()}
    older = {"sglang_0.5.10": {"moe": _moe_of(folder / "moe" / "sglang" / "0.5.10")}}
    return {_TRTLLM: own, "sglang": {"mla_decode": _mla_decode("sglang")(folder)}, **older}


def _gemm(folder: Path) -> Read | None:
    def convert(c: Columns) -> tuple[Columns, Counts]:
        reason = "other formats, and fp8 with the quantisation of the input"
        return dense.gemms(c, np.isin(c["gemm_dtype"].astype(str), _FORMATS), reason)

    return read_family(folder / "gemm" / _TRTLLM, "gemm_perf.parquet", convert, KEYS["gemm"])


def _prefill(folder: Path) -> Read | None:
    def convert(c: Columns) -> tuple[Columns, Counts]:
        wide = (c["kv_cache_dtype"].astype(str) == "fp8") & (c["attn_dtype"].astype(str) != "fp8")
        out, left_out = dense.attention({name: values[~wide] for name, values in c.items()},
                                        {"tokens": "isl", "past": "step"})  # fmt: skip
        return out, {**left_out, "16-bit attention over fp8 KV": int(wide.sum())}

    where = folder / "attention" / _TRTLLM
    return read_family(where, "context_attention_perf.parquet", convert, KEYS["prefill_attention"])


def _decode(folder: Path) -> Read | None:
    return dense.decode(folder, _TRTLLM)


def _all_reduce(folder: Path) -> Read | None:
    def convert(c: Columns) -> tuple[Columns, Counts]:
        return dense.messages(c, np.ones(len(c["latency"]), dtype=np.bool_), _TRTLLM), {}

    where = folder / "comm" / _TRTLLM
    return read_family(where, "custom_allreduce_perf.parquet", convert, KEYS["all_reduce"], fill=False)


def _mla_prefill(folder: Path) -> Read | None:
    return _kernel(folder, _TRTLLM, "context_mla_perf.parquet", experts.kernel(experts.PROMPTS, 0), "mla_prefill")


def _mla_decode(engine: str) -> Callable[[Path], Read | None]:
    convert = experts.kernel(experts.DECODES, 1)
    return lambda folder: _kernel(folder, engine, "generation_mla_perf.parquet", convert, "mla_decode")


def _kernel(folder: Path, engine: str, file: str, convert: Convert, family: str) -> Read | None:
    return read_family(folder / "mla" / engine, file, convert, KEYS[family], fill=False)


def _mla_bmm(folder: Path) -> Read | None:
    return experts.mla_bmm(folder, (_TRTLLM,))


def _moe(folder: Path) -> Read | None:
    def convert(c: Columns) -> tuple[Columns, Counts]:
        gated = np.char.find(c["kernel_source"].astype(str), "nongated") < 0
        kept = {name: values[gated] for name, values in c.items()}
        return experts.layers(kept), {"without a gate": int((~gated).sum())}

    return read_family(folder / "moe" / _TRTLLM, "moe_perf.parquet", convert, KEYS["moe"])


def _moe_of(folder: Path, models: tuple[tuple[int, int, int], ...] = ()) -> Read | None:
    """The expert layers of one version in formats of whole layers; of these models alone (none: of all)."""
    path = folder / "moe_perf.parquet"
    if not path.is_file():
        return None
    raw = read_file(path)
    names = ("hidden_size", "inter_size", "num_experts")
    shapes = np.stack([raw.columns[name].astype(np.int64) for name in names], axis=1)
    kept = np.isin(raw.columns["moe_dtype"].astype(str), ("bfloat16", "fp8_block"))
    if models:
        kept &= (shapes[:, None, :] == np.array(models)).all(axis=2).any(axis=1)
    layers = experts.layers({name: values[kept] for name, values in raw.columns.items()})
    return Read((raw.origin,), layers, {"other formats and models": int((~kept).sum())})
