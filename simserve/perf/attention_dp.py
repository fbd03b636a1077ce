"""Data-parallel attention: ranks that serve requests of their own and share the experts, in lock step.

A step lasts as long as the slowest rank's attention and dense layers, and the experts over the tokens of all ranks with
the exchange around them. The exchange is vLLM's default: all-gather of the tokens over the ranks, experts, reduce-
scatter of the results (`allgather_reducescatter`), or DeepEP's dispatch and combine. Tokens for experts in nvfp4 are
gathered quantised, 4 bits and a scale of 8 for each 16 values [known: TensorRT-LLM, SGLang; vLLM's recalled].

Simplified: the scheduler sees one engine with the ranks' memory and limits together, and each step is spread anew:
decoding requests evenly, prompts longest first onto the rank with the fewest tokens. So ranks are out of balance by
what one step cannot divide, never by where requests happen to stay, and all ranks share one prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.arch.dtypes import ACTIVATION_BYTES, weight_element_bytes
from simserve.arch.layout import Layout
from simserve.arch.ops import Experts, StepOps
from simserve.perf.collective import AllReduceCurve, measured_exchange
from simserve.perf.compile import Formats, Tables, TokenOp
from simserve.perf.cost import PricedCost
from simserve.perf.host import EngineProfile
from simserve.perf.internode import link_ns
from simserve.perf.model import NO_DRAFTS
from simserve.perf.priced import Priced, Source
from simserve.perf.speculative import Drafts
from simserve.spec.hardware import GpuSpec

DEEPEP = {"deepep_high_throughput": "deepep_ht", "deepep_low_latency": "deepep_ll"}
Rank = tuple[list[tuple[int, int]], int, int, int]


class AttentionDpCost:
    """A `simserve.perf.cost.PricedCost` of `ranks` data-parallel ranks, each priced by `rank`.

    shared: experts and exchange over the tokens of all of them; ops: what the host launches in a step that is not
    captured, whose time none undercuts (None: nothing); drafts: those that the rank's prices of decode steps are with
    already; layers: of the model.
    """

    def __init__(
        self, rank: PricedCost, shared: Sequence[TokenOp], ranks: int, profile: EngineProfile,
        ops: StepOps | None = None, drafts: Drafts = NO_DRAFTS, layers: int = 1,
    ) -> None:  # fmt: skip
        # the floor of launches is that of rank and experts together
        self.rank = rank.under(replace(profile, eager_ns_per_op=0))
        self._rest = (shared, ranks, ops, drafts, layers)
        factors = {"experts": profile.experts_factor(rank.formats.experts)}
        self.shared = [op.times(factors.get(op.name, profile.exchange_time_factor)) for op in shared]
        self.ranks, self.profile = ranks, profile
        self.gpu: GpuSpec = rank.gpu
        self.formats: Formats = rank.formats
        launching = profile.launching_ns(ops, drafts.num_speculative_tokens) if ops is not None else 0
        self._launches_ns = launching + profile.host_ns_per_step
        seqs = rank.formats.max_num_seqs
        self._captured = max(self.profile.capture_sizes(seqs), default=0)
        self._padded = [self.profile.padded_tokens(m, seqs) for m in range(self._captured + 1)]
        self._padded[0] = 0
        whole = np.sum([op.ns for op in self.shared], axis=0)
        self._shared_ns: list[int] = (whole + 0.5).astype(np.int64).tolist()
        rows = np.minimum(np.arange(len(whole)) * drafts.rows, len(whole) - 1)
        drafted = whole * drafts.num_speculative_tokens / layers
        self._decode_ns: list[int] = ((whole[rows] + drafted) / drafts.tokens_per_step + 0.5).astype(np.int64).tolist()

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`; limits are those of all ranks together."""
        if not prefill:
            seqs, context, heads = self._decode_share(decode_seqs, decode_context_tokens, sampled)
            return self.rank.step_ns((), seqs, context, heads) + self._decode_ns[self._tokens(seqs, decode_seqs)]
        own_ns, _, tokens = self._slowest(prefill, decode_seqs, decode_context_tokens, sampled)
        ns = own_ns + self._shared_ns[tokens]
        return max(ns, self._launches_ns) if tokens > self.profile.max_mixed_cudagraph_tokens else ns

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`: the slowest rank's context grows by its requests each step, exactly."""
        seqs, context, _ = self._decode_share(decode_seqs, decode_context_tokens, decode_seqs)
        return self.rank.decode_run_ns(seqs, context, steps) + self._decode_ns[self._tokens(seqs, decode_seqs)]

    def explain(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """The slowest rank's operations, then what all share."""
        _, slowest, tokens = self._slowest(prefill, decode_seqs, decode_context_tokens, sampled)
        shared = [(op.name, op.price(tokens)) for op in self.shared]
        if not prefill and self._shared_ns[tokens]:
            share = self._decode_ns[tokens] / self._shared_ns[tokens]
            shared = [(name, replace(price, ns=price.ns * share)) for name, price in shared]
        rows = [*self.rank.explain(*slowest), *shared]
        missing = self.step_ns(prefill, decode_seqs, decode_context_tokens, sampled) - sum(p.ns for _, p in rows)
        if prefill and missing > 2.0:
            note = "the host launches more slowly than the GPUs compute"
            rows.append(("launches", Priced(missing, "modelled", f"engines/{self.profile.name}", note)))
        return rows

    def under(self, profile: EngineProfile) -> AttentionDpCost:
        """The same tables under another engine profile."""
        shared, ranks, ops, drafts, layers = self._rest
        return AttentionDpCost(self.rank, shared, ranks, profile, ops, drafts, layers)

    def provenance(self) -> dict[str, Any]:
        """That of a rank, and the tables of what all share."""
        return self.rank.provenance() | {"shared_tables": sorted({op.table for op in self.shared})}

    def _decode_share(self, seqs: int, context: int, sampled: int) -> tuple[int, int, int]:
        """(requests, context, sampled rows) of the rank with the most decoding requests, of mean context."""
        own = -(-seqs // self.ranks)
        return own, -(-context * own // seqs) if seqs else 0, -(-sampled // self.ranks)

    def _tokens(self, most: int, whole: int) -> int:
        """Tokens that the experts see, where steps are padded to the same size on every rank."""
        if most > self._captured and not self.profile.data_parallel_padding:
            return whole
        own = self._padded[most] if most <= self._captured else most
        return min(self.ranks * own, len(self._shared_ns) - 1)

    def _slowest(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int, sampled: int
    ) -> tuple[int, Rank, int]:
        """(ns, what it does) of the slowest rank, and the tokens that the experts see."""
        seqs, own_context, _ = self._decode_share(decode_seqs, context, 0)
        loads: list[list[tuple[int, int]]] = [[] for _ in range(self.ranks)]
        tokens = [0] * self.ranks
        for chunk in sorted(prefill, reverse=True):
            least = tokens.index(min(tokens))
            loads[least].append(chunk)
            tokens[least] += chunk[0]
        ended = max(sampled - decode_seqs, 0)
        # a rank with a prompt has as many decodes as one without, so it is the slower one
        ranks: list[Rank] = [
            (own, seqs, own_context, min(len(own), ended) + min(seqs, sampled)) for own in loads if own or not prefill
        ]
        ns, slowest = max((self.rank.step_ns(*rank), index) for index, rank in enumerate(ranks))
        return ns, ranks[slowest], self._tokens(max(tokens) + seqs, decode_seqs + sum(tokens))


def shared_ops(experts: Experts, layout: Layout, tables: Tables, all2all_backend: str) -> list[TokenOp]:
    """Experts, and dispatch and combine around them, over 1..max_tokens tokens of all ranks.

    The exchange runs among the ranks with tokens of their own; those of one tensor-parallel group hold the same.
    """
    peers, layer = layout.dp * layout.pcp, tables.experts(experts)
    if all2all_backend in DEEPEP:
        return [layer, *_deepep(experts, layout, tables, DEEPEP[all2all_backend])]
    row = ACTIVATION_BYTES * experts.hidden
    dtype = tables.formats.experts
    gathered = round(weight_element_bytes(dtype) * experts.hidden) if dtype == "nvfp4" else row
    around = [
        tables.collective(name, op, row_bytes=size, count=experts.count, ranks=peers, stride=layout.tp)
        for name, op, size in (("moe_dispatch", "all_gather", gathered), ("moe_combine", "reduce_scatter", row))
    ]
    return [layer, *around]


def _deepep(experts: Experts, layout: Layout, tables: Tables, method: str) -> list[TokenOp]:
    """DeepEP's kernels, over all ranks that hold experts, each with its share of the tokens.

    Over several nodes: as measured in one, and each token once to each other node that has one of its experts.
    """
    ranks = layout.stage_gpus
    near = min(ranks, tables.gpu.domain_gpus)
    pair = tables.origin("moe_exchange", "method", method)
    row = ACTIVATION_BYTES * experts.hidden
    if pair is None:
        return [
            tables.collective(f"moe_{op}", "all_to_all", row_bytes=row * experts.topk // ranks, count=experts.count,
                              ranks=ranks)
            for op in ("dispatch", "combine")
        ]  # fmt: skip
    tokens = np.maximum(np.arange(1, tables.formats.max_tokens + 1, dtype=np.float64) / ranks, 1.0)
    found = []
    for op in ("dispatch", "combine"):
        curve = measured_exchange(*pair, op, method, (near, experts.hidden, experts.experts, experts.topk), tokens)
        if near < ranks:
            nodes = ranks / near
            others = (nodes - 1) * (1 - (1 - 1 / nodes) ** experts.topk)
            link = tables.link()
            note = f"{ranks} ranks over {link.name}; {curve.note}".rstrip("; ")
            ns = curve.ns + link_ns(link, tokens * row * others)
            curve = replace(curve, ns=ns, source="modelled", note=note)
        ns = np.concatenate([[0.0], curve.ns * experts.count])
        at = partial(_per_rank, curve, ranks)
        found.append(TokenOp(f"moe_{op}", ns, at, f"{pair[1].name}/moe_exchange", curve.note))
    return found


def _per_rank(curve: AllReduceCurve, ranks: int, tokens: int) -> Source:
    return curve.source_at(-(-tokens // ranks))
