"""Context parallelism: prompts and KV cache of one request spread over ranks.

pcp ranks (`prefill_context_parallel_size`) take equal shares of every prompt chunk, cut so that each has as many pairs
of query and key; the keys and values of chunk and past are gathered over all ranks that share the cache. With dcp of
the tensor-parallel ranks (`decode_context_parallel_size`) sharing it, decode gathers their query heads, each rank
attends with all of them to its part of the context, and the parts are combined by a reduce-scatter.

Simplified: the gather is not hidden behind the attention; decoding requests are on every pcp rank, as under vLLM.
All that is added is 'modelled': nobody has measured these kernels here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.arch.dtypes import ACTIVATION_BYTES
from simserve.arch.layout import Layout
from simserve.arch.ops import AnyAttention, Attention, LatentAttention
from simserve.perf.compile import Formats, Tables, TokenOp
from simserve.perf.decode import DecodeTable
from simserve.perf.host import EngineProfile
from simserve.perf.model import TableCost
from simserve.perf.priced import Priced
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec


class ContextTables(Tables):
    """Decode attention with the query heads of all ranks that share the cache."""

    def __init__(self, gpu: GpuSpec, formats: Formats, dcp: int) -> None:
        super().__init__(gpu, formats)
        self._dcp = dcp

    def decode(self, a: AnyAttention) -> tuple[DecodeTable, str]:
        """As `Tables.decode`, of dcp times the heads; the layout refuses other kinds of attention."""
        if not isinstance(a, Attention | LatentAttention):
            return super().decode(a)
        return super().decode(replace(a, heads=a.heads * self._dcp))


class ContextCost:
    """A `simserve.perf.cost.PricedCost` of one tensor-parallel group, or pcp of them, that share context.

    rank: one rank's share, compiled with `ContextTables`; gather: keys and values of prompts, by tokens of context,
    for context_tokens at most (beyond, time goes with the tokens); combine: of decode, by requests.
    """

    def __init__(
        self, rank: TableCost, layout: Layout, gather: Sequence[TokenOp], combine: Sequence[TokenOp]
    ) -> None:
        self.rank, self.layout, self.gather, self.combine = rank, layout, gather, combine
        self.gpu: GpuSpec = rank.gpu
        self.profile: EngineProfile = rank.profile
        self.formats: Formats = rank.formats
        self._gather_ns: list[float] = np.sum([op.ns for op in gather], axis=0).tolist()
        self._combine_ns: list[int] = (np.sum([op.ns for op in combine], axis=0) + 0.5).astype(np.int64).tolist()

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`."""
        ns = self.rank.step_ns(*self._share(prefill, decode_seqs, decode_context_tokens), sampled)
        if prefill:
            ns += int(self._gathered(prefill)[1] + 0.5)
        return ns + self._combine_ns[decode_seqs]

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`; a share of the context is rounded up, so step by step."""
        each = (decode_context_tokens + i * decode_seqs for i in range(steps))
        return np.array([self.step_ns((), decode_seqs, context, decode_seqs) for context in each], dtype=np.int64)

    def explain(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """The rank's operations, then the exchange of context."""
        rows = self.rank.explain(*self._share(prefill, decode_seqs, decode_context_tokens), sampled)
        if prefill:
            tokens, ns = self._gathered(prefill)
            rows += [(op.name, replace(op.price(tokens), ns=ns, source="modelled")) for op in self.gather]
        rows += [(op.name, replace(op.price(decode_seqs), source="modelled")) for op in self.combine if decode_seqs]
        return rows

    def under(self, profile: EngineProfile) -> ContextCost:
        """The same tables under another engine profile."""
        return ContextCost(self.rank.under(profile), self.layout, self.gather, self.combine)

    def provenance(self) -> dict[str, Any]:
        """That of the rank."""
        return self.rank.provenance()

    def _share(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int
    ) -> tuple[list[tuple[int, int]], int, int]:
        """What one rank does: of a chunk a part with a longer past, so that query-key pairs come out equal."""
        pcp = self.layout.pcp
        own = [(part, past + (chunk - part) // 2) for chunk, past in prefill for part in (-(-chunk // pcp),)]
        return own, decode_seqs, max(-(-context // self.layout.kv_ranks), decode_seqs)

    def _gathered(self, prefill: Sequence[tuple[int, int]]) -> tuple[int, float]:
        """(tokens of a table row, ns) of gathering the keys and values that the chunks of a step see."""
        top = len(self._gather_ns) - 1
        tokens = sum(chunk + past for chunk, past in prefill)
        return min(tokens, top), self._gather_ns[min(tokens, top)] * max(tokens / top, 1.0)


def exchanges(model: ModelSpec, layout: Layout, tables: Tables) -> tuple[list[TokenOp], list[TokenOp]]:
    """(gather, combine) of `ContextCost`: per token of context, and per decoding request."""
    layers, latent = model.num_hidden_layers, model.latent
    element = 1 if tables.formats.kv_dtype == "fp8" else ACTIVATION_BYTES
    heads = max(1, model.num_attention_heads // layout.tp)
    if latent is not None:
        row = element * (latent.kv_lora_rank + latent.qk_rope_head_dim)
        query, value = latent.kv_lora_rank + latent.qk_rope_head_dim, latent.kv_lora_rank
    else:
        row = 2 * element * max(1, model.num_key_value_heads // layout.tp) * model.head_dim
        query = value = model.head_dim
    stride = layout.tp if layout.dcp == 1 else 1
    gather = tables.collective("kv_gather", "all_gather", row_bytes=row, count=layers, ranks=layout.kv_ranks,
                               stride=stride)  # fmt: skip
    combine = []
    each = ACTIVATION_BYTES * heads * layout.dcp
    if layout.dcp > 1:
        combine.append(tables.collective("query_gather", "all_gather", row_bytes=each * query, count=layers,
                                         ranks=layout.dcp))  # fmt: skip
    combine.append(tables.collective("attention_combine", "reduce_scatter", row_bytes=each * value, count=layers,
                                     ranks=layout.kv_ranks, stride=stride))  # fmt: skip
    return [gather], combine
