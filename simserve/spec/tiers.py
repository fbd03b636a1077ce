"""Tiers of an offline offload system: GPU, host memory, disk or computational SSDs, and how data lies in them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from simserve.spec.base import Spec

OFFLINE = ("flexgen", "instinfer")  # the schedulers that need tiers
Rate = Annotated[float, Field(gt=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=1 << 16)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(gt=0, le=1)]
Placed = tuple[Percent, Percent]


class RatesSpec(Spec):
    """What copies and kernels reach, GB = 10^9 bytes; None: as `simserve.perf.rates` says, FlexGen's fit of a T4.

    h2d: host to GPU; d2h_kv, d2h_hidden: GPU to host; disk_write_kv, disk_write_hidden: of prompts; disk_write_decode:
    of single tokens; *_matmul, *_attention: on the GPU; cpu_attention: one FLOP a byte of 16-bit KV.
    """

    h2d_gb_per_s: Rate | None = None
    d2h_kv_gb_per_s: Rate | None = None
    d2h_hidden_gb_per_s: Rate | None = None
    disk_read_gb_per_s: Rate | None = None
    disk_write_kv_gb_per_s: Rate | None = None
    disk_write_hidden_gb_per_s: Rate | None = None
    disk_write_decode_gb_per_s: Rate | None = None
    prefill_matmul_tflops: Rate | None = None
    decode_matmul_tflops: Rate | None = None
    prefill_attention_tflops: Rate | None = None
    decode_attention_tflops: Rate | None = None
    cpu_attention_tflops: Rate | None = None


class PolicySpec(Spec):
    """A placement as FlexGen's command line takes it.

    gpu_batch_size: sequences that the GPU computes at a time, None for max_num_seqs over num_gpu_batches;
    num_gpu_batches: of them in a block, which goes through a layer before the next layer's weights are loaded; weights,
    kv, hidden: percent on the GPU and in host memory, the rest on disk (`--percent`).
    """

    gpu_batch_size: Count | None = None
    num_gpu_batches: Count = 1
    weights: Placed = (100.0, 0.0)
    kv: Placed = (100.0, 0.0)
    hidden: Placed = (100.0, 0.0)

    @model_validator(mode="after")
    def _no_more_than_all(self) -> PolicySpec:
        for name in ("weights", "kv", "hidden"):
            gpu, cpu = getattr(self, name)
            if gpu + cpu > 100:
                raise ValueError(f"{name} has {gpu:g} % on the GPU and {cpu:g} % in host memory, more than 100 %")
        if sum(self.hidden) < 100:
            raise ValueError("hidden states go to the GPU and host memory; FlexGen's runtime has none on disk")
        return self


class SparfSpec(Spec):
    """SparF attention: what is read of the KV, as shares.

    channels: of a head's query channels, with which scores are approximated (r); tokens: whose keys and values are
    fetched (k); token_pages: of the pages of keys and values, those with such a token; channels_per_page: of the keys
    that are stored by channel.
    """

    channels: Share = 0.125
    tokens: Share = 0.125
    token_pages: Share = 0.5
    channels_per_page: int = Field(default=2, ge=1, le=64)


class CsdSpec(Spec):
    """Computational SSDs, KV heads striped over them; GB = 10^9 bytes.

    channels, channel_gb_per_s: of flash, read by the engine inside; external_gb_per_s: of the drive's link; write:
    what the flash takes of prompts' KV; gflops: of the engine; p2p_latency_us: of one transfer between GPU and drive;
    sparf: None for dense attention.
    """

    count: int = Field(default=1, ge=1, le=1024)
    capacity_gb: Rate = 2000.0
    channels: int = Field(default=8, ge=1, le=256)
    channel_gb_per_s: Rate = 1.4
    external_gb_per_s: Rate = 7.0
    write_gb_per_s: Rate = 3.78
    gflops: Rate = 650.0
    p2p_latency_us: float = Field(default=10.0, ge=0, le=1e6)
    sparf: SparfSpec | None = None


class TiersSpec(Spec):
    """Where an offline system keeps weights, KV and hidden states beside the GPU.

    host: whose memory and cores; host_memory_gib: for offload, None for all that the host has; disk_gib, disk_link: a
    drive and the link whose bandwidth it reaches, None for the rates'; csd: for instinfer; policy: a placement, None
    for the best by the linear programme; prompt_tokens, output_tokens: the padded lengths that a placement is made for
    (`--prompt-len`, `--gen-len`); rates: what is otherwise than `simserve.perf.rates` says.
    """

    host: str | None = None
    host_memory_gib: float | None = Field(default=None, gt=0, le=1 << 20)
    disk_gib: float = Field(default=0.0, ge=0, le=1 << 30)
    disk_link: str | None = None
    csd: CsdSpec | None = None
    policy: PolicySpec | None = None
    prompt_tokens: int = Field(default=512, ge=1, le=1 << 20)
    output_tokens: int = Field(default=32, ge=1, le=1 << 20)
    rates: RatesSpec = RatesSpec()

    @model_validator(mode="after")
    def _memory_is_known(self) -> TiersSpec:
        if self.host is None and self.host_memory_gib is None and self.csd is None:
            raise ValueError("give host, or host_memory_gib")
        return self


def tiers_mismatch(scheduler: str, tiers: TiersSpec | None) -> str | None:
    """What is wrong between a deployment's scheduler and its tiers, in words; None if nothing."""
    if (scheduler in OFFLINE) != (tiers is not None):
        need = f"needs tiers: host_memory_gib, disk_gib{' or csd' if scheduler == 'instinfer' else ''}"
        return f"scheduler {scheduler} {need}" if tiers is None else f"tiers are for {' and '.join(OFFLINE)}"
    if tiers is not None and (scheduler == "instinfer") != (tiers.csd is not None):
        return "scheduler instinfer needs tiers.csd" if tiers.csd is None else "tiers.csd is for scheduler instinfer"
    return None
