"""What a denoising step takes: one pass over the query tokens of its requests, logits, and moving cached KV.

    step = GEMMs(Q) + attention + LM head and sampler, launch by launch + moves of cached KV + host

all but the last two from the tables of decoding models. Attention is bidirectional: q queries that see past + q keys do
the work of a causal chunk of q tokens behind past + q / 2 [derived], and are priced as one; encoder kernels on an L40S
(64 values a head, no cache) take 256 to 4,096 tokens 1.3 to 1.65 times faster than that, so a refresh of LLaDA, 7 % of
which is attention, may come out 2 to 3 % too long. The LM head reads its weights once a launch; the sampler moves
`sampler_bytes` a logit. An engine that launches from Python takes at least that long for a step
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
        launches = self.traits.launches(len(prefill), sampled)
        rows = -(-sampled // launches)
        ns = self.inner.step_ns(_causal(prefill), 0, 0, rows)
        more = (launches - 1) * self.inner.ends_ns(rows, 0)[0] + sampled * self._row_ns
        return int(ns + more + sum(cached for _, cached in prefill) * self._moved_ns + 0.5)

    def decode_run_ns(self, decode_seqs: int, decode_context_tokens: int, steps: int) -> NDArray[np.int64]:
        """There are no decode steps."""
        raise SimserveError("a diffusion model has no decode steps")

    def explain(
        self, prefill: Passes, decode_seqs: int, decode_context_tokens: int, sampled: int
    ) -> list[tuple[str, Priced]]:
        """Every operation of a step with its price; they add up to `step_ns` but for rounding."""
        launches = self.traits.launches(len(prefill), sampled)
        rows = -(-sampled // launches)
        found = []
        for name, price in self.inner.explain(_causal(prefill), 0, 0, rows):
            if name == "lm_head":
                price = replace(price, ns=price.ns * launches)
            found.append((name, price))
        for name, ns, note in (
            ("sampler", sampled * self._row_ns, "bytes of a logit"),
            ("kv moves", sum(cached for _, cached in prefill) * self._moved_ns, "bytes of cached keys and values"),
        ):
            if ns:
                found.append((name, Priced(ns, "modelled", "roofline/elementwise", note)))
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
