"""vLLM V1 continuous batching (scheduler of version 0.33.0).

Source: vLLM, https://github.com/vllm-project/vllm (Apache-2.0), `vllm/v1/core/sched/scheduler.py`; rules
confirmed by step logs of the running scheduler [known].
Claim: one budget of tokens per step serves running requests first, then waiting ones in order; prefill,
chunked prefill and decode are one mechanism; KV is paged, and on a shortage the last request is preempted
and recomputed.
Modelled: chunked prefill, `max_num_batched_tokens`, `max_num_seqs`, `long_prefill_token_threshold`,
`scheduler_reserve_full_isl`, watermark, prefix caching, recompute preemption, FCFS and priority policies; by the
deployment's `async_scheduling`, planning while the step before runs: what arrives in a step misses the next.
Simplified: speculative decoding (`num_speculative_tokens`) is in the price of a token, plans have one a request; KV
from connectors is fetched into blocks for the whole request.
Reproduces: the step logs of the real scheduler, step by step (`python -m simserve.testing.oracle`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from simserve.policies.batching import elsewhere, fetch, queue
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("vllm")
@dataclass
class Vllm:
    """vLLM V1's `schedule()`; defaults are the engine's for large GPUs [known]."""

    max_num_batched_tokens: int = knob(8192, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    policy: str = knob("fcfs", "order of waiting and of preemption", choices=("fcfs", "priority"))
    long_prefill_token_threshold: int = knob(0, "cap on one request per step; 0: none", low=0, high=65536)
    scheduler_reserve_full_isl: bool = knob(True, "admit only what fits whole", choices=(True, False))
    watermark: float = knob(0.0, "share of blocks kept free when admitting", low=0.0, high=0.5)

    def plan(self, view: View) -> Plan:
        """Running requests in order, then (if nothing was preempted) waiting ones."""
        plan = Plan()
        threshold = self._threshold(view)
        left = self._schedule_running(view, plan, threshold)
        scheduled = len(plan.tokens)
        if not plan.preempted:
            plan.repeats = scheduled == len(view.running) and self.max_num_batched_tokens - left == scheduled
        waiting = len(view.waiting) + len(view.preempted) + len(view.loaded)
        if waiting and not plan.preempted:
            self._admit_waiting(view, plan, left, threshold)
            plan.repeats = plan.repeats and not plan.admitted
        plan.arrival_breaks = self.policy != "fcfs" or waiting == len(plan.fetched)
        return plan

    def _schedule_running(self, view: View, plan: Plan, threshold: int) -> int:
        """Step 1 of the rules; returns the budget that is left."""
        tokens, reserve, size = plan.tokens, view.blocks.reserve, view.blocks.block_size
        budget = self.max_num_batched_tokens
        for request in view.running.values():
            target = request.num_tokens
            new = target - request.computed_tokens
            if new == 1:
                # The ledger hears of a new block, and of one that becomes full, which enters the prefix cache.
                fits = (target % size and target <= request.blocks * size) or reserve(request, target)
            else:
                new = self._capped(new, budget, threshold)
                if not new:
                    continue
                fits = reserve(request, request.computed_tokens + new)
            if not fits:
                return self._on_shortage(view, plan, request, budget)
            tokens[request] = new
            budget -= new
            if not budget:
                break
        return budget

    def _on_shortage(self, view: View, plan: Plan, first: Seen, budget: int) -> int:
        """Go on from the request `first`, for which there are no blocks; returns the budget that is left."""
        tokens, threshold, order = plan.tokens, self._threshold(view), list(view.running.values())
        index = order.index(first)
        while index < len(order) and budget > 0:
            request = order[index]
            index += 1
            new = self._capped(request.num_tokens - request.computed_tokens, budget, threshold)
            target = request.computed_tokens + new
            if not new:
                continue
            if not view.blocks.reserve(request, target):
                scheduled = len(tokens)
                budget += self._preempt_until_fits(view, plan, order, request, target)
                index -= scheduled - len(tokens)
                if request.blocks * view.blocks.block_size < target:
                    if self.policy == "fcfs":
                        break
                    index -= 1
                    continue
            tokens[request] = new
            budget -= new
        return budget

    @staticmethod
    def _capped(new: int, budget: int, threshold: int) -> int:
        """Tokens of a request's `new` that one step takes."""
        return min(new, budget, threshold) if threshold else min(new, budget)

    def _preempt_until_fits(self, view: View, plan: Plan, order: list[Seen], request: Seen, target: int) -> int:
        """Preempt victims until `request` has its blocks or is its own victim; returns budget given back."""
        returned = 0
        while not view.blocks.reserve(request, target):
            victim = order[-1] if self.policy == "fcfs" else max(order, key=_priority)
            order.remove(victim)
            view.blocks.release(victim)
            plan.preempted.append(victim)
            returned += plan.tokens.pop(victim, 0)
            if victim is request:
                break
        return returned

    def _admit_waiting(self, view: View, plan: Plan, budget: int, threshold: int) -> None:
        """Step 2 of the rules: the head of the waiting requests, as long as it fits; no skipping."""
        blocks, running = view.blocks, len(view.running)
        watermark = int(self.watermark * blocks.total)
        for request in self._waiting(view):
            if budget <= 0 or running >= self.max_num_seqs:
                return
            if elsewhere(view, request):
                if not fetch(view, plan, request, headroom=watermark if running else 0):
                    return
                continue
            hit = request.computed_tokens or blocks.cached_tokens(request)
            new = min(request.num_tokens - hit, budget)
            if threshold:
                new = min(new, threshold)
            whole = request.num_tokens if self.scheduler_reserve_full_isl else hit + new
            if not request.blocks and not blocks.fits(request, whole, watermark if running else 0):
                return
            if hit and not request.blocks:
                plan.cached[request] = blocks.attach(request)
            blocks.reserve(request, hit + new)
            plan.admitted.append(request)
            plan.tokens[request] = new
            budget -= new
            running += 1

    def _waiting(self, view: View) -> Iterator[Seen]:
        """Requests in the order in which they may be admitted; those whose KV was fetched hold blocks already."""
        if self.policy != "priority":
            return queue(view)
        return chain(view.loaded.values(), sorted([*view.waiting.values(), *view.preempted.values()], key=_priority))

    def _threshold(self, view: View) -> int:
        """The cap on one request's tokens, which a lone request does not feel."""
        if not self.long_prefill_token_threshold:
            return 0
        others = len(view.running) + len(view.waiting) + len(view.preempted)
        return self.long_prefill_token_threshold if others > 1 else 0


def _priority(request: Seen) -> tuple[int, int, int]:
    return request.priority, request.arrival_ns, request.id
