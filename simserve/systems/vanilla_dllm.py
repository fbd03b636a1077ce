"""Vanilla diffusion decoding: every denoising step is a pass over prompt and canvas.

Source: S. Nie et al., "Large Language Diffusion Models" (LLaDA), 2025: semi-autoregressive remasking with low
confidence, `generate.py` of the repository [C], by the digest of dLLM-Serve, A3.
Claim: none; the baseline of all others.
Modelled: blocks from the left, `tokens_per_step` positions a step, or with a `threshold` all whose confidence passes it
(Fast-dLLM's parallel decoding without its cache); static padded batches; logits of all positions, which the sampler
takes to float64: bf16, the copy, its softmax (18 bytes live, 40 moved) [C].
Simplified: the batch is as large as memory and `max_num_seqs` let it; `max_num_batched_tokens` has no counterpart; the
whole canvas is decoded, an end-of-text token does not end a request.
Reproduces: the first and the third row of `simserve reproduce fast_dllm_a100`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.arch.diffusion import Traits
from simserve.policies.denoising import Lockstep
from simserve.sim.plan import knob
from simserve.systems import scheduler


@scheduler("vanilla_dllm")
@dataclass
class VanillaDllm(Lockstep):
    """Full passes over a padded batch."""

    tokens_per_step: int = knob(1, "positions that a step commits at least: canvas / steps", low=1, high=64)
    threshold: float = knob(0.0, "confidence above which a step commits a position; 0: none", low=0.0, high=1.0)

    @property
    def traits(self) -> Traits:
        """No cache."""
        return self.with_cache(0.0)
