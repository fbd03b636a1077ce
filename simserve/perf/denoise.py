"""What a denoising step takes: one pass over the query tokens of its requests, logits, and moving cached KV.

    step = max(GEMMs(Q) + attention + LM head and sampler, launch by launch + moves of cached KV, launches) + host

all but moves and host from the tables of decoding models. Attention is bidirectional: q queries that see past + q
keys do the work of a causal chunk of q tokens behind past + q / 2 [derived], and are priced as one; passes over a
cache take at least what as many decoding requests take to read it. Encoder kernels on an L40S (64 values a head, no
cache) take 256 to 4,096 tokens 1.3 to 1.65 times faster than that, so a refresh of LLaDA, 7 % of which is attention,
may come out 2 to 3 % too long. The LM head reads its weights once a launch; the sampler moves `sampler_bytes` a
logit. An engine that launches from Python takes at least that long for a step, `launches`
(`EngineProfile.eager_ns_per_op`).

In the terms of `simserve.perf.cost.CostModel` a step is `prefill`: (query tokens, cached tokens that they attend) per
request, no decodes, and `sampled` rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.arch.diffusion import KV_DTYPE, Traits
from simserve.arch.memory import kv_bytes_per_token
from simserve.errors import SimserveError
from simserve.perf.host import EngineProfile
from simserve.perf.model import TableCost
from simserve.perf.priced import Priced
from simserve.perf.roofline import NS
from simserve.spec.model import ModelSpec

Passes = Sequence[tuple[int, int]]
MEMORY_EFFICIENCY = 0.85  # of the bandwidth that copies and the sampler reach [D, the digest's eta_m]


class DenoiseCost:
    """A `simserve.perf.cost.PricedCost` of a diffusion model on one GPU; kernel_efficiency: as in a deployment."""

    def __init__(self, inner: TableCost, model: ModelSpec, traits: Traits, kernel_efficiency: float = 1.0) -> None:
        self.inner, self.model, self.traits, self.kernel_efficiency = inner, model, traits, kernel_efficiency
        self.gpu, self.profile, self.formats = inner.gpu, inner.profile, inner.formats
        per_byte = NS / (self.gpu.memory_bandwidth_bytes_per_s * MEMORY_EFFICIENCY * kernel_efficiency)
        self._row_ns = model.vocab_size * traits.sampler_bytes * per_byte
        self._moved_ns = (traits.kv_moves - 1) * kv_bytes_per_token(model, KV_DTYPE, 1) * per_byte

    def step_ns(self, prefill: Passes, decode_seqs: int, decode_context_tokens: int, sampled: int) -> int:
        """See the module docstring. OutOfRange beyond the limits the model was compiled for."""
        try:
            tokens = sum(queries for queries, _ in prefill)
            kernels = self.inner.tokens_ns(tokens) + self._attention_ns(prefill)
            kernels += self._head_ns(prefill, sampled) + sampled * self._row_ns
            kernels += sum(cached for _, cached in prefill) * self._moved_ns
            return int(max(kernels, self.inner.launching_ns(tokens)) + self.inner.ends_ns(0, len(prefill))[1] + 0.5)
        except IndexError:
            return self.inner.step_ns(_causal(prefill), 0, 0, sampled)  # which says what is too much

    def _attention_ns(self, passes: Passes) -> float:
        """Of all layers; passes that read a cache take at least what decoding requests take to read as much."""
        ns = self.inner.attention_ns(_causal(passes), 0, 0)
        reading = [(queries, cached) for queries, cached in passes if cached]
        if not reading:
            return ns
        context = sum(queries + cached for queries, cached in reading)
        read = self.inner.attention_ns((), len(reading), context)
        own = ns if len(reading) == len(passes) else self.inner.attention_ns(_causal(reading), 0, 0)
        return ns + max(0.0, read - own)

    def _head_ns(self, passes: Passes, sampled: int) -> float:
        """All launches of the LM head."""
        launches = self.traits.launches(len(passes), sampled)
        return launches * self.inner.ends_ns(-(-sampled // launches), 0)[0]

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """There are no decode steps."""
        raise SimserveError("a diffusion model has no decode steps")

    def explain(
        self, prefill: Passes, decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Every operation of a step with its price; they add up to `step_ns` but for rounding."""
        whole = self.step_ns(prefill, 0, 0, sampled)
        tokens = sum(queries for queries, _ in prefill)
        rows = -(-sampled // self.traits.launches(len(prefill), sampled))
        added = {"lm_head": self._head_ns(prefill, sampled), "prefill_attention": self._attention_ns(prefill)}
        found = []
        for name, price in self.inner.explain(_causal(prefill), 0, 0, rows):
            if name == "launches":
                continue
            found.append((name, replace(price, ns=added[name]) if name in added else price))
        for name, ns, note in (
            ("sampler", sampled * self._row_ns, "bytes of a logit"),
            ("kv moves", sum(cached for _, cached in prefill) * self._moved_ns, "bytes of cached keys and values"),
        ):
            if ns:
                found.append((name, Priced(ns, "modelled", "roofline/elementwise", note)))
        missing = whole - sum(price.ns for _, price in found)
        if missing > 1 and tokens:
            note = "the host launches more slowly than the GPU computes"
            found.append(("launches", Priced(missing, "modelled", f"engines/{self.profile.name}", note)))
        return found

    def under(self, profile: EngineProfile) -> DenoiseCost:
        """The same tables under another engine profile."""
        return DenoiseCost(self.inner.under(profile), self.model, self.traits, self.kernel_efficiency)

    def provenance(self) -> dict[str, Any]:
        """Tables with versions and licence, the engine profile, and what the system does beside scheduling."""
        return {**self.inner.provenance(), "diffusion": vars(self.traits)}


def _causal(passes: Passes) -> list[tuple[int, int]]:
    """Each pass as the causal chunk with as many pairs of queries and keys."""
    return [(queries, cached + queries // 2) for queries, cached in passes]
