"""Knobs that systems of stages share: how features and KV move, how stages on one GPU slow one another.

A system (`simserve.systems.epd_serve` and others) is these with defaults of its own (`other`). Here transfers cost what
their link takes and nothing else, and two stages on one GPU share its time, so that being there together gains nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from simserve.sim.handover import PARTS, Handover, KvMode, Stages, Switching
from simserve.sim.plan import Pool, WorkKind, knob
from simserve.units import GB, GIB, MIB, NS_PER_MS, NS_PER_S, NS_PER_US

QKV_SHARE = 0.15  # of a layer's time until its KV is there: QKV of its matrices [derived of Qwen3-VL-8B's widths]


@dataclass
class Staging:
    """A system of stages; see the module."""

    staged: ClassVar[bool] = True
    scheduler: ClassVar[str] = "vllm"
    router: ClassVar[str] = "least_loaded"

    prefetch: bool = knob(True, "fetch features while the prompt is being scheduled", choices=(True, False))
    kv_transfer: str = knob("synchronous", "messages of KV", choices=("grouped", "layerwise", "synchronous"))
    kv_group_mib: float = knob(16.0, "payload that a group of layers stays below", low=0.001, high=1e6)
    kv_handshake_us: float = knob(0.0, "of a message of KV", low=0, high=1e6)
    kv_gib_per_s: float = knob(0.0, "of one process's KV link, 0 for the deployment's kv_link", low=0, high=1e5)
    layerwise_window: float = knob(0.0, "share of a layer's time that hides its message", low=0, high=1)
    layerwise_stall_ms: float = knob(0.0, "wait of a layer-wise hand-over beside messages", low=0, high=1e5)
    feature_latency_ms: float = knob(0.0, "of fetching the features of a request", low=0, high=1e5)
    feature_gb_per_s: float = knob(0.0, "of the link for features of a process, 0 for no wait", low=0, high=1e5)
    fetch_blocking_ms: float = knob(0.0, "what a synchronous fetch holds a process up beside it", low=0, high=1e5)
    store_gib: float = knob(0.0, "features that are kept, 0 for all", low=0, high=1e6)
    schedule_ms: float = knob(0.0, "host time to schedule a prompt with features", low=0, high=1e5)
    schedule_us_per_token: float = knob(0.0, "of it, a token of its images", low=0, high=1e5)
    proxy_ms: float = knob(0.0, "from a request's arrival to its first stage", low=0, high=1e5)
    decode_answers: bool = knob(False, "the first token comes from the process that decodes", choices=(True, False))
    spread: bool = knob(False, "spread tiles and images of one request over encoders", choices=(True, False))
    role_switching: bool = knob(False, "move idle GPUs to the stage with the longest queue", choices=(True, False))
    switch_interval_s: float = knob(5.0, "how often that is considered", low=0.001, high=1e6)
    switch_delay_s: float = knob(0.0, "from a drained GPU to its work in the new stage", low=0, high=1e6)
    encode_beside_prefill: float = knob(2.0, "times as long encoding takes beside a prompt", low=1, high=100)
    prefill_beside_encode: float = knob(2.0, "times as long a prompt takes beside encoding", low=1, high=100)
    encode_beside_decode: float = knob(2.0, "times as long encoding takes beside decoding", low=1, high=100)
    decode_beside_encode: float = knob(2.0, "times as long decoding takes beside encoding", low=1, high=100)
    prefill_beside_decode: float = knob(2.0, "times as long a prompt takes beside decoding", low=1, high=100)
    decode_beside_prefill: float = knob(2.0, "times as long decoding takes beside a prompt", low=1, high=100)

    def pools(self) -> Sequence[Pool]:
        """None of its own: the layout says."""
        return ()

    def stages(self) -> Stages:
        """How features reach the prompt."""
        return Stages(
            proxy_ns=round(self.proxy_ms * NS_PER_MS), schedule_ns=round(self.schedule_ms * NS_PER_MS),
            schedule_ns_per_token=round(self.schedule_us_per_token * NS_PER_US), prefetch=self.prefetch,
            blocking_ns=round(self.fetch_blocking_ms * NS_PER_MS), spread=self.spread,
            decode_answers=self.decode_answers, switching=self._switching(),
        )  # fmt: skip

    def _switching(self) -> Switching | None:
        """How stages exchange GPUs; None if they do not."""
        if not self.role_switching:
            return None
        return Switching(round(self.switch_interval_s * NS_PER_S), round(self.switch_delay_s * NS_PER_S))

    def handover(self) -> Handover:
        """How KV leaves."""
        return Handover(
            KvMode(self.kv_transfer), round(self.kv_gib_per_s * GIB), round(self.kv_handshake_us * NS_PER_US),
            group_bytes=round(self.kv_group_mib * MIB), ready=round(QKV_SHARE * PARTS),
            window=round(self.layerwise_window * PARTS), stall_ns=round(self.layerwise_stall_ms * NS_PER_MS),
        )  # fmt: skip

    def slowdowns(self) -> Mapping[tuple[WorkKind, WorkKind], int]:
        """Of stages on one NPU, in thousandths."""
        e, p, d = WorkKind.ENCODE, WorkKind.PREFILL, WorkKind.DECODE
        return {
            (e, p): round(self.encode_beside_prefill * PARTS), (p, e): round(self.prefill_beside_encode * PARTS),
            (e, d): round(self.encode_beside_decode * PARTS), (d, e): round(self.decode_beside_encode * PARTS),
            (p, d): round(self.prefill_beside_decode * PARTS), (d, p): round(self.decode_beside_prefill * PARTS),
        }  # fmt: skip

    @property
    def feature_link(self) -> tuple[int, int]:
        """(latency ns, bytes/s)."""
        return round(self.feature_latency_ms * NS_PER_MS), round(self.feature_gb_per_s * GB)

    @property
    def store_bytes(self) -> int | None:
        """Of the store of features."""
        return round(self.store_gib * GIB) or None


def other(name: str, default: Any) -> Any:
    """A knob of `Staging` with another default."""
    return dataclasses.field(default=default, metadata=Staging.__dataclass_fields__[name].metadata)
