"""dLLM-Cache: features of the prompt are recomputed seldom, those of the response more often, some of them each step.

Source: Z. Liu et al., "dLLM-Cache: Accelerating Diffusion Large Language Models with Adaptive Caching", by the digest
of dLLM-Serve, A3; refresh intervals of about 100 and 8 steps [M], a quarter of the response by similarity [M].
Claim: up to 9 times fewer FLOP without loss.
Modelled: a pass over everything each `prompt_interval` steps, over the canvas each `response_interval` steps, else
over `update_ratio` of the canvas and, of the rest, its value projections, by which stale tokens are found (a 13th of a
LLaDA layer's weights [derived]); keys, values, attention and MLP outputs of all tokens in all layers are kept, four
rows for the two of a KV cache; one position a step; static padded batches; logits of all positions that are computed,
in float64 in the sampler.
Simplified: that 13th is LLaDA's, of models with few KV heads it is less (Dream: a 127th); the batch is as large as
memory and `max_num_seqs` let it; `max_num_batched_tokens` has no counterpart.
Reproduces: a baseline of `simserve reproduce dllm_serve_4090`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simserve.arch.diffusion import Traits
from simserve.policies.denoising import Batch, Lockstep
from simserve.sim.denoise import PassKind
from simserve.sim.plan import knob
from simserve.systems import scheduler

VALUE_SHARE = 4096 / (4 * 4096 + 3 * 12288)  # of a LLaDA layer's weights: the value projection [derived]


@scheduler("dllm_cache")
@dataclass
class DllmCache(Lockstep):
    """A padded batch at a time, with cached features."""

    prompt_interval: int = knob(100, "steps between passes over everything", low=1, high=1000)
    response_interval: int = knob(8, "steps between passes over the canvas", low=1, high=1000)
    update_ratio: float = knob(0.25, "share of the canvas that is recomputed in every step", low=0.0, high=1.0)

    def work(self, batch: Batch) -> tuple[PassKind, int, int]:
        """Everything, the canvas, or what changed most in it."""
        if batch.steps_done % self.prompt_interval == 0:
            return PassKind.BUILD, batch.length, 0
        if batch.steps_done % self.response_interval == 0:
            return PassKind.BUILD, batch.canvas, batch.prompt
        share = self.update_ratio + (1 - self.update_ratio) * VALUE_SHARE
        queries = max(1, -int(-share * batch.canvas // 1))
        return PassKind.REUSE, queries, batch.length - queries

    @property
    def traits(self) -> Traits:
        """Keys, values and two rows of the model's width per token and layer; moved as in Fast-dLLM [guessed]."""
        return replace(self.with_cache(1.0, kv_moves=3.0), kept_rows=2)
