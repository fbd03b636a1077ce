"""What a step's time goes to: kinds of operations, and by the roofline the resource that each of them waits for."""

from __future__ import annotations

from simserve.perf.priced import Priced
from simserve.perf.roofline import element_bytes, fastest_flops
from simserve.spec.hardware import GpuSpec

KINDS = {
    "gemm": "GEMM",
    "experts": "experts (MoE)",
    "prefill_attention": "prefill attention",
    "decode_attention": "decode attention",
    "collectives": "collectives",
    "elementwise": "elementwise",
    "transfers": "host and disk transfers",
    "host": "host",
}
RESOURCES = {
    "compute": "matrix units",
    "weights": "memory bandwidth, reading weights",
    "kv": "memory bandwidth, reading KV",
    "activations": "memory bandwidth, passes over activations",
    "links": "links between GPUs",
    "transfers": "links to host memory, disk and drives",
    "host": "host",
}
_COLLECTIVES = ("all_reduce", "collective", "moe_exchange", "send")
_BOUND = {"prefill_attention": "compute", "decode_attention": "kv", "collectives": "links",
          "elementwise": "activations", "transfers": "transfers", "host": "host"}  # fmt: skip


def kind_of(name: str, price: Priced) -> str:
    """A key of KINDS for an operation of `PricedCost.explain`.

    Blocks of sparse attention were measured with their projections and count as attention; the LM head is a GEMM.
    """
    device, _, family = price.table.rpartition("/")
    if device == "engines":
        return "host"
    for kind in ("prefill_attention", "decode_attention"):
        if kind in name:
            return kind
    if family in _COLLECTIVES:
        return "collectives"
    return {"moe": "experts", "gemm": "gemm", "transfer": "transfers"}.get(family, "elementwise")


def ridge_tokens(gpu: GpuSpec, dtype: str) -> float:
    """Rows from which on a GEMM with weights in `dtype` takes longer to compute than its weights to read [derived]."""
    per_row = 2 * gpu.memory_bandwidth_bytes_per_s
    return fastest_flops(gpu, dtype) * element_bytes(dtype) / per_row


def resource_of(kind: str, rows: float, ridge: float) -> str:
    """A key of RESOURCES: what an operation of `kind` over `rows` tokens (of one expert, for experts) waits for.

    Decode attention is taken to read, prefill attention to compute; that holds where a query has many keys.
    """
    return _BOUND.get(kind) or ("compute" if rows >= ridge else "weights")
