"""Norms, rotary embedding, activation, KV writes: a launch each, and their bytes.

What a pass reads was written by the kernel before it, so the first bytes, up to IN_CACHE of the L2 cache, move CACHED
times as fast as memory; the rest at a share of the bandwidth. Both were fitted on the passes of Llama-3.1-8B
on RTX 4090 (LLMServingSim, median error 18 %); those of RTX PRO 6000, not used, come out to a median of 15 %, p90 62 %
(`tests/unit/perf/test_elementwise.py`).
"""

from __future__ import annotations

import numpy as np

from simserve.perf import roofline
from simserve.perf.checks import known_l2
from simserve.perf.relatives import likeness
from simserve.perf.roofline import NS, Floats
from simserve.spec.hardware import GpuSpec

IN_CACHE, CACHED = 0.5, 3.0


def elementwise_ns(gpu: GpuSpec, size_bytes: Floats) -> Floats:
    """Time of one pass that moves `size_bytes`."""
    rate = gpu.memory_bandwidth_bytes_per_s * roofline.ELEMENTWISE_BYTE_EFFICIENCY
    near = np.minimum(size_bytes, IN_CACHE * known_l2(likeness(gpu).name))
    seconds = near / (CACHED * rate) + (size_bytes - near) / rate
    return np.asarray(roofline.ELEMENTWISE_FLOOR_NS + seconds * NS, dtype=np.float64)
