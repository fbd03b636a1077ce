"""Times of one decoder layer, for steps whose attention is spread over GPU and host.

Layers x (linear + attention) + LM head + host time is the price of a whole step (`TableCost.step_ns`), but for the
floor of steps that the host launches more slowly than the GPU computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simserve.arch.ops import Attention, StepOps
from simserve.errors import Infeasible
from simserve.perf.cpu_attention import CpuAttention, cpu_attention
from simserve.perf.decode import segments
from simserve.perf.host_copy import large_rate
from simserve.perf.model import TableCost
from simserve.perf.roofline import NS, element_bytes
from simserve.spec.hardware import HostSpec, LinkSpec, load_link

Chunks = Sequence[tuple[int, int]]


class LayerTimes(Protocol):
    """Times in ns of one layer of `layers` equal ones, and of what comes once per step."""

    @property
    def layers(self) -> int: ...

    def linear_ns(self, tokens: int) -> float:
        """All of a layer but attention, on the GPU; 0 for no tokens."""
        ...

    def attention_ns(self, prefill: Chunks, decode_seqs: int, context_tokens: int) -> float:
        """Attention on the GPU of (chunk, context before) prompts and of decoding requests."""
        ...

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        """Decode attention on the host's CPU; 0 for no requests."""
        ...

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        """(queries, keys and values of the new tokens to the host, their attention output back)."""
        ...

    def head_ns(self, sampled: int) -> float:
        """LM head, once per step."""
        ...

    def host_ns(self, requests: int) -> float:
        """What the engine adds to a step of so many requests."""
        ...


@dataclass(frozen=True)
class CpuSide:
    """Where decode attention runs on the host: kernel by name, threads (0: all), bytes/s (see `cpu_attention`)."""

    host: HostSpec
    kernel: str
    threads: int = 0
    bytes_per_s: float = 0.0


def hosted_attention(ops: StepOps, num_speculative_tokens: int) -> Attention:
    """The attention that a host can take over; Infeasible for what is not modelled."""
    kind = ops.attentions[0] if len(ops.attentions) == 1 else None
    if not isinstance(kind, Attention) or kind.window:
        raise Infeasible("hybrid KV is modelled for models with one kind of attention, over all tokens")
    if num_speculative_tokens:
        raise Infeasible("hybrid KV is modelled without num_speculative_tokens")
    return kind


class LayerPrices:
    """`LayerTimes` from a compiled cost model and a host; one kind of softmax attention, no drafts."""

    def __init__(self, cost: TableCost, gpu_link: LinkSpec, cpu: CpuSide) -> None:
        op = hosted_attention(cost.ops, cost.drafts.num_speculative_tokens)
        self.layers, self._cost = op.count, cost
        self.cpu: CpuAttention = cpu_attention(
            cpu.host, op.heads, op.kv_heads, op.head_dim, threads=cpu.threads, dtype=cost.formats.kv_dtype,
            kernel=cpu.kernel, max_batch=cost.formats.max_num_seqs, bytes_per_s=cpu.bytes_per_s,
        )  # fmt: skip
        a, c = segments(self.cpu.table.ns)
        self._cpu_a, self._cpu_c = a.tolist(), c.tolist()
        narrow = min((gpu_link, load_link(cpu.host.pcie)), key=lambda link: link.payload_bytes_per_s)
        self._latency_ns = float(narrow.latency_ns)
        width = element_bytes("bf16") * op.head_dim
        rates = [large_rate(narrow, direction)[0] for direction in ("d2h", "h2d")]
        self._down_ns = (op.heads + 2 * op.kv_heads) * width / rates[0] * NS
        self._up_ns = op.heads * width / rates[1] * NS

    def linear_ns(self, tokens: int) -> float:
        """See `LayerTimes`."""
        return self._cost.tokens_ns(tokens) / self.layers if tokens else 0.0

    def attention_ns(self, prefill: Chunks, decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`."""
        return self._cost.attention_ns(prefill, decode_seqs, context_tokens) / self.layers

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`."""
        if not decode_seqs:
            return 0.0
        j = context_tokens.bit_length()
        return float(self._cpu_a[decode_seqs][j] + self._cpu_c[decode_seqs][j] * context_tokens)

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        """See `LayerTimes`."""
        if not decode_seqs:
            return 0.0, 0.0
        return self._latency_ns + decode_seqs * self._down_ns, self._latency_ns + decode_seqs * self._up_ns

    def head_ns(self, sampled: int) -> float:
        """See `LayerTimes`."""
        return self._cost.ends_ns(sampled, 0)[0] if sampled else 0.0

    def host_ns(self, requests: int) -> float:
        """See `LayerTimes`."""
        return self._cost.ends_ns(0, requests)[1]


class PredictedTimes:
    """What a profiler believes of `LayerTimes`: each table off by a seeded factor per doubling of its argument.

    error: standard deviation of the logarithm of the factors; 0: the times as they are. Factors are smooth neither in
    truth nor here: a profile is wrong where it was measured badly.
    """

    def __init__(self, times: LayerTimes, error: float, seed: int) -> None:
        self._times, self.layers = times, times.layers
        draws = np.random.default_rng(seed).standard_normal((3, 64)) * error
        self._linear, self._attention, self._cpu = np.exp(draws).tolist()

    def linear_ns(self, tokens: int) -> float:
        """See `LayerTimes`."""
        return self._times.linear_ns(tokens) * float(self._linear[tokens.bit_length()])

    def attention_ns(self, prefill: Chunks, decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`."""
        work = context_tokens + sum(chunk for chunk, _ in prefill)
        factor = float(self._attention[work.bit_length()])
        return self._times.attention_ns(prefill, decode_seqs, context_tokens) * factor

    def cpu_attention_ns(self, decode_seqs: int, context_tokens: int) -> float:
        """See `LayerTimes`."""
        factor = float(self._cpu[context_tokens.bit_length()])
        return self._times.cpu_attention_ns(decode_seqs, context_tokens) * factor

    def copies_ns(self, decode_seqs: int) -> tuple[float, float]:
        """See `LayerTimes`."""
        return self._times.copies_ns(decode_seqs)

    def head_ns(self, sampled: int) -> float:
        """See `LayerTimes`."""
        return self._times.head_ns(sampled)

    def host_ns(self, requests: int) -> float:
        """See `LayerTimes`."""
        return self._times.host_ns(requests)
