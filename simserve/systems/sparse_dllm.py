"""Sparse-dLLM: a block's steps read the KV of the tokens that its first steps attended most.

Source: Sparse-dLLM, abstract [P] and repository, by the digest of dLLM-Serve, A3.
Claim: dynamic eviction of tokens from a bidirectional cache gives up to 10 times the throughput of a vanilla pass.
Modelled: the schedule of dLLM-Serve, which took it over (one FULL, one BUILD, then REUSE of a share of the tokens), in
a static batch, padded, that runs to completion; logits of all query tokens at once, as LLaDA's sampler has them: bf16
from the model, a float64 copy and its softmax [C, of the sampler that these repositories share]; a peak of memory near
vanilla's.
Simplified: the batch is as large as memory and `max_num_seqs` let it, which the repository leaves to its caller;
`max_num_batched_tokens` has no counterpart.
Knobs: `keep_ratio` is `retention_ratio` here.
Reproduces: a baseline of `simserve reproduce dllm_serve_4090`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.arch.diffusion import Traits
from simserve.policies.denoising import Batch, Lockstep, kept, phase
from simserve.sim.denoise import PassKind
from simserve.sim.plan import knob
from simserve.systems import scheduler


@scheduler("sparse_dllm")
@dataclass
class SparseDllm(Lockstep):
    """A padded batch at a time, with sparse reuse."""

    delay_step: int = knob(1, "steps of a block before its KV is kept", low=0, high=8)
    retention_ratio: float = knob(0.5, "share of the tokens whose KV is kept", low=0.05, high=1.0)

    def work(self, batch: Batch) -> tuple[PassKind, int, int]:
        """dLLM-Serve's states."""
        kind = phase(batch.steps, self.delay_step)
        if kind is not PassKind.REUSE:
            return kind, batch.length, 0
        outside = batch.length - batch.block
        return kind, batch.block, min(kept(batch.length, batch.block, self.retention_ratio), outside)

    @property
    def traits(self) -> Traits:
        """A share of the keys and values, put together with those of the block as in Fast-dLLM [guessed]."""
        return self.with_cache(self.retention_ratio, kv_moves=3.0)
