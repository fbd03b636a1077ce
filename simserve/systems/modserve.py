"""ModServe: image instances that encode, text instances that prefill and decode.

Source: H. Qiu et al., "ModServe: Scalable and Resource-Efficient Large Multimodal Model Serving", SoCC 2025 (arXiv
2502.00937), by its digest [P].
Claim: encoders and language model want different parallelism, batching and numbers of GPUs; apart, each gets its own.
Modelled: layouts such as 48E-20PD, with tensor_parallel_size of the pool PD for the text instances; tiles of a
request spread over image instances [P]; features pulled after the text instance is known, 5 ms, its 99th percentile
on InfiniBand [P]; text instances chosen by the KV that they hold (its routing by tokens for decoder-only models [P]).
Simplified: features are fetched before the text instance is chosen; no autoscaling, no stage-specific limits but
those of the pools; cross-attention models are routed like the others.
Reproduces: no published figure yet (its trace is not public); timelines of stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from simserve.policies.staging import Staging, other
from simserve.systems import system


@system("modserve")
@dataclass
class ModServe(Staging):
    """Image and text instances."""

    router: ClassVar[str] = "least_kv"

    spread: bool = other("spread", True)
    feature_latency_ms: float = other("feature_latency_ms", 5.0)
