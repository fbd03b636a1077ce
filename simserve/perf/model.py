"""The cost model: a step's token map -> integer nanoseconds, from arrays compiled once.

    step_ns = T[m] + H[sampled] + host(b) + D_a[b][j] + D_c[b][j] S + prefill attention      (rounded once)

A step with prompts that is not captured in a CUDA graph takes at least as long as the host needs to launch it.

m: tokens of the step, padded to the next captured CUDA-graph size; sampled: rows of the LM head; b: decoding
requests; S: sum of their contexts; j = S.bit_length(). Decode attention is linear in S between powers of two.
Prefill and decode share one variable-length attention launch, so a mixed step pays that launch once; where its kernel
handles a decoding request like a block of prompt tokens, `simserve.perf.prefill` says what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.arch.decoder import decoder_ops
from simserve.arch.dtypes import check_dtype
from simserve.arch.ops import AnyAttention, Attention, LinearAttention, StepOps
from simserve.errors import OutOfRange
from simserve.perf import store
from simserve.perf.compile import Formats, Tables, head_op, priced, prompt_ops, token_ops
from simserve.perf.decode import segments
from simserve.perf.host import EngineProfile, load_profile
from simserve.perf.prefill import equivalent
from simserve.perf.priced import Priced
from simserve.perf.roofline import Floats
from simserve.perf.speculative import Drafts
from simserve.perf.streams import beside_experts
from simserve.spec.hardware import GpuSpec
from simserve.spec.model import ModelSpec

NO_DRAFTS = Drafts()


class AttentionCost:
    """One kind of attention layer, compiled: its decode and prefill tables, and how many layers are of it."""

    def __init__(self, layers: int, tables: Tables, op: AnyAttention) -> None:
        self.layers = layers
        self.decode_layers = self.prefill_layers = float(layers)
        self.suffix = f"_window_{op.window}" if isinstance(op, Attention) and op.window else ""
        self.linear = isinstance(op, LinearAttention)
        self.suffix = "_linear" if self.linear else self.suffix
        self.decode, self.decode_name = tables.decode(op)
        self.prefill, self.prefill_name = tables.prefill(op)

    def one_launch_ns(self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int) -> float:
        """All these layers, prompts and decoding requests in one launch where there is one, else after one another."""
        if not self.prefill.one_launch:
            decode = self.decode.time_ns(decode_seqs, context) * self.decode_layers
            return self.prefill.chunks_ns(prefill) * self.prefill_layers + decode
        beside = self.prefill.beside_ns(decode_seqs, context)
        return self.prefill.chunks_ns(prefill, beside, context / decode_seqs) * self.prefill_layers

    def under(self, profile: EngineProfile) -> AttentionCost:
        """The same with the time factors of a profile, as layers that are so many."""
        other = copy(self)
        other.decode_layers = self.layers * profile.decode_attention_time_factor
        other.prefill_layers = self.layers * profile.prefill_attention_time_factor
        if self.linear:
            other.prefill_layers *= profile.gdn_prefill_time_factor
        return other


class TableCost:
    """A `simserve.perf.cost.CostModel` of one replica: one model over its tensor-parallel ranks."""

    def __init__(
        self, ops: StepOps, gpu: GpuSpec, formats: Formats, profile: EngineProfile, drafts: Drafts = NO_DRAFTS,
        tables: Tables | None = None,
    ) -> None:  # fmt: skip
        self.ops, self.gpu, self.formats, self.drafts = ops, gpu, formats, drafts
        tables = tables or Tables(gpu, formats)
        attentions = [AttentionCost(op.count, tables, op) for op in ops.attentions]
        self._priced = (token_ops(ops, tables), prompt_ops(ops, tables), head_op(ops, tables), attentions)
        self._adopt(profile)

    def under(self, profile: EngineProfile) -> TableCost:
        """The same tables under another profile: a few milliseconds, for fits and what-if questions."""
        other = copy(self)
        other._adopt(profile)
        return other

    def _adopt(self, profile: EngineProfile) -> None:
        self.profile = profile
        tokens, prompts, head, attentions = self._priced
        factors = {"gemm": profile.gemm_time_factor, "moe": profile.experts_factor(self.formats.experts),
                   "all_reduce": profile.all_reduce_time_factor,
                   "elementwise": profile.elementwise_time_factor}  # fmt: skip
        self.token_ops, self.prompt_ops, (self.head,) = (
            [op.times(factors.get(op.table.rpartition("/")[2], 1.0)) for op in ops] for ops in (tokens, prompts, [head])
        )
        self.token_ops = beside_experts(self.token_ops, profile.shared_expert_stream_tokens)
        self.attentions = [attention.under(profile) for attention in attentions]
        self._compile()

    def _compile(self) -> None:
        self._launching = float(self.profile.launching_ns(self.ops, self.drafts.num_speculative_tokens))
        seqs = self.formats.max_num_seqs
        captured, tokens = np.array(self.profile.capture_sizes(seqs)), np.arange(self.formats.max_tokens + 1)
        next_size = captured[np.searchsorted(captured, np.minimum(tokens, captured[-1]))]
        sizes = np.where(tokens <= captured[-1], next_size, tokens)
        self._padded: list[int] = np.minimum(sizes, self.formats.max_tokens).tolist()
        self._padded[0] = 0
        per_token = np.sum([op.ns for op in self.token_ops], axis=0)
        self._tokens_array = per_token[self._padded]
        self._tokens: list[float] = self._tokens_array.tolist()
        prompts = np.sum([op.ns for op in self.prompt_ops], axis=0) if self.prompt_ops else np.zeros(1)
        self._prompts: list[float] | None = prompts.tolist() if self.prompt_ops else None
        self._head: list[float] = self.head.ns.tolist()
        batch = np.arange(seqs + 1)
        host = self.profile.host_ns_per_step + self.profile.host_ns_per_seq * batch
        self._host: list[float] = host.astype(np.float64).tolist()
        whole = np.sum([a.decode.ns * a.decode_layers for a in self.attentions], axis=0)
        self._alone = [t + h + host for t, h, host in zip(self._tokens, self._head, self._host, strict=False)]
        self._drafted = self._speculate(host.astype(np.float64)) if self.drafts.num_speculative_tokens else 1.0
        whole = whole * self._drafted
        self._intercepts, self._slopes = segments(whole)
        self._intercepts[0], self._slopes[0] = 0.0, 0.0
        self._a: list[list[float]] = self._intercepts.tolist()
        self._c: list[list[float]] = self._slopes.tolist()
        self._launch = float(whole[min(1, seqs), 0])
        self._told: dict[int, list[tuple[str, Priced]]] = {}
        self._lone = self.attentions[0] if len(self.attentions) == 1 else None

    def _speculate(self, host: Floats) -> float:
        """Make `_alone` the price of a token with drafts; returns what attention takes of it, against no drafts.

        More requests than there are rows for have no price: see `most_tokens`.
        """
        rows, gained, k = self.drafts.rows, self.drafts.tokens_per_step, self.drafts.num_speculative_tokens
        layer = 1 / sum(attention.layers for attention in self.attentions)
        fits = np.arange(min(self._top, (len(self._tokens) - 1)) // rows + 1)
        head = self.head.ns
        draft = k * (self._tokens_array[fits] * layer + head[fits])
        host = host[fits] + self.profile.verify_ns_per_seq * fits
        whole = self._tokens_array[fits * rows] + head[fits * rows] + draft + host
        self._alone = (whole / gained).tolist()
        return (1 + k * layer) / gained

    def step_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> int:
        """See `simserve.perf.cost.CostModel`. OutOfRange beyond the limits the model was compiled for."""
        try:
            j = decode_context_tokens.bit_length()
            grows = self._c[decode_seqs][j] * decode_context_tokens
            if not prefill:
                fixed = self._alone[decode_seqs]
                if sampled != decode_seqs:
                    fixed += self._head[sampled] - self._head[decode_seqs]
                return int(grows + (fixed + self._a[decode_seqs][j] + 0.5))
            attention = self._a[decode_seqs][j] + grows
            return self._mixed_ns(prefill, decode_seqs, decode_context_tokens, attention, sampled)
        except IndexError:
            raise self._out_of_range(prefill, decode_seqs, sampled) from None

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """See `simserve.perf.cost.CostModel`."""
        try:
            fixed = self._alone[decode_seqs]
        except IndexError:
            raise self._out_of_range((), decode_seqs, decode_seqs) from None
        first, end = decode_context_tokens, decode_context_tokens + decode_seqs * steps
        ns = np.arange(first, end, decode_seqs, dtype=np.float64)
        # the sums of `step_ns` in the same order, in place, so that they round alike
        j = first.bit_length()
        if j == (end - decode_seqs).bit_length():
            ns *= self._c[decode_seqs][j]
            ns += fixed + self._a[decode_seqs][j] + 0.5
        else:
            each = np.frexp(ns)[1]
            ns *= self._slopes[decode_seqs][each]
            ns += fixed + self._intercepts[decode_seqs][each] + 0.5
        return ns.astype(np.int64)

    def _mixed_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int, decode_attention: float, sampled: int
    ) -> int:
        tokens = decode_seqs + (prefill[0][0] if len(prefill) == 1 else sum(chunk for chunk, _ in prefill))
        kernels = self._tokens[tokens] + self._head[sampled]
        if self._prompts is not None:
            kernels += self._prompts[tokens - decode_seqs]
        kernels += self._beside_prompts_ns(prefill, decode_seqs, context, decode_attention)
        if kernels < self._launching and tokens > self.profile.max_mixed_cudagraph_tokens:
            kernels = self._launching
        return int(kernels + self._host[min(decode_seqs + len(prefill), self._top)] + 0.5)

    def _beside_prompts_ns(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int, decode_attention: float
    ) -> float:
        """Attention of all layers in a step with prompts."""
        if decode_seqs and self.attentions[0].prefill.one_launch:
            return self._one_launch_ns(prefill, decode_seqs, context)
        beside = decode_attention - self._launch
        return self._prefill_ns(prefill) + (beside if beside > 0.0 else 0.0)

    def padded(self, tokens: int) -> int:
        """Tokens that a step of so many computes: those of the next captured size."""
        return self._padded[tokens]

    def tokens_ns(self, tokens: int) -> float:
        """What depends on the tokens of a step alone (GEMMs, elementwise), all layers."""
        return self._tokens[tokens]

    def attention_ns(self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int) -> float:
        """Attention of all layers."""
        j = context.bit_length()
        decode = self._a[decode_seqs][j] + self._c[decode_seqs][j] * context
        return self._beside_prompts_ns(prefill, decode_seqs, context, decode) if prefill else decode

    def launching_ns(self, tokens: int) -> float:
        """What the host needs to launch a step with prompts of so many tokens; 0 where it is captured."""
        return self._launching if tokens > self.profile.max_mixed_cudagraph_tokens else 0.0

    def ends_ns(self, sampled: int, requests: int) -> tuple[float, float]:
        """(LM head of the sampled rows, host time of a step of so many requests)."""
        return self._head[sampled], self._host[min(requests, self._top)]

    def _one_launch_ns(self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int) -> float:
        """Attention of all layers where one kernel takes prompts and decoding requests together."""
        return sum(a.one_launch_ns(prefill, decode_seqs, context) for a in self.attentions)

    @property
    def _top(self) -> int:
        return len(self._host) - 1

    def _prefill_ns(self, prefill: Sequence[tuple[int, int]]) -> float:
        if self._lone is not None:
            ns = self._lone.prefill.chunks_ns(prefill) * self._lone.prefill_layers
        else:
            ns = sum(a.prefill.chunks_ns(prefill) * a.prefill_layers for a in self.attentions)
        if not self.attentions[0].prefill.chain_ns and any(past for _, past in prefill):
            context = sum(chunk + past for chunk, past in prefill)
            count, j = min(len(prefill), self._top), context.bit_length()
            ns = max(ns, (self._a[count][j] + self._c[count][j] * context) / self._drafted)
        return ns

    def explain(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Every operation of a step with its price; the prices add up to `step_ns` within 1 ns."""
        self.step_ns(prefill, decode_seqs, decode_context_tokens, sampled)
        prompts = sum(chunk for chunk, _ in prefill)
        rows = list(self._token_rows(self._padded[decode_seqs + prompts]))
        if prefill:
            rows += [(op.name, op.price(prompts)) for op in self.prompt_ops]
            rows += self._explain_prefill(prefill)
        if decode_seqs:
            rows += self._explain_decode(prefill, decode_seqs, decode_context_tokens)
        rows.append(("lm_head", self.head.price(sampled)))
        missing = self._launching - sum(price.ns for _, price in rows)
        if prefill and missing > 0 and decode_seqs + prompts > self.profile.max_mixed_cudagraph_tokens:
            note = "the host launches more slowly than the GPU computes"
            rows.append(("launches", Priced(missing, "modelled", f"engines/{self.profile.name}", note)))
        drafted = self.drafts.num_speculative_tokens and not prefill
        host = self._host[min(decode_seqs + len(prefill), self._top)]
        host += self.profile.verify_ns_per_seq * decode_seqs if drafted else 0
        rows.append(("host", Priced(host, "modelled", f"engines/{self.profile.name}", "fitted constant")))
        if drafted:
            whole = self.step_ns((), decode_seqs, decode_context_tokens, sampled)
            share = whole / sum(price.ns for _, price in rows)
            rows = [(name, replace(price, ns=price.ns * share, source="modelled")) for name, price in rows]
        return rows

    def _token_rows(self, tokens: int) -> list[tuple[str, Priced]]:
        """What depends on the tokens of a step alone; sampled steps ask for the same few again and again."""
        if tokens not in self._told:
            self._told[tokens] = [(op.name, op.price(tokens)) for op in self.token_ops]
        return self._told[tokens]

    def _explain_prefill(self, prefill: Sequence[tuple[int, int]]) -> list[tuple[str, Priced]]:
        """One price per kind of layer; what the floor of `_prefill_ns` adds is the first one's."""
        parts = [a.prefill.chunks_ns(prefill) * a.prefill_layers for a in self.attentions]
        parts[0] += self._prefill_ns(prefill) - sum(parts)
        work = equivalent(prefill)
        return [
            (f"prefill_attention{a.suffix}", priced(ns, a.prefill.source_at(work), a.prefill_name, a.prefill.note))
            for a, ns in zip(self.attentions, parts, strict=True)
        ]

    def _explain_decode(
        self, prefill: Sequence[tuple[int, int]], decode_seqs: int, context: int
    ) -> list[tuple[str, Priced]]:
        """Decode attention, one price per kind of layer; beside prompts as much less as they share."""
        alone = self._a[decode_seqs][context.bit_length()] + self._c[decode_seqs][context.bit_length()] * context
        whole = alone
        if prefill and self.attentions[0].prefill.one_launch:
            whole = self._one_launch_ns(prefill, decode_seqs, context) - self._prefill_ns(prefill)
        elif prefill:
            whole = max(alone - self._launch, 0.0)
        rows = []
        for a in self.attentions:
            ns = a.decode.time_ns(decode_seqs, context) * a.decode_layers * whole / alone
            source = a.decode.source_at(decode_seqs, context)
            price = priced(ns, source, a.decode_name, a.decode.note)
            if prefill and a.prefill.one_launch:
                price = priced(ns, "modelled", a.prefill_name, "in one launch with the prompts")
            rows.append((f"decode_attention{a.suffix}", price))
        return rows

    def provenance(self) -> dict[str, Any]:
        """Tables with versions and licence, and the engine profile."""
        typical = self.explain([(1, 0)], 1, 2, 1)
        names = sorted({p.table for _, p in typical if p.table.partition("/")[0] not in ("roofline", "engines")})
        return {
            "device": self.gpu.name,
            "tables": {name: _table_entry(name) for name in names},
            "engine_profile": self.profile.to_dict(),
        }

    def _out_of_range(self, prefill: Sequence[tuple[int, int]], seqs: int, sampled: int) -> OutOfRange:
        tokens = seqs + sum(chunk for chunk, _ in prefill)
        limits = f"{self.formats.max_tokens} tokens, {self.formats.max_num_seqs // self.drafts.rows} requests"
        return OutOfRange(
            f"a step of {tokens} tokens, {seqs} decoding requests and {sampled} sampled rows exceeds what the "
            f"cost model was compiled for: {limits}"
        )


