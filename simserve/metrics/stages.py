"""What a run made of its stages; shares of 0 to 1.

    kv_overlap          of the time of all messages of KV, each alone: beside the computation of its prompt
    kv_ms, feature_ms   of all messages of KV, of all fetches of features, each alone
    feature_overlap     of the time of all fetches of features: beside the scheduling of their prompts
    store_hit_rate      of the images asked for: features were in the store
    encoder_busy        of the time of encoders that are processes of their own, while they take jobs or have some
    role_switches       GPUs that went to another stage
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.sim.handover import TransferUse
from simserve.units import NS_PER_MS


@dataclass(frozen=True)
class StageMetrics:
    """See the module docstring; None where nothing of the kind happened."""

    kv_overlap: float | None
    kv_ms: float
    feature_ms: float
    feature_overlap: float | None
    store_hit_rate: float | None
    encoder_busy: float | None
    role_switches: int


def stage_metrics(use: TransferUse | None) -> StageMetrics | None:
    """Of a run with stages; None for others."""
    if use is None:
        return None
    asked = use.store_hits + use.store_misses
    return StageMetrics(
        kv_overlap=_hidden(use.kv_exposed_ns, use.kv_ns),
        kv_ms=use.kv_ns / NS_PER_MS,
        feature_ms=use.features_ns / NS_PER_MS,
        feature_overlap=_hidden(use.features_exposed_ns, use.features_ns),
        store_hit_rate=use.store_hits / asked if asked else None,
        encoder_busy=use.encode_ns / use.encoders_ns if use.encoders_ns else None,
        role_switches=use.switches,
    )


def _hidden(exposed_ns: int, whole_ns: int) -> float | None:
    return 1.0 - exposed_ns / whole_ns if whole_ns else None
