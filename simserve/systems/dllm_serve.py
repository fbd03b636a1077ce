"""dLLM-Serve: phase-multiplexed serving of masked-diffusion language models on a budget of logits.

Source: dLLM-Serve, arXiv 2512.17077 (ICS 2026): abstract [P] and released code [C], by the digest; the evaluation was
not readable, so its workloads are not known.
Claim: refreshes (compute-bound) and reuses (memory-bound) packed in one batch, logits computed for the block alone and
in serial sub-batches, and a KV cache that keeps a share of the tokens, serve 1.6 to 1.8 times what baselines serve.
Modelled: a request's states FULL, BUILD and REUSE with their query tokens, keys and rows of logits; strict first come,
first served on `max_num_batched_tokens` query tokens and `max_num_seqs`, who runs before who waits; KV of ceil(r S)
tokens in whole pages of 256, reserved at admission; the KV pool is what a full step's peak leaves, with logits a
block's rows and `max_num_logits` of them at a time (Logit-Aware Activation Budgeting), or, without `prune_logits`, of
all query tokens; cached keys and values cross the memory bus `kv_moves` times, 5 in the released code and 1 for an
ideal kernel [D].
Simplified: a request that is passed over keeps its place also behind one admitted in the same step, and its seat;
scores of Head-Centric Sparse Attention are left out of the price (negligible), its gather is in `kv_moves`; the logit
budget blocks no admission, as in the code [C].
Knobs: names are the code's, but for `max_num_logits` (`max_logprobs` there) and `retention_ratio`.
Reproduces: throughput against the strongest baseline on RTX 4090 and L40S, `simserve reproduce dllm_serve_4090`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from simserve.arch.diffusion import Traits
from simserve.policies.denoising import Phased, Work
from simserve.sim.plan import knob
from simserve.sim.request import Seen
from simserve.systems import scheduler

NAIVE_COPIES = 3 * 2 + 4  # of a logit without pruning: flat, padded and softmax in bf16, noise in fp32 [C]


@scheduler("dllm_serve")
@dataclass
class DllmServe(Phased):
    """See the module docstring."""

    prune_logits: bool = knob(True, "logits of the block alone, not of all query tokens", choices=(True, False))

    @property
    def traits(self) -> Traits:
        """Without pruning the logits of all query tokens at once."""
        own = super().traits
        if self.prune_logits:
            return own
        return replace(own, logit_rows="all", max_num_logits=0, logit_copy_bytes=NAIVE_COPIES)

    def next_pass(self, request: Seen) -> Work:
        """As many rows of logits as positions of the block, or as query tokens."""
        tokens, work = super().next_pass(request)
        return tokens, work if self.prune_logits else replace(work, logit_rows=tokens)
