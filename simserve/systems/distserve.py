"""DistServe: prefill and decode on GPUs of their own, KV pulled by the decode side.

Source: Y. Zhong et al., "DistServe: Disaggregating Prefill and Decoding for Goodput-optimized Large Language Model
Serving", OSDI 2024, and https://github.com/LLMServe/DistServe (Apache-2.0), `context_stage_scheduler.py` and
`decoding_stage_scheduler.py` [known].
Claim: prefill and decode do not slow one another down, and each pool takes the parallelism that suits its own SLO.
Modelled [known]: prefill batches of whole prompts, first come, first served, up to a token budget, as far as blocks
are free beside those of prompts whose KV was not fetched yet (the prefill pool is the queue in front of the decode
pool); a decode instance accepts a request while the prompts that it accepted and does not decode yet hold less than 5 %
of its blocks; one token each; on a shortage the last request is swapped to the host, and swapped ones come back first.
Simplified: one pipeline stage; what one instance fetches in a step moves side by side, not one by one; without swap
space, or where it is full, a victim is recomputed on the decode instance; a prompt longer than the budget runs alone,
in pieces; placement is the study's, or the search's, not the paper's algorithms 1 and 2.
Knobs: `max_num_batched_tokens` is its max_tokens_per_batch (the paper's L_m), `max_num_seqs` its max_batch_size.
Reproduces: studies/papers/distserve_opt.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.policies.batching import admit, continue_prompts, elsewhere, fetch, hold, preempt, promise, queue
from simserve.sim.plan import Plan, Pool, Role, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler, system


@system("distserve")
@dataclass
class DistServePools:
    """A prefill and a decode pool; requests go to the least loaded instance of each."""

    def pools(self) -> Sequence[Pool]:
        """`prefill` and `decode`."""
        return (
            Pool("prefill", Role.PREFILL, scheduler="distserve", router="least_loaded"),
            Pool("decode", Role.DECODE, scheduler="distserve", router="least_loaded"),
        )


@scheduler("distserve")
@dataclass
class DistServe:
    """Both stage schedulers: which one acts follows from where the KV of the requests is."""

    max_num_batched_tokens: int = knob(8192, "tokens of prompts that one step may take", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests in a batch", low=1, high=4096)
    waiting_block_prop_threshold: float = knob(
        0.05, "share of blocks that accepted prompts may hold before they decode", low=0.0, high=1.0
    )

    def plan(self, view: View) -> Plan:
        """The prompt under way, or a batch of prompts, or a decode step."""
        plan = Plan()
        if continue_prompts(view, plan, self.max_num_batched_tokens) and not plan.tokens:
            self._prefill(view, plan)
            if not plan.tokens:
                self._decode(view, plan)
                self._accept(view, plan)
        promise(view, plan)
        plan.repeats = plan.repeats and not (plan.swapped_in or plan.swapped_out)
        plan.arrival_breaks = True  # an arrival may be fetched before one that waits to be recomputed
        return plan

    def _prefill(self, view: View, plan: Plan) -> None:
        """Whole prompts in order, within budget, seats and blocks; one that exceeds the budget alone."""
        left, seats = self.max_num_batched_tokens, self.max_num_seqs - len(view.running)
        for request in queue(view):
            new = request.num_tokens - view.blocks.cached_tokens(request)
            if request.blocks and new == 1:
                continue  # handed over and fetched: it joins the decodes
            alone = not plan.tokens and new > self.max_num_batched_tokens
            if request.remote_tokens or not seats or (new > left and not alone):
                return
            if elsewhere(view, request) and fetch(view, plan, request):
                continue
            if not view.blocks.fits(request, request.num_tokens, 0):
                return
            admit(view, plan, request, min(new, left), request.num_tokens)
            left -= min(new, left)
            seats -= 1

    def _decode(self, view: View, plan: Plan) -> None:
        """One token for each that runs, then for swapped and fetched ones that fit into the batch."""
        order = list(view.running.values())
        index = 0
        while index < min(len(order), self.max_num_batched_tokens):
            while not hold(view.blocks, order[index], order[index].num_tokens):
                victim = order.pop()
                self._give_way(view, plan, victim)
                if len(order) <= index:
                    return
            plan.tokens[order[index]] = 1
            index += 1
        if plan.preempted or plan.swapped_out:
            return
        self._join(view, plan, min(self.max_num_seqs, self.max_num_batched_tokens) - len(order))

    def _join(self, view: View, plan: Plan, seats: int) -> None:
        """Swapped requests first, then fetched ones, in order."""
        for request in list(view.swapped.values())[: max(seats, 0)]:
            if view.swap is None or not view.blocks.fits(request, request.num_tokens, 0):
                return
            view.blocks.reserve(request, request.num_tokens)
            view.swap.give_back(request)
            plan.swapped_in.append(request)
            plan.tokens[request] = 1
            seats -= 1
        for request in list(view.loaded.values())[: max(seats, 0)]:
            if request.num_tokens - request.computed_tokens == 1:
                admit(view, plan, request, 1)

    def _give_way(self, view: View, plan: Plan, victim: Seen) -> None:
        """Swap the victim out if the host has room, else drop its KV."""
        if view.swap is not None and view.swap.take(victim):
            view.blocks.release(victim)
            plan.swapped_out.append(victim)
        else:
            preempt(view, plan, victim)

    def _accept(self, view: View, plan: Plan) -> None:
        """Fetch what was handed over, in order, while what was accepted and does not decode holds few blocks."""
        blocks = view.blocks
        accepted: list[Seen] = [r for r in (*view.loading.values(), *view.loaded.values()) if r not in plan.tokens]
        held = sum(blocks.count(r.prompt_tokens) for r in accepted)
        for request in queue(view):
            if not request.remote_tokens:
                continue
            if held >= blocks.total * self.waiting_block_prop_threshold and accepted:
                return
            if not fetch(view, plan, request):
                return
            accepted.append(request)
            held += blocks.count(request.prompt_tokens)
