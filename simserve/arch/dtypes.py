"""Bytes per element, and which number formats a device computes in."""

from __future__ import annotations

from simserve.errors import Infeasible, UnknownName
from simserve.spec.hardware import GpuSpec

DTYPES = ("bf16", "fp16", "fp8")
ACTIVATION_BYTES = 2
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1}


def element_bytes(dtype: str) -> int:
    """Bytes of one weight or KV element; 'auto' is the activations' two. UnknownName otherwise."""
    if dtype == "auto":
        return ACTIVATION_BYTES
    try:
        return _ELEMENT_BYTES[dtype]
    except KeyError:
        raise UnknownName("dtype", dtype, [*DTYPES, "auto"]) from None


def check_dtype(gpu: GpuSpec, dtype: str) -> None:
    """Infeasible when the device has no matrix units for `dtype`, e.g. fp8 on an A100, bf16 on a T4."""
    element_bytes(dtype)
    if dtype not in gpu.peak_flops:
        have = ", ".join(d for d in DTYPES if d in gpu.peak_flops)
        raise Infeasible(f"{gpu.name} does not compute in {dtype}; it does in {have}")
