"""The least time that physics grants each row of a table: max(FLOP / peak, bytes / bandwidth), or a link's rate.

Every operand crosses the memory bus once. What is counted, per rank, and what is granted:
- attention: pairs inside the causal triangle and the window; 16-bit queries and outputs;
- MLA kernel: prefill expands K and V per head (192 + 128 per pair), decode stays in the latent space (576 + 512);
  MLA module: the projections of DeepSeek-V3 in their format besides, and their weights once;
- block of sparse attention: its projections and their weights once; nothing of the keys it picks, nor of the indexer;
- gated delta net: convolved channels read and written at 16 bits; the scan reads queries, keys and values and writes
  its output, at two products with the state a token; one token reads and writes the state at 32 bits, and each
  channel's input;
- MoE: tokens x topk / ep rows through an expert's three matrices (two for models without a gate). Weights: under a
  balanced routing half of min(experts / ep, rows), for grouped routing confines tokens to half of the groups; under
  a power law topk experts without expert parallelism and none with it;
- exchange of experts' tokens: each token leaves its rank once at 8 bits, unless its experts are there;
- collectives: each rank receives at least (ranks - 1) / ranks of the message over one direction of its link.
fp8 KV may be multiplied in fp8, so attention over it is held to the fp8 peak where the device has one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simserve.perf import roofline
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec, LinkSpec

Columns = dict[str, NDArray[np.generic]]
# (FLOP x s per FLOP summed over the row's operations in s, bytes)
Work = tuple[Floats, Floats]
Numbers = dict[str, Floats]
Count = Callable[[Columns, Numbers, GpuSpec], Work]

# (hidden, inter) of models whose experts have no gate: two matrices (Nemotron).
UNGATED = ((2688, 1856), (1024, 2688), (2048, 5120))
HIDDEN, QUERY_RANK, KV_RANK, ROPE, NOPE, VALUE = 7168, 1536, 512, 64, 128, 128  # DeepSeek-V3

GLM_HIDDEN, GLM_SIZES = 6144, (2048, 192, 256)  # GLM-5: query rank, dims of a head's unrotated query and of its value
GDN_DIM = 128  # of a head's key and value, in every Qwen3.5


def bound_ns(family: str, columns: Columns, gpu: GpuSpec, link: LinkSpec, cached_bytes: int = 0) -> Floats:
    """The least time each row of a table may take, ns, if `cached_bytes` need not cross the memory bus."""
    number = {k: v.astype(np.float64) for k, v in columns.items() if v.dtype.kind in "iuf"}
    if family in LINKED[:2]:
        ranks = number["ranks"]
        return number["bytes"] * (ranks - 1) / ranks / link.bandwidth_bytes_per_s * NS
    if family == "moe_exchange":
        size = number["tokens"] * number["hidden"] * (1 - 1 / number["ranks"])
        return size / link.bandwidth_bytes_per_s * NS
    seconds, size = WORK[family](columns, number, gpu)
    uncached = np.maximum(size - cached_bytes, 0) / gpu.memory_bandwidth_bytes_per_s
    return np.maximum(seconds, uncached) * NS


def _gemm(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    m, n, k = x["m"], x["n"], x["k"]
    size = _elements(columns["dtype"]) * (m * k + n * k) + 2 * m * n
    return 2 * m * n * k / _peaks(columns["dtype"], gpu), size


def _prefill(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    heads, dim, queries = x["heads"], x["head_dim"], x["batch"] * x["tokens"]
    pairs = x["batch"] * _pairs(x["tokens"], x["past"], x["window"])
    context = np.where(x["window"] > 0, np.minimum(x["past"], x["window"]), x["past"]) + x["tokens"]
    kv = 2 * x["batch"] * context * x["kv_heads"] * dim * _elements(columns["kv_dtype"])
    return 4 * pairs * heads * dim / _attention_peaks(columns["kv_dtype"], gpu), kv + 4 * queries * heads * dim


def _decode(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    heads, dim = x["heads"], x["head_dim"]
    seen = x["batch"] * np.where(x["window"] > 0, np.minimum(x["context"], x["window"]), x["context"])
    size = 2 * seen * x["kv_heads"] * dim * _elements(columns["kv_dtype"]) + 4 * x["batch"] * heads * dim
    return 4 * seen * heads * dim / _attention_peaks(columns["kv_dtype"], gpu), size


def _mla_prefill(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    heads, queries = x["heads"], x["batch"] * x["tokens"]
    pairs = x["batch"] * _pairs(x["tokens"], x["past"], np.zeros_like(heads))
    attention = 2 * pairs * heads * (NOPE + ROPE + VALUE) / _attention_peaks(columns["kv_dtype"], gpu)
    module = (columns["part"] == "module").astype(np.float64)
    matrices = _shared_weights() + heads * (_query_weights() + _output_weights() + KV_RANK * (NOPE + VALUE))
    # One token is priced in the latent space, without expanding K and V.
    less = np.where(x["tokens"] + x["past"] > 1, matrices, _shared_weights())
    seconds = attention + module * 2 * queries * less / _peaks(columns["dtype"], gpu)
    return seconds, module * matrices * _elements(columns["dtype"])


def _mla_decode(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    heads, seen = x["heads"], x["batch"] * x["context"]
    attention = 2 * seen * heads * (2 * KV_RANK + ROPE) / _attention_peaks(columns["kv_dtype"], gpu)
    module = (columns["part"] == "module").astype(np.float64)
    matrices = _shared_weights() + heads * (_query_weights() + _output_weights())
    seconds = attention + module * 2 * x["batch"] * matrices / _peaks(columns["dtype"], gpu)
    cache = seen * (KV_RANK + ROPE) * _elements(columns["kv_dtype"])
    return seconds, cache + module * matrices * _elements(columns["dtype"])


def _mla_bmm(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    weights = x["heads"] * NOPE * KV_RANK
    element = _elements(columns["dtype"])
    size = element * weights + x["tokens"] * x["heads"] * (NOPE + KV_RANK) * element
    return 2 * x["tokens"] * weights / _peaks(columns["dtype"], gpu), size


def _moe(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    rows, experts = x["tokens"] * x["topk"] / x["ep"], x["experts"] / x["ep"]
    matrices = np.where(_ungated(x["hidden"], x["inter"]), 2.0, 3.0) * x["hidden"] * x["inter"] / x["tp"]
    balanced = columns["distribution"].astype(str) == "balanced"
    lone = np.where(x["ep"] == 1, np.minimum(x["topk"], experts), 0.0)
    touched = np.where(balanced, np.minimum(experts, rows) / 2, lone)
    return 2 * rows * matrices / _peaks(columns["dtype"], gpu), touched * matrices * _elements(columns["dtype"])


def _encoder(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    tokens, width = x["batch"] * x["tokens"], x["heads"] * x["head_dim"]
    size = 4 * _elements(columns["dtype"]) * tokens * width
    return 4 * tokens * x["tokens"] * width / _peaks(columns["dtype"], gpu), size


def _elementwise(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    values = x["width"] * x["tokens"]
    return np.zeros_like(values), 3 * values  # 16 bits read, 8 bits written


def _dsa(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    """Of either model, one row per new token."""
    queries = x["batch"] * x.get("tokens", np.ones_like(x["batch"]))
    glm = x["hidden"] == GLM_HIDDEN
    rank, nope, value = (np.where(glm, a, b) for a, b in zip(GLM_SIZES, (QUERY_RANK, NOPE, VALUE), strict=True))
    matrices = x["hidden"] * (rank + KV_RANK + ROPE) + x["heads"] * (rank * (nope + ROPE) + value * x["hidden"])
    return 2 * queries * matrices / _peaks(columns["dtype"], gpu), matrices * _elements(columns["dtype"])


def _gdn(columns: Columns, x: Numbers, gpu: GpuSpec) -> Work:
    queries, op = x["batch"] * x["tokens"], columns["op"].astype(str)
    channels = GDN_DIM * (2 * x["k_heads"] + x["v_heads"])
    state = GDN_DIM**2 * x["v_heads"]
    moved = np.where(op == "scan", channels + GDN_DIM * x["v_heads"], 2 * channels)
    size = 2 * queries * moved + np.where(op == "recurrence", 2 * 4 * x["batch"] * state - 2 * queries * moved, 0.0)
    flop = np.where(op == "scan", 4 * queries * state, 0.0)
    return flop / roofline.fastest_flops(gpu, "bf16"), size


LINKED = ("all_reduce", "collective", "moe_exchange")
WORK: dict[str, Count] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "mla_prefill": _mla_prefill,
    "mla_decode": _mla_decode,
    "mla_bmm": _mla_bmm,
    "dsa_prefill": _dsa,
    "dsa_decode": _dsa,
    "gdn": _gdn,
    "moe": _moe,
    "encoder_attention": _encoder,
    "elementwise": _elementwise,
}


def _shared_weights() -> float:
    """Elements of the projections down to the query and KV ranks, held by every rank."""
    return float(HIDDEN * (QUERY_RANK + KV_RANK + ROPE))


def _query_weights() -> float:
    """Elements per head of the projection from the query rank."""
    return float(QUERY_RANK * (NOPE + ROPE))


def _output_weights() -> float:
    """Elements per head of the projection back to the hidden size."""
    return float(VALUE * HIDDEN)


def _pairs(tokens: Floats, past: Floats, window: Floats) -> Floats:
    """Query-key pairs of one prompt: causal, each query seeing at most `window` keys (0 = all)."""
    whole = tokens * past + tokens * (tokens + 1) / 2
    full = np.clip(tokens + past - window, 0.0, tokens)  # queries that see a whole window
    short = tokens - full
    inside = full * window + short * past + short * (short + 1) / 2
    return np.where(window > 0, inside, whole)


def _ungated(hidden: Floats, inter: Floats) -> NDArray[np.bool_]:
    found = np.zeros(len(hidden), dtype=np.bool_)
    for h, i in UNGATED:
        found |= (hidden == h) & (inter == i)
    return found


def _peaks(dtypes: NDArray[np.generic], gpu: GpuSpec) -> Floats:
    return _per_dtype(dtypes, lambda d: roofline.fastest_flops(gpu, d))


def _attention_peaks(dtypes: NDArray[np.generic], gpu: GpuSpec) -> Floats:
    return _per_dtype(dtypes, lambda d: roofline.fastest_flops(gpu, d if d in gpu.peak_flops else "bf16"))


def _elements(dtypes: NDArray[np.generic]) -> Floats:
    return _per_dtype(dtypes, roofline.element_bytes)


def _per_dtype(dtypes: NDArray[np.generic], value: Callable[[str], float]) -> Floats:
    names, index = np.unique(dtypes.astype(str), return_inverse=True)
    return np.array([value(str(name)) for name in names], dtype=np.float64)[index]
