"""FLOP, bytes and the time below which no device can finish them; the anchor of every interpolation.

Where a device has no table, times are roofline over an efficiency plus a launch floor. The efficiencies are
round figures read off the measured tables of other devices (large GEMMs reach 0.7 to 0.85 of peak, FA2/FA3
prefill 0.4 to 0.7, decode attention and streaming kernels 0.7 to 0.85 of bandwidth), not fits to a target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simserve.errors import Infeasible
from simserve.spec.hardware import GpuSpec

NS = 1e9
Floats = NDArray[np.float64]

GEMM_FLOP_EFFICIENCY = 0.70
GEMM_BYTE_EFFICIENCY = 0.75
PREFILL_FLOP_EFFICIENCY = 0.50
DECODE_BYTE_EFFICIENCY = 0.70
ELEMENTWISE_BYTE_EFFICIENCY = 0.80
LINK_EFFICIENCY = 0.70
GEMM_FLOOR_NS = 3_000.0
ATTENTION_FLOOR_NS = 10_000.0
# One small kernel inside a CUDA graph; the tables' smallest GEMMs take 1.7 to 2.5 us on every device.
ELEMENTWISE_FLOOR_NS = 2_000.0
COLLECTIVE_FLOOR_NS = 10_000.0


# Number format of the weights -> format of the multiplication, and bytes per weight (scales left out).
MULTIPLIED = {
    "fp8_block": "fp8",
    "nvfp4": "fp4",
    "int4_wo": "bf16",
    "w4a16_mxfp4": "bf16",
    "w4a8_mxfp4_mxfp8": "fp8",
}
ELEMENT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5,
    "int4_wo": 0.5,
    "w4a16_mxfp4": 0.5,
    "w4a8_mxfp4_mxfp8": 0.5,
}


def element_bytes(dtype: str) -> float:
    """Bytes per weight (or cached value) in `dtype`; 2 for a format that nobody listed."""
    return ELEMENT_BYTES.get(dtype, 2.0)


def computes(gpu: GpuSpec, dtype: str) -> bool:
    """Whether the device multiplies weights held in `dtype`; 16-bit formats do not stand in for each other here."""
    return MULTIPLIED.get(dtype, dtype) in gpu.peak_flops


def fastest_flops(gpu: GpuSpec, dtype: str) -> int:
    """`peak_flops` of the multiplication that weights in `dtype` need."""
    return peak_flops(gpu, MULTIPLIED.get(dtype, dtype))


def peak_flops(gpu: GpuSpec, dtype: str) -> int:
    """Dense FLOP/s in `dtype`; Infeasible if the device does not compute in it. fp16 stands in for bf16."""
    peaks: dict[str, int] = {str(name): value for name, value in gpu.peak_flops.items()}
    twin = {"bf16": "fp16", "fp16": "bf16"}.get(dtype, dtype)
    found = peaks.get(dtype, peaks.get(twin))
    if found is None:
        raise Infeasible(f"{gpu.name} does not compute in {dtype}; it does in {', '.join(sorted(peaks))}")
    return found


def gemm_bytes(m: Floats | float, n: Floats | float, k: Floats | float, element: float) -> Floats:
    """Inputs read once at `element` bytes each, outputs written once at 2 bytes."""
    return np.asarray(element * (m * k + n * k) + 2.0 * m * n, dtype=np.float64)


def gemm_ns(
    m: Floats | float,
    n: Floats | float,
    k: Floats | float,
    *,
    flops: float,
    bandwidth: float,
    element: float,
) -> Floats:
    """Roofline of [m, k] x [k, n] in ns."""
    compute = np.asarray(2.0 * m * n * k / flops, dtype=np.float64)
    return np.asarray(np.maximum(compute, gemm_bytes(m, n, k, element) / bandwidth) * NS, dtype=np.float64)


def causal_pairs(chunk: float, past: float) -> float:
    """Query-key pairs that `chunk` tokens attend to after `past` earlier ones."""
    return chunk * past + chunk * (chunk + 1) / 2


def equivalent_tokens(pairs: float) -> float:
    """The prompt length without past that has `pairs` pairs: the inverse of causal_pairs(x, 0)."""
    return float((2.0 * pairs + 0.25) ** 0.5 - 0.5)


def kv_bytes(tokens: float, kv_heads: int, head_dim: int, element: int) -> float:
    """Keys and values of `tokens` tokens of one layer."""
    return 2.0 * tokens * kv_heads * head_dim * element
