"""Pipeline parallelism: the stages of a step, each with its layers, and what it costs to hand the activations on.

A stage is busy while it computes and sends: vLLM sends hidden states and residual, each tensor-parallel rank its part,
gathered on the other side. `step_ns` is a step alone in the pipeline, the sum over its stages; `simserve.sim.pipeline`
overlaps steps. The host's time per step is the first stage's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.layout import Layout
from simserve.perf.compile import Formats, Tables, TokenOp
from simserve.perf.cost import PricedCost
from simserve.perf.host import EngineProfile
from simserve.perf.internode import link_ns
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec, load_link


class PipelineCost:
    """A `simserve.perf.cost.PipelinedCost`: stages in order; sends[i]: from stage i to the next, by tokens of a rank.

    ranks: data-parallel ones, over which the tokens of a step are spread.
    """

    def __init__(self, stages: Sequence[PricedCost], sends: Sequence[TokenOp], ranks: int) -> None:
        self.stages, self.sends, self.ranks = stages, sends, ranks
        first = stages[0]
        self.gpu: GpuSpec = first.gpu
        self.profile: EngineProfile = first.profile
        self.formats: Formats = first.formats
        self._sends: list[list[int]] = [(op.ns + 0.5).astype(np.int64).tolist() for op in sends]

    def stages_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[int]:
        """Time of each stage of a step, sending included."""
        times = [stage.step_ns(prefill, decode_seqs, decode_context_tokens, sampled) for stage in self.stages]
        tokens = self._tokens(prefill, decode_seqs)
        for index, send in enumerate(self._sends):
            times[index] += send[tokens]
        return times

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`: a step alone in the pipeline."""
        return sum(self.stages_ns(prefill, decode_seqs, decode_context_tokens, sampled))

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        whole = sum(send[self._tokens((), decode_seqs)] for send in self._sends)
        runs = [stage.decode_run_ns(decode_seqs, decode_context_tokens, steps) for stage in self.stages]
        return np.asarray(np.sum(runs, axis=0) + whole, dtype=np.int64)

    def explain(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Operations of all stages, and the sends."""
        tokens = self._tokens(prefill, decode_seqs)
        rows = [
            (f"stage {index} {name}", price)
            for index, stage in enumerate(self.stages)
            for name, price in stage.explain(prefill, decode_seqs, decode_context_tokens, sampled)
            if price.ns
        ]
        return rows + [(op.name, op.price(tokens)) for op in self.sends]

    def under(self, profile: EngineProfile) -> PipelineCost:
        """The same tables under another engine profile."""
        later = without_host(profile)
        stages = [stage.under(later if index else profile) for index, stage in enumerate(self.stages)]
        return PipelineCost(stages, self.sends, self.ranks)

    def provenance(self) -> dict[str, Any]:
        """That of the first stage; the others rest on the same tables."""
        return self.stages[0].provenance() | {"pipeline_sends": [op.note for op in self.sends]}

    def _tokens(self, prefill: Sequence[tuple[int, int]], decode_seqs: int) -> int:
        return -(-(decode_seqs + sum(chunk for chunk, _ in prefill)) // self.ranks)


def without_host(profile: EngineProfile) -> EngineProfile:
    """The profile of stages after the first: the host's time per step is spent before."""
    return replace(profile, host_ns_per_step=0, host_ns_per_seq=0)


def sends(hidden: int, layout: Layout, tables: Tables) -> list[TokenOp]:
    """What handing activations from each stage to the next costs, by tokens of a rank.

    Stages lie side by side on the nodes; where any rank's successor is on another node, the link between nodes counts.
    """
    per_node, width = tables.gpu.domain_gpus, layout.stage_gpus
    row = 2 * ACTIVATION_BYTES * hidden
    tokens = np.arange(tables.formats.max_tokens + 1, dtype=np.float64)
    found = []
    for index, (here, there) in enumerate(pairwise(range(0, layout.gpus, width))):
        crosses = any((here + rank) // per_node != (there + rank) // per_node for rank in range(width))
        link = tables.link() if crosses else load_link(tables.gpu.interconnect)
        ns = link_ns(link, tokens * row / layout.tp)
        if layout.tp > 1:
            ns = ns + tables.collective("send", "all_gather", row_bytes=row, count=1, ranks=layout.tp).ns
        note = f"{row} bytes a token over {link.name}"
        found.append(TokenOp(f"send_{index}", ns, lambda m: "modelled", "roofline/send", note))
    return found
