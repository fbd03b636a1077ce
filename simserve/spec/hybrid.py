"""KV of running requests in two tiers, GPU memory and host memory, with decode attention on the CPU."""

from __future__ import annotations

from pydantic import Field

from simserve.spec.base import Spec


class HybridSpec(Spec):
    """A host that keeps the KV of some requests and attends to it.

    host: name in hw_specs/hosts, of the whole host beside one GPU; kv_gib: of its memory for KV; kernel: of decode
    attention ('' for the scheduler's own: ispc under neo, llamafile under apex); threads: 0 for all cores;
    cpu_attention_bytes_per_s: what large batches reach under llamafile on this host, 0 for what perfdb says (other
    kernels keep their ratio to it); prediction_error: standard deviation of the logarithm of the factors by which the
    scheduler's profile is off; the time that steps take is not touched by it; prediction_seed: which factors.
    """

    host: str
    kv_gib: float = Field(gt=0, le=1 << 20)
    kernel: str = ""
    threads: int = Field(default=0, ge=0, le=1024)
    cpu_attention_bytes_per_s: float = Field(default=0.0, ge=0, le=1e13)
    prediction_error: float = Field(default=0.0, ge=0, le=2)
    prediction_seed: int = Field(default=0, ge=0)
