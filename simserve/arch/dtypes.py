"""Bytes per element, and which number formats a device computes in."""

from __future__ import annotations

from simserve.errors import Infeasible, UnknownName
from simserve.spec.hardware import GpuSpec

DTYPES = ("bf16", "fp16", "fp8", "fp8_block", "nvfp4")
# Formats of experts alone: weights in 4 bits, multiplied in 16 or 8.
MOE_DTYPES = (*DTYPES, "int4_wo", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8")
KV_DTYPES = ("bf16", "fp16", "fp8")
QUANTISED = ("fp8", "fp8_block", "nvfp4")  # formats into which the activations are brought as well
ACTIVATION_BYTES = 2
# Scales included where they count: one fp8 per 16 values (nvfp4), one byte per 32 (mxfp4), 16 bits per 128 (int4).
_ELEMENT_BYTES = {
    "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5 + 1 / 16, "int4_wo": 0.5 + 2 / 128,
    "w4a16_mxfp4": 0.5 + 1 / 32, "w4a8_mxfp4_mxfp8": 0.5 + 1 / 32,
}  # fmt: skip
_MULTIPLIED = {
    "fp8_block": "fp8", "nvfp4": "fp4", "int4_wo": "bf16", "w4a16_mxfp4": "bf16", "w4a8_mxfp4_mxfp8": "fp8",
}  # fmt: skip


def element_bytes(dtype: str) -> int:
    """Bytes of one KV element; 'auto' is the activations' two. UnknownName otherwise."""
    if dtype == "auto":
        return ACTIVATION_BYTES
    if dtype not in KV_DTYPES:
        raise UnknownName("dtype", dtype, [*KV_DTYPES, "auto"])
    return int(_ELEMENT_BYTES[dtype])


def weight_element_bytes(dtype: str) -> float:
    """Bytes of one weight, scales included. UnknownName otherwise."""
    if dtype not in _ELEMENT_BYTES:
        raise UnknownName("dtype", dtype, MOE_DTYPES)
    return _ELEMENT_BYTES[dtype]


def quantised_bytes(dtype: str) -> float:
    """Bytes of one activation brought into `dtype`."""
    return 0.5 if dtype == "nvfp4" else 1.0


def check_dtype(gpu: GpuSpec, dtype: str) -> None:
    """Infeasible when the device has no matrix units for `dtype`, e.g. fp8 on an A100, bf16 on a T4."""
    weight_element_bytes(dtype)
    if _MULTIPLIED.get(dtype, dtype) not in gpu.peak_flops:
        have = ", ".join(d for d in DTYPES if _MULTIPLIED.get(d, d) in gpu.peak_flops)
        raise Infeasible(f"{gpu.name} does not compute in {dtype}; it does in {have}")
