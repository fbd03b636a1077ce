"""InstInfer (InstAttention): KV and the attention of decoding in computational SSDs, the rest on the GPU.

Source: X. Pan et al., "InstAttention: In-Storage Attention Offloading for Cost-Effective Long-Context LLM Inference",
HPCA 2025; preprint "InstInfer", arXiv 2409.04992 [known].
Claim: flash channels inside a drive deliver more than its link, so attending where the KV lies beats loading it; sparse
attention by pages (SparF) reads less still; KV never fills GPU or host memory.
Modelled: static batches that run to completion, as FlexGen's, on which it is built; prompts in GPU batches as large as
memory allows, their KV shipped layer by layer behind the computing; decoding by `simserve/perf/instinfer.py`, dense or
with SparF, over n drives; KV capacity of the drives. A deployment needs `tiers.csd`.
Simplified: weights whole on one GPU; no garbage collection or wear; softmax and top-k are in the engine's rate.
Knobs: `max_num_seqs` is the batch; `max_new_tokens` the declared output; `max_num_batched_tokens` has no counterpart.
Reproduces: OPT-13B on an RTX A6000 beside FlexGen, `simserve reproduce instinfer_a6000`.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import closed_batch
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("instinfer")
@dataclass
class InstInfer:
    """Batches that nobody joins."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=1 << 30)
    max_num_seqs: int = knob(256, "requests in a batch", low=1, high=65536)
    max_new_tokens: int = knob(1024, "output tokens to hold memory for; 0: the whole cache", low=0, high=65536)

    def plan(self, view: View) -> Plan:
        """A new batch if none runs; else its prompts; else its decodes."""
        return closed_batch(
            view, budget=self.max_num_batched_tokens, seats=self.max_num_seqs, max_new_tokens=self.max_new_tokens
        )
