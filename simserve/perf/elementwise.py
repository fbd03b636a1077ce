"""Norms, rotary embedding, activation, KV writes: bytes at a share of the bandwidth, one launch each."""

from __future__ import annotations

import numpy as np

from simserve.perf import roofline
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec


def elementwise_ns(gpu: GpuSpec, size_bytes: Floats) -> Floats:
    """Time of one pass that moves `size_bytes`: the longer of launch and transfer, their overlap granted."""
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.ELEMENTWISE_BYTE_EFFICIENCY
    return np.asarray(np.maximum(roofline.ELEMENTWISE_FLOOR_NS, size_bytes / rate * NS), dtype=np.float64)
