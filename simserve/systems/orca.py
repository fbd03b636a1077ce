"""Orca: iteration-level scheduling with memory reserved for the longest a request may become.

Source: G.-I. Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models", OSDI 2022,
algorithm 1; also the `orca` scheduler of https://github.com/microsoft/sarathi-serve (Apache-2.0) [known].
Claim: requests join and leave the batch at every iteration, so nobody waits for the slowest of a batch.
Modelled: first come, first served; whole prompts in one batch with decodes (selective batching); at most
`max_num_seqs` requests; a request enters only if slots for all tokens that it may reach are free [known].
Simplified: one pipeline stage; a prompt that exceeds what is left of `max_num_batched_tokens` waits for a later step,
and one longer than all of it is cut; a request that outlives its reservation grows by blocks, and the last one
that decodes is preempted if there are none (the engine would have ended it).
Knobs: `max_num_seqs` is the paper's max_bs; the blocks are its n_slots; `max_new_tokens` is max_tokens less the
prompt, which clients declare there [guessed]; with 0, `max_model_len` is reserved whole: "Orca (Max)" of the
PagedAttention paper [known]. `max_num_batched_tokens` has no counterpart.
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import (
    admit,
    continue_prompts,
    decode_running,
    elsewhere,
    fetch,
    promise,
    queue,
    reservation,
)
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("orca")
@dataclass
class Orca:
    """Algorithm 1 of the paper, on blocks."""

    max_num_batched_tokens: int = knob(8192, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    max_new_tokens: int = knob(1024, "output tokens to reserve; 0: max_model_len whole", low=0, high=65536)
    max_model_len: int | None = knob(None, "tokens to reserve if max_new_tokens is 0; none: the whole cache")

    def plan(self, view: View) -> Plan:
        """Decodes, a prompt that was cut, then whole prompts in order of arrival."""
        plan = Plan()
        left = decode_running(view, plan, self.max_num_batched_tokens, spare_prompts=True)
        left = continue_prompts(view, plan, left)
        if not plan.preempted:
            self._admit(view, plan, left)
        promise(view, plan)
        return plan

    def _admit(self, view: View, plan: Plan, left: int) -> None:
        """Whole prompts whose reservation fits; no skipping."""
        seats = self.max_num_seqs - len(view.running)
        for request in queue(view):
            if elsewhere(view, request):
                if not fetch(view, plan, request, slots=self._slots(view, request)):
                    return
                continue
            new = request.num_tokens - view.blocks.cached_tokens(request)
            # by all its tokens: cached ones may be evicted, and that must not let it in
            waits = new > left and request.num_tokens <= self.max_num_batched_tokens
            slots = self._slots(view, request)
            if not seats or not left or waits or not view.blocks.fits(request, slots, 0):
                return
            admit(view, plan, request, min(new, left), slots)
            seats -= 1
            left -= min(new, left)

    def _slots(self, view: View, request: Seen) -> int:
        """Tokens to hold memory for."""
        if self.max_new_tokens or self.max_model_len is None:
            return reservation(view.blocks, request, self.max_new_tokens)
        return reservation(view.blocks, request, max(1, self.max_model_len - request.prompt_tokens))
