"""What a step keeps busy: SMs, HBM, the network, the host. For GPUs that several processes share.

An operation is bound by compute or by memory as its roofline says; it keeps that lane busy all its time, and the other
one for the part that the roofline gives [derived]. Prompt attention counts as bound by compute; decode attention,
elementwise passes and the LM head as bound by memory. What is bound by compute, what by memory, collectives and the
host follow one another here: layers interleave them more finely than who shares the GPU can tell. The parts add up to
the price of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from simserve.arch.ops import Gemm
from simserve.errors import Infeasible
from simserve.perf.cost import PricedCost
from simserve.perf.model import TableCost
from simserve.perf.roofline import Floats, element_bytes, fastest_flops, gemm_bytes


class LanePart(NamedTuple):
    """A part of a step: ns on each lane, its time alone is the largest."""

    compute_ns: int = 0
    hbm_ns: int = 0
    network_ns: int = 0
    host_ns: int = 0


class LaneSplit:
    """Splits the steps of one compiled cost model; Infeasible for what has other operations than dense layers.

    factor: every price is so many times as large.
    """

    def __init__(self, cost: PricedCost, factor: float = 1.0) -> None:
        if not isinstance(cost, TableCost) or cost.ops.experts is not None or cost.drafts.num_speculative_tokens:
            raise Infeasible("workers that share a GPU are modelled for dense models beside tensor parallelism alone, "
                             "without num_speculative_tokens")  # fmt: skip
        self._cost, self._factor = cost, factor
        tokens = np.arange(len(cost.token_ops[0].ns), dtype=np.float64)
        parts = np.zeros((4, len(tokens)))  # bound by compute and its HBM part; bound by memory and its compute part
        network = np.zeros(len(tokens))
        gemms = {op.name: op for op in cost.ops.gemms}
        for op in cost.token_ops:
            if op.table.rpartition("/")[2] in ("all_reduce", "collective"):
                network += op.ns
            elif (gemm := gemms.get(op.name)) is None:
                parts[2] += op.ns
            else:
                ratio = self._flops_over_bytes(gemm, tokens)
                bound = ratio >= 1
                parts[0] += np.where(bound, op.ns, 0)
                parts[1] += np.where(bound, op.ns / np.maximum(ratio, 1), 0)
                parts[2] += np.where(bound, 0, op.ns)
                parts[3] += np.where(bound, 0, op.ns * np.minimum(ratio, 1))
        self._parts: list[list[float]] = parts.T.tolist()
        self._network: list[float] = network.tolist()

    def _flops_over_bytes(self, op: Gemm, tokens: Floats) -> Floats:
        """Time for the FLOP over time for the bytes, both at the peak."""
        gpu, dtype = self._cost.gpu, op.dtype or self._cost.formats.dtype
        m = np.maximum(tokens, 1)
        compute = 2.0 * m * op.n * op.k / fastest_flops(gpu, dtype)
        memory = gemm_bytes(m, op.n, op.k, element_bytes(dtype)) / gpu.memory_bandwidth_bytes_per_s
        return np.asarray(compute / memory, dtype=np.float64)

    def __call__(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int, sampled: int, price_ns: int
    ) -> list[LanePart]:
        """The parts of a step that alone takes `price_ns`, in order; what kernels do not explain is the host's."""
        cost, rows = self._cost, decode_seqs + sum(chunk for chunk, _ in prefill)
        compute, compute_hbm, memory, memory_compute = self._parts[cost.padded(rows)]
        network = self._network[cost.padded(rows)]
        attention = cost.attention_ns(prefill, decode_seqs, context)
        if prefill:
            compute += attention
        else:
            memory += attention
        memory += cost.ends_ns(sampled, 0)[0]
        scale = min(self._factor, price_ns / max(compute + memory + network, 1.0))
        own = [round(part * scale) for part in (compute, memory, network)]
        parts = [
            LanePart(own[0], round(compute_hbm * scale)), LanePart(round(memory_compute * scale), own[1]),
            LanePart(network_ns=own[2]), LanePart(host_ns=price_ns - sum(own)),
        ]  # fmt: skip
        return [part for part in parts if max(part) > 0]
