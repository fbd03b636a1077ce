"""TensorRT-LLM: in-flight batching behind a capacity scheduler.

Source: NVIDIA TensorRT-LLM, https://github.com/NVIDIA/TensorRT-LLM (Apache-2.0), `capacityScheduler.cpp` and
`microBatchScheduler.cpp` of version 1.x, and its documentation of scheduler policies [known].
Claim: a request starts only if the cache can drive it and all that run to their declared ends (guaranteed_no_evict),
so nothing is ever recomputed; or as soon as its prompt fits (max_utilization), and the youngest pause on a shortage.
Modelled: one token budget, generation first; contexts whole or cut to multiples of the block size; the
guarantee counted in blocks, which are taken as tokens come; pausing from the end of the order of arrival, with
recomputation; a paused request keeps its place in that order [known].
Simplified: one-step look-ahead, no beams, LoRA or cross attention; its overlap is the deployment's
`async_scheduling`, and drafts (`num_speculative_tokens`) are in the price of a token; a request is not delayed for the
prefix that another is about to compute; the budget of contexts is what the generations at the start of the step leave;
a context longer than the budget is cut even with chunking off (the engine rejects it); batch_wait_* [known] hold whole
contexts back beside generations until enough tokens are together, under guaranteed_no_evict alone; so does
attention_dp_config with enable_balance [known]: ranks wait for contexts on all of them, taken to be there when as many
wait as it takes in the mean to fall on each rank (ranks x (1 + 1/2 + ... + 1/ranks)) [derived]; a request that
outlives `max_new_tokens` grows by blocks, and the last one pauses if there are none (the engine would have ended it).
Knobs: `max_num_batched_tokens` is its max_num_tokens (8192 [known]), `max_num_seqs` its max_batch_size (2048 there);
`max_new_tokens` stands for the max_tokens of requests [guessed].
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice

from simserve.policies.batching import (
    admit,
    continue_prompts,
    decode_running,
    elsewhere,
    fetch,
    hold,
    hold_next,
    in_prompt,
    kept_blocks,
    preempt,
    promise,
    queue,
    reservation,
)
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler


@scheduler("trtllm")
@dataclass
class TrtLlm:
    """Capacity scheduler and micro batch scheduler in one pass."""

    max_num_batched_tokens: int = knob(8192, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    capacity_policy: str = knob(
        "guaranteed_no_evict", "when a request may start", choices=("guaranteed_no_evict", "max_utilization")
    )
    enable_chunked_context: bool = knob(True, "cut prompts to the budget", choices=(True, False))
    max_new_tokens: int = knob(1024, "output tokens to guarantee; 0: the whole cache", low=0, high=65536)
    batch_wait_timeout_iters: int = knob(0, "steps for which contexts wait for company", low=0, high=1000)
    batch_wait_max_tokens_ratio: float = knob(0.0, "share of the budget that need not wait", low=0.0, high=1.0)
    attention_dp_timeout_iters: int = knob(0, "steps that ranks wait for contexts on all; 0: none", low=0, high=1000)
    attention_dp_size: int = knob(1, "ranks that wait for one another", low=1, high=1024)
    _held_steps: int = field(default=0, init=False)
    _apart_steps: int = field(default=0, init=False)
    _watched: tuple[Seen, int] | None = field(default=None, init=False)

    def plan(self, view: View) -> Plan:
        """Generations, contexts under way, new contexts."""
        plan = Plan()
        if self.capacity_policy == "max_utilization":
            self._utilize(view, plan)
        else:
            left = decode_running(view, plan, self.max_num_batched_tokens)
            left = continue_prompts(view, plan, left, self._unit(view))
            starts = not plan.preempted and left and len(view.running) < self.max_num_seqs
            apart = self._ranks_apart(view, plan)
            if starts and not apart and not self._holds_back(view, plan, left):
                self._guarantee(view, plan, left)
        promise(view, plan)
        if (self.batch_wait_timeout_iters or self.attention_dp_timeout_iters) and view.waiting:
            plan.repeats = False  # the wait is counted in plans
        return plan

    def _holds_back(self, view: View, plan: Plan, left: int) -> bool:
        """Whether the contexts that could start wait another step for company: only beside generations."""
        limit = self.batch_wait_max_tokens_ratio * self.max_num_batched_tokens
        beside = sum(plan.tokens.values())
        if not view.waiting or not beside or self._held_steps >= self.batch_wait_timeout_iters:
            self._held_steps = 0
            return False
        seats = self.max_num_seqs - len(view.running)
        fresh = sum(request.num_tokens for request in islice(queue(view), seats))
        if beside + min(fresh, left) >= limit:
            self._held_steps = 0
            return False
        self._held_steps += 1
        return True

    def _ranks_apart(self, view: View, plan: Plan) -> bool:
        """Whether new contexts wait until every rank has one, or the steps without have come to the limit.

        Not while a rank generates nothing. The steps are counted also where nobody waits (a leap is many).
        """
        ranks, limit = self.attention_dp_size, self.attention_dp_timeout_iters
        if ranks == 1 or not limit:
            return False
        steps = self._watched[0].num_tokens - self._watched[1] if self._watched is not None else 1
        first = next(iter(plan.tokens), None)
        self._watched = None if first is None or in_prompt(first) else (first, first.num_tokens)
        self._apart_steps += max(steps, 1)
        together = len(view.waiting) >= round(ranks * sum(1 / i for i in range(1, ranks + 1)))
        if together or len(plan.tokens) < ranks or (self._apart_steps >= limit and view.waiting):
            self._apart_steps = 0
            return False
        self._apart_steps %= limit
        return True

    def _unit(self, view: View) -> int:
        """A cut context is a multiple of this."""
        return min(view.blocks.block_size, self.max_num_batched_tokens)

    def _cut(self, view: View, new: int, left: int) -> int:
        """Tokens of a context of `new` tokens that may run in this step."""
        if new <= left:
            return new
        alone = left == self.max_num_batched_tokens
        if not self.enable_chunked_context and not alone:
            return 0
        return left // self._unit(view) * self._unit(view)

    def _guarantee(self, view: View, plan: Plan, left: int) -> None:
        """New contexts in order, as long as all that run can reach their declared ends."""
        blocks, seats = view.blocks, self.max_num_seqs - len(view.running)
        promised = sum(self._to_come(view, request) for request in view.running.values())
        for request in islice(queue(view), seats):
            if elsewhere(view, request):
                slots = reservation(blocks, request, self.max_new_tokens)
                if not fetch(view, plan, request, slots=slots, headroom=promised):
                    return
                continue
            whole = request.num_tokens - blocks.cached_tokens(request)
            new = self._cut(view, whole, left)
            limit = reservation(blocks, request, self.max_new_tokens)
            if not new or not blocks.fits(request, limit, promised):
                return
            admit(view, plan, request, new)
            if new < whole:
                return
            promised += self._to_come(view, request)
            left -= new

    def _to_come(self, view: View, request: Seen) -> int:
        """Blocks that a request may still ask for."""
        limit = reservation(view.blocks, request, self.max_new_tokens)
        return max(0, view.blocks.count(limit) - request.blocks)

    def _utilize(self, view: View, plan: Plan) -> None:
        """All requests in order of arrival; who does not fit takes from the youngest that has started."""
        started = sorted([*view.running.values(), *view.preempted.values()], key=_arrival)
        new = chain(view.loaded.values(), view.waiting.values())
        order = [*started, *islice(new, max(0, self.max_num_seqs - len(started)))]
        prompts = [request for request in view.running.values() if in_prompt(request)]
        left = self.max_num_batched_tokens - len(view.running) + len(prompts)
        index, end = 0, len(order)
        while index < end:
            request = order[index]
            if request.id in view.running and not in_prompt(request):
                fits = self._generate(view, plan, request, prompts)
            else:
                fits, left = self._start(view, plan, request, prompts, left)
            if fits:
                index += 1
                continue
            last = next((i for i in range(end - 1, index - 1, -1) if order[i].id in view.running), None)
            if last is None:
                return
            preempt(view, plan, order[last])
            end = last

    def _generate(self, view: View, plan: Plan, request: Seen, prompts: list[Seen]) -> bool:
        """The next token of a request; False if there is no block for it."""
        if len(plan.tokens) < self.max_num_batched_tokens:
            if not hold_next(view.blocks, request, prompts):
                return False
            plan.tokens[request] = 1
        return True

    def _start(self, view: View, plan: Plan, request: Seen, prompts: list[Seen], left: int) -> tuple[bool, int]:
        """A context, new or under way; (False, left) if its blocks do not fit. A cut one closes the budget."""
        blocks, runs = view.blocks, request.id in view.running
        if not runs and left > 0 and elsewhere(view, request):
            return fetch(view, plan, request, headroom=kept_blocks(blocks, prompts)), left
        computed = request.computed_tokens if runs else blocks.cached_tokens(request)
        whole = request.num_tokens - computed
        new = self._cut(view, whole, left) if left > 0 else 0
        if not new:
            return True, 0
        if runs:
            hold(blocks, request, computed + new)
            plan.tokens[request] = new
        elif blocks.fits(request, request.num_tokens, kept_blocks(blocks, prompts)):
            admit(view, plan, request, new)
        else:
            return False, left
        return True, left - new if new == whole else 0


def _arrival(request: Seen) -> tuple[int, int]:
    return request.arrival_ns, request.id
