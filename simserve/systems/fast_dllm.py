"""Fast-dLLM: a block-wise KV cache and parallel decoding by confidence, in the authors' batch loop.

Source: C. Wu et al., "Fast-dLLM: Training-free Acceleration of Diffusion LLM by Enabling KV Cache and Parallel
Decoding", paper [P] and repository [C], by the digest of dLLM-Serve, A3.
Claim: up to 27.6 times the throughput of vanilla LLaDA with a cache and a threshold of 0.9.
Modelled: step 0 of a block is a full pass that fills the cache; later steps have the block and all behind it as queries
(`cache: prefix`) or the block alone (`dual`), beside the cached rest; one position a step, or all whose confidence
passes `threshold`, at least one, until the block has no mask; static padded batches; logits of all query tokens, in
float64 in the sampler (18 bytes live, 40 moved) [C].
Simplified: the batch is as large as memory and `max_num_seqs` let it; `max_num_batched_tokens` has no counterpart; the
whole canvas is decoded, an end-of-text token does not end a request.
Reproduces: LLaDA on GSM8K on an A100, `simserve reproduce fast_dllm_a100`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.arch.diffusion import Traits
from simserve.policies.denoising import Batch, Lockstep
from simserve.sim.denoise import PassKind
from simserve.sim.plan import knob
from simserve.systems import scheduler


@scheduler("fast_dllm")
@dataclass
class FastDllm(Lockstep):
    """A padded batch at a time, with a dense cache."""

    cache: str = knob("prefix", "what is cached beside the block: all before it, or all", choices=("prefix", "dual"))
    threshold: float = knob(0.0, "confidence above which a step commits a position; 0: one a step", low=0.0, high=1.0)

    def work(self, batch: Batch) -> tuple[PassKind, int, int]:
        """A full pass, then the block, with what is behind it or alone."""
        if not batch.steps:
            return PassKind.BUILD, batch.length, 0
        queries = batch.block if self.cache == "dual" else batch.canvas - batch.start
        return PassKind.REUSE, queries, batch.length - queries

    @property
    def traits(self) -> Traits:
        """Keys and values are put together with those of the block for each pass: read, written, read [derived]."""
        return self.with_cache(1.0, kv_moves=3.0)
