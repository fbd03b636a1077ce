"""Sarathi-Serve: chunked prefill that never stalls decodes.

Source: A. Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI 2024,
algorithm 3, and `sarathi_scheduler.py` of https://github.com/microsoft/sarathi-serve (Apache-2.0) [known].
Claim: a step takes all decodes first and fills what is left of its token budget with prompt chunks, so that a long
prompt delays the decodes beside it by at most one budget.
Modelled: decodes, then prompts under way, then new prompts in order, each cut to what is left of the budget; room for
the whole prompt at admission; 1 % watermark; on a shortage the last running request is recomputed later [known].
Simplified: one pipeline stage, no dynamic chunk sizes; after a preemption nobody is admitted in the same step; a
decode needs a free block only when its block is full (the original asks for one at any time).
Knobs: `max_num_batched_tokens` is its chunk_size, 512 in the paper for strict and 2048 for relaxed targets [known];
`max_num_seqs` its max_num_seqs (128 there).
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import admit, continue_prompts, decode_running, elsewhere, fetch, promise, queue
from simserve.sim.plan import Plan, View, knob
from simserve.systems import scheduler


@scheduler("sarathi")
@dataclass
class Sarathi:
    """Stall-free batches under one token budget."""

    max_num_batched_tokens: int = knob(512, "tokens of a step, decodes included", low=64, high=65536)
    max_num_seqs: int = knob(128, "requests that may run at once", low=1, high=4096)
    watermark: float = knob(0.01, "share of blocks kept free when admitting", low=0.0, high=0.5)

    def plan(self, view: View) -> Plan:
        """Decodes, prompts under way, new prompts."""
        plan = Plan()
        left = decode_running(view, plan, self.max_num_batched_tokens)
        left = continue_prompts(view, plan, left)
        if not plan.preempted:
            self._admit(view, plan, left)
        promise(view, plan)
        return plan

    def _admit(self, view: View, plan: Plan, left: int) -> None:
        """New prompts, the last one cut to the budget; no skipping."""
        blocks, running = view.blocks, len(view.running)
        watermark = int(self.watermark * blocks.total)
        for request in queue(view):
            if left and elsewhere(view, request):
                if not fetch(view, plan, request, headroom=watermark if running else 0):
                    return
                continue
            # a lone request needs no watermark, or a long one would wait forever
            room = blocks.fits(request, request.num_tokens, watermark if running else 0)
            if not left or running == self.max_num_seqs or not room:
                return
            new = min(request.num_tokens - blocks.cached_tokens(request), left)
            admit(view, plan, request, new)
            left -= new
            running += 1