@lru_cache(maxsize=128)
def build_cost(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    tensor_parallel_size: int = 1,
    dtype: str = "bf16",
    moe_dtype: str = "",
    expert_parallel: bool = False,
    kv_cache_dtype: str = "auto",
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    inter_node_link: str = "",
    profile: EngineProfile | None = None,
    drafts: Drafts = NO_DRAFTS,
) -> TableCost:
    """The compiled cost model of one replica, under vLLM's profile without fitted constants if none is given.

    Raises Infeasible when the model does not split or the device lacks the dtype.
    """
    check_dtype(gpu, dtype)
    check_dtype(gpu, moe_dtype or dtype)
    engine = profile or load_profile("vllm", calibrated=False)
    largest = most_tokens(engine, max_num_batched_tokens, max_num_seqs, drafts)
    rows = max_num_seqs * drafts.rows
    formats = Formats(dtype, kv_cache_dtype, largest, rows, moe_dtype, inter_node_link, engine.kernel_tables)
    ops = decoder_ops(model, tensor_parallel_size, dtype, expert_parallel=expert_parallel)
    return TableCost(ops.without(engine.fused_passes), gpu, formats, engine, drafts)


def most_tokens(engine: EngineProfile, max_num_batched_tokens: int, max_num_seqs: int, drafts: Drafts) -> int:
    """Rows to compile for: the budget, every captured size, and what all requests together verify, padded."""
    verified = engine.padded_tokens(max_num_seqs, max_num_seqs * drafts.rows) * drafts.rows
    return max(max_num_batched_tokens, verified, *engine.capture_sizes(max_num_seqs))


def _table_entry(table: str) -> dict[str, Any]:
    device, _, family = table.rpartition("/")
    wanted = ("package", "package_version", "licence", "built", "sources", "kernels", "rows_kept")
    return {key: value for key, value in store.provenance(device, family).items() if key in wanted}
