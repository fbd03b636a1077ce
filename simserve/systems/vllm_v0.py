"""vLLM 0.x: prefill first, whole prompts, preemption by recomputation or by swapping.

Source: W. Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP
2023, and the default scheduler of vLLM 0.x [known from the paper; details recalled].
Claim: paged KV lets many more requests run at once; when blocks run out the last request is preempted, and its KV
is either recomputed or swapped to host memory over PCIe.
Modelled: a step is either prompts only or decodes only, prompts first; whole prompts within the token budget; 1 %
watermark on admission; last in, first preempted; swapped requests come back before any new prompt is admitted;
swap copies run before their step and delay it.
Simplified: no chunked prefill, no beam search, no delay factor, one sequence per request.
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from dataclasses import dataclass

from simserve.policies.batching import elsewhere, fetch, queue
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("vllm_v0")
@dataclass
class VllmV0:
    """The scheduler of vLLM 0.x; a prompt longer than the budget runs alone, in chunks of the budget."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    preemption_mode: str = knob("recompute", "what becomes of a victim's KV", choices=("recompute", "swap"))
    watermark: float = knob(0.01, "share of blocks kept free when admitting [known]", low=0.0, high=0.5)

    def plan(self, view: View) -> Plan:
        """Prompts if any fits (and nothing is swapped out); else decodes, then requests from the host."""
        plan = Plan()
        unfinished = [r for r in view.running.values() if r.num_tokens - r.computed_tokens > 1]
        if unfinished:
            self._continue_prompt(plan, view, unfinished[0])
            return plan
        if not view.swapped:
            self._prompts(plan, view)
        if not plan.tokens:
            self._decodes(plan, view)
        waiting = len(view.waiting) + len(view.preempted) + len(view.swapped) + len(view.loaded) - len(plan.fetched)
        plan.repeats = not plan.admitted and not plan.preempted and not plan.swapped_out and not plan.swapped_in
        plan.arrival_breaks = waiting == 0
        return plan

    def _continue_prompt(self, plan: Plan, view: View, request: Seen) -> None:
        """The next piece of a prompt that is longer than the budget."""
        new = min(request.num_tokens - request.computed_tokens, self.max_num_batched_tokens)
        view.blocks.reserve(request, request.computed_tokens + new)
        plan.tokens[request] = new

    def _prompts(self, plan: Plan, view: View) -> None:
        """Whole prompts in order of arrival, preempted requests first."""
        blocks, running = view.blocks, len(view.running)
        watermark = int(self.watermark * blocks.total)
        budget = self.max_num_batched_tokens
        for request in list(queue(view)):
            if elsewhere(view, request):
                if not fetch(view, plan, request, headroom=watermark if running else 0):
                    return
                continue
            hit = blocks.cached_tokens(request)
            new = request.num_tokens - hit
            alone = not plan.tokens and new > self.max_num_batched_tokens
            too_many = running >= self.max_num_seqs or (new > budget and not alone)
            if too_many or not blocks.fits(request, request.num_tokens, watermark if running else 0):
                return
            if hit and not request.blocks:
                plan.cached[request] = blocks.attach(request)
            blocks.reserve(request, request.num_tokens)
            plan.admitted.append(request)
            plan.tokens[request] = min(new, budget)
            budget -= plan.tokens[request]
            running += 1

    def _decodes(self, plan: Plan, view: View) -> None:
        """One token for each running request; the last ones make room, and come back when there is room again."""
        order = list(view.running.values())
        index = 0
        while index < min(len(order), self.max_num_batched_tokens):
            request = order[index]
            while not view.blocks.reserve(request, request.num_tokens):
                victim = order.pop()
                self._preempt(plan, view, victim)
                if victim is request:
                    return
            plan.tokens[request] = 1
            index += 1
        if not plan.preempted and not plan.swapped_out:
            self._swap_in(plan, view, len(order))

    def _preempt(self, plan: Plan, view: View, victim: Seen) -> None:
        """Swap the victim out if asked and if the host has room, else drop its KV."""
        swaps = self.preemption_mode == "swap" and view.swap is not None and view.swap.take(victim)
        view.blocks.release(victim)
        (plan.swapped_out if swaps else plan.preempted).append(victim)

    def _swap_in(self, plan: Plan, view: View, running: int) -> None:
        """Requests from the host, the first one that went first, as long as they fit."""
        watermark = int(self.watermark * view.blocks.total)
        for request in view.swapped.values():
            full = running >= self.max_num_seqs or len(plan.tokens) >= self.max_num_batched_tokens
            room = view.blocks.fits(request, request.num_tokens, watermark if running else 0)
            if full or view.swap is None or not room:
                return
            view.blocks.reserve(request, request.num_tokens)
            view.swap.give_back(request)
            plan.swapped_in.append(request)
            plan.tokens[request] = 1
            running += 1
