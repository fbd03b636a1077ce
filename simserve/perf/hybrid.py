"""What a step takes when some requests keep their KV, and their decode attention, on the host.

With l = linear work of a layer, a = decode attention of the GPU, p = prefill attention, c = decode attention of the
CPU, tau = copies of queries, keys, values down and of outputs up, lambda = launch of a stage where CPU attention shares
the launching thread; 0, 1: sub-batches (digest of APEX, arXiv 2506.03296, and NEO, arXiv 2411.01142, 1.4c and 3.1):

    pipelined   L (max(l0, lambda + tau1 + c1) + max(l1 + p + a, lambda + tau0 + c0)) + heads + host     [N]
    overlapped  the GPU's own step + [l(n + b) - l(n)] for each cohort of b requests at one of the layers  [I]

A stage ends when both sides have ended (NEO). An overlapped cohort is at one layer for a whole step, for weights of
different layers share no GEMM [I]: its attention at that layer ends after l + tau + c, and the GPU takes the result
when it passes there next. A token takes L + 1 steps: one to begin, the attention of L layers, each taken a step late;
the published estimate says L.
Copies of whole KV (swaps, prompts that go to the host) run beside the step and prolong it only where they take longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.perf.layers import LayerTimes

Batch = tuple[int, int]  # requests, sum of their contexts


@dataclass(frozen=True, slots=True)
class PipelinedStep:
    """Two sub-batches. prefill, gpu: of the first; cpu0, cpu1: decodes on the CPU of each; sampled: rows of the LM
    head; launch_ns: of a stage with CPU attention.
    """

    prefill: Sequence[tuple[int, int]]
    gpu: Batch
    cpu0: Batch
    cpu1: Batch
    sampled: int
    launch_ns: int


@dataclass(frozen=True, slots=True)
class CohortTimes:
    """One layer of a cohort, in order: linear work with copies down, attention of the CPU, outputs up."""

    before_ns: int
    cpu_ns: int
    after_ns: int

    @property
    def whole_ns(self) -> int:
        """From the start of a step to where the GPU can go on."""
        return self.before_ns + self.cpu_ns + self.after_ns


class HybridCost:
    """Prices from layer times; block_out_ns, block_in_ns: copy of a KV block, all layers; factor: of every price."""

    def __init__(
        self, times: LayerTimes, *, block_out_ns: float = 0.0, block_in_ns: float = 0.0, factor: float = 1.0
    ) -> None:
        self.times, self.factor = times, factor
        self._out, self._in = block_out_ns * factor, block_in_ns * factor

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return self.times.layers

    def copies_ns(self, blocks_out: int, blocks_in: int) -> tuple[int, int]:
        """KV blocks to the host, and back."""
        return round(blocks_out * self._out), round(blocks_in * self._in)

    def pipelined_ns(self, step: PipelinedStep) -> tuple[int, int, int]:
        """(duration, time that the CPU attends, the GPU's own part)."""
        t = self.times
        first_tokens = sum(chunk for chunk, _ in step.prefill) + step.gpu[0] + step.cpu0[0]
        cpu0, cpu1 = t.cpu_attention_ns(*step.cpu0), t.cpu_attention_ns(*step.cpu1)
        first = t.linear_ns(first_tokens)
        second = t.linear_ns(step.cpu1[0]) + t.attention_ns(step.prefill, *step.gpu)
        layer = max(first, self._cpu_side_ns(step.cpu1[0], cpu1, step.launch_ns))
        layer += max(second, self._cpu_side_ns(step.cpu0[0], cpu0, step.launch_ns))
        requests = len(step.prefill) + step.gpu[0] + step.cpu0[0] + step.cpu1[0]
        ends = t.head_ns(step.sampled) + t.host_ns(requests)
        parts = (t.layers * layer + ends, t.layers * (cpu0 + cpu1), t.layers * (first + second) + ends)
        whole, cpu, own = (round(part * self.factor) for part in parts)
        return max(whole, 1), cpu, own

    def _cpu_side_ns(self, seqs: int, cpu_ns: float, launch_ns: int) -> float:
        """A stage as the launching thread sees it: launch, wait for the copies, attend, send back; 0 for nothing."""
        return launch_ns + sum(self.times.copies_ns(seqs)) + cpu_ns if seqs else 0.0

    def joined_ns(self, tokens: int, seqs: int) -> int:
        """What a cohort of `seqs` requests adds to a step with `tokens` tokens: its rows at one layer."""
        more = self.times.linear_ns(tokens + seqs) - self.times.linear_ns(tokens)
        return round(more * self.factor)

    def cohort(self, tokens: int, seqs: int, context: int) -> CohortTimes:
        """One layer of a cohort beside `tokens` other tokens."""
        down, up = self.times.copies_ns(seqs)
        parts = (self.times.linear_ns(tokens + seqs) + down, self.times.cpu_attention_ns(seqs, context), up)
        return CohortTimes(*(round(part * self.factor) for part in parts))
