"""Steps of InstInfer: the GPU computes prompts and matrices, computational SSDs hold the KV and attend while decoding.

Source: X. Pan et al., "InstAttention", HPCA 2025 (InstInfer, arXiv 2409.04992), sections IV to VI [known]: heads are
striped over the drives; q, k and v of a token go to them by peer-to-peer DMA and the output comes back, one layer
after the other; KV of a prompt's layer is shipped while the next layer computes; flash channels are read at their full
rate. SparF reads the keys of r channels, stored by channel, then keys and values of k tokens. Flash delivers whole
pages: `token_pages` of those by token (about half [known]), and of those by channel 1 - (1 - r)^channels_per_page, as
if channels were independent [derived]. Keys are stored twice, which makes 1.5 times the capacity [known].

    prefill   compute + (L - 1) max(compute, ship) + ship
    decode    L (matrices + p2p + flash bytes / flash rate + FLOP / engine rate)

Reads and engine add up: beside KV access and a part that drives do not change, figures 18 and 19 have one that halves
with a second drive [derived]. Simplified: weights lie on the GPU whole; new KV waits in the drives' DRAM and costs no
time [known]; softmax and top-k are in the engine's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.perf.compile import Formats
from simserve.perf.host import EngineProfile
from simserve.perf.priced import Priced
from simserve.perf.rates import LayerShape, Rates
from simserve.perf.roofline import NS
from simserve.spec.hardware import GpuSpec
from simserve.spec.tiers import CsdSpec

Prompts = Sequence[tuple[int, int]]
GB = 1e9


@dataclass(frozen=True)
class Drives:
    """All drives of a replica together, as the busiest of them allows, in bytes and FLOP per second.

    capacity: bytes of flash; read: of flash inside; write: of flash; link: between GPU and drives; engine: FLOP;
    latency_s: of one transfer;
    copies: of a token's KV that are stored; flash_share, flop_share: of dense attention that is read and computed.
    """

    capacity: float
    read: float
    write: float
    link: float
    engine: float
    latency_s: float
    copies: float
    flash_share: float
    flop_share: float


def drives(csd: CsdSpec, kv_heads: int, gpu_link_bytes_per_s: float) -> Drives:
    """Heads are striped, so the busiest drive has the rounded-up share of them; the GPU's own link is a limit too."""
    even = kv_heads / -(-kv_heads // csd.count)
    sparf = csd.sparf
    pages = 0.0 if sparf is None else 1 - (1 - sparf.channels) ** sparf.channels_per_page
    return Drives(
        capacity=even * csd.capacity_gb * GB,
        read=even * csd.channels * csd.channel_gb_per_s * GB,
        write=even * csd.write_gb_per_s * GB,
        link=min(even * csd.external_gb_per_s * GB, gpu_link_bytes_per_s),
        engine=even * csd.gflops * GB,
        latency_s=csd.p2p_latency_us / 1e6,
        copies=1.0 if sparf is None else 1.5,
        flash_share=1.0 if sparf is None else pages / 2 + sparf.token_pages,
        flop_share=1.0 if sparf is None else sparf.channels / 2 + sparf.tokens,
    )


class InstInferCost:
    """A `simserve.perf.cost.PricedCost`; gpu_batch_size: sequences whose prompts are computed at a time."""

    def __init__(
        self, shape: LayerShape, rates: Rates, own: Drives, gpu_batch_size: int, gpu: GpuSpec, profile: EngineProfile,
        formats: Formats,
    ) -> None:  # fmt: skip
        self.shape, self.rates, self.drives, self.gpu_batch_size = shape, rates, own, gpu_batch_size
        self.gpu, self.profile, self.formats = gpu, profile, formats

    def step_ns(self, prefill: Prompts, decode_seqs: int, decode_context_tokens: int, sampled: int) -> int:
        """See `simserve.perf.cost.CostModel`."""
        ns = int(NS * sum(self._prefill(prefill).values()) + 0.5) if prefill else 0
        if decode_seqs:
            ns += int(self.decode_run_ns(decode_seqs, decode_context_tokens, 1)[0])
        return max(1, ns)

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        context = decode_context_tokens + decode_seqs * np.arange(steps, dtype=np.float64)
        matmul, p2p, attention = self._decode(decode_seqs, context)
        seconds = matmul + p2p + attention
        return np.asarray(np.maximum(1, self.shape.layers * NS * seconds + 0.5), dtype=np.int64)

    def explain(
        self, prefill: Prompts, decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Parts one after the other: what of the shipping of KV nothing hides, attention in the drives."""
        found = self._prefill(prefill) if prefill else {}
        rows = [(name, seconds, name.partition(" ")[0]) for name, seconds in found.items()]
        if decode_seqs:
            parts = self._decode(decode_seqs, float(decode_context_tokens))
            names = ("gemm", "transfer p2p", "decode_attention in drives")
            each = zip(names, parts, strict=True)
            rows += [(name, self.shape.layers * float(part), name.partition(" ")[0]) for name, part in each]
        return [(name, Priced(NS * s, "modelled", f"roofline/{family}", "roofline")) for name, s, family in rows]

    def under(self, profile: EngineProfile) -> InstInferCost:
        """The same; no number of the profile is in the times."""
        return InstInferCost(
            self.shape, self.rates, self.drives, self.gpu_batch_size, self.gpu, profile, self.formats
        )

    def provenance(self) -> dict[str, Any]:
        """Rates of GPU and drives."""
        return {"model": "instinfer", "gpu_batch_size": self.gpu_batch_size, "rates": vars(self.rates),
                "drives": vars(self.drives)}  # fmt: skip

    def _prefill(self, prompts: Prompts) -> dict[str, float]:
        """Seconds of all layers: matrices, attention, and what of the shipping is not hidden."""
        shape, own = self.shape, self.drives
        tokens = sum(chunk for chunk, _ in prompts)
        pairs = sum(chunk * (before + chunk) for chunk, before in prompts)
        passes = -(-len(prompts) // self.gpu_batch_size)
        matmul = max(tokens * shape.weight_bytes / self.rates.prefill_matmul,
                     passes * shape.weight_bytes / self.rates.weight_stream)  # fmt: skip
        attention = 4 * shape.query * pairs / self.rates.prefill_attention
        kv = tokens * shape.kv_bytes
        ship = max(kv / own.link, own.copies * kv / own.write) + own.latency_s
        late = (shape.layers - 1) * max(0.0, ship - matmul - attention) + ship
        return {"gemm": shape.layers * matmul, "prefill_attention": shape.layers * attention, "transfer of KV": late}

    def _decode(self, seqs: int, context: Any) -> tuple[float, float, Any]:
        """Seconds of one layer: matrices; q, k, v there and the output back; attention in the drives."""
        shape, own = self.shape, self.drives
        weights = shape.weight_bytes
        matmul = max(seqs * weights / self.rates.decode_matmul, weights / self.rates.weight_stream)
        moved = seqs * (2 * 2 * shape.query + shape.kv_bytes)
        kv = context * shape.kv_bytes
        flash, engine = own.flash_share * kv / own.read, own.flop_share * kv / own.engine
        return matmul, moved / own.link + 2 * own.latency_s, flash + engine
