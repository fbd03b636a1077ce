"""Static (request-level) batching: a batch runs until its last request is finished.

Source: the baseline of G.-I. Yu et al., "Orca", OSDI 2022, section 2, as in NVIDIA FasterTransformer; also the
`faster_transformer` scheduler of https://github.com/microsoft/sarathi-serve (Apache-2.0) [known].
Claim: requests that finish early leave their seats empty and arrivals wait for the slowest of the batch.
Modelled: batches of at most `max_num_seqs` requests in order of arrival; all prompts, then all decodes; nobody joins
a batch that runs; memory for prompt and `max_new_tokens` is held from the start [known].
Simplified: a request answers when it is finished, not when its batch is; no padding of prompts or finished seats
(the step costs what it computes); prompts beyond `max_num_batched_tokens` take several steps; a request that
outlives `max_new_tokens` grows by blocks, and the last of the batch gives way if there are none.
Knobs: `max_num_seqs` is the engine's max batch size; `max_num_batched_tokens` has no counterpart there;
`max_new_tokens` stands for the limit that clients declare [guessed].
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
from simserve.systems import scheduler


@scheduler("static")
@dataclass
class Static:
    """Batches that nobody joins."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=65536)
    max_num_seqs: int = knob(8, "requests in a batch", low=1, high=4096)
    max_new_tokens: int = knob(1024, "output tokens to hold memory for; 0: the whole cache", low=0, high=65536)

    def plan(self, view: View) -> Plan:
        """A new batch if none runs; else its prompts; else its decodes."""
        plan = Plan()
        if not view.running:
            self._form(view, plan)
            return plan
        continue_prompts(view, plan, self.max_num_batched_tokens)
        if not plan.tokens:
            decode_running(view, plan, self.max_num_batched_tokens, spare_prompts=True)
        promise(view, plan)
        plan.arrival_breaks = False
        return plan

    def _form(self, view: View, plan: Plan) -> None:
        """The first requests that fit; those whose prompts exceed the budget compute them in later steps."""
        budget = self.max_num_batched_tokens
        for request in queue(view):
            slots = reservation(view.blocks, request, self.max_new_tokens)
            if elsewhere(view, request):
                if not fetch(view, plan, request, slots=slots):
                    return
                continue
            if len(plan.admitted) == self.max_num_seqs or not view.blocks.fits(request, slots, 0):
                return
            new = min(request.num_tokens - view.blocks.cached_tokens(request), budget)
            admit(view, plan, request, new, slots)
            budget -= new
