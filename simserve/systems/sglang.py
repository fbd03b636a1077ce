"""SGLang: prefill first, admission by an estimated share of the declared output, a radix cache.

Source: L. Zheng et al., "SGLang: Efficient Execution of Structured Language Model Programs", NeurIPS 2024, and
https://github.com/sgl-project/sglang (Apache-2.0), `scheduler.py`, `schedule_policy.py`, `schedule_batch.py` of
versions 0.4 and 0.5 [known].
Claim: new prompts run before any decode, which fills the batch quickly; memory for outputs is overcommitted by a
ratio that decays while nothing goes wrong and is estimated anew when requests must be retracted.
Modelled [known]: prompt batches or decode batches, prompts first; one prompt at a time in chunks; mixed chunks; the
token count that admission compares (own prompt and declared output, ratio x declared rest of those that run); a full
batch admits nobody until a request leaves it; linear decay per decode step, reset when idle; retraction of the
shortest outputs, to the back of the queue; longest prefix match, first come first served beyond 128 waiting.
Its overlap of planning and computing is the deployment's `async_scheduling`: what arrives in a step misses the next.
Simplified: the radix tree is the block cache (whole blocks, entered when computed, also those of retracted requests);
budgets count tokens, as with its page size 1, memory counts blocks; no in-batch deprioritisation of shared prefixes,
priorities or LoRA; speculation (`num_speculative_tokens`) is in the price of a token, plans have one a request; with
chunking off, a prompt beyond `max_num_batched_tokens` is still cut; a mixed step that has no blocks for its decodes
leaves them out; nobody is aborted; looks at the inbox are counted in decode steps, a step of prompts is followed by
one, an idle engine looks at once (scheduler-recv-interval [known]).
Knobs: `max_num_batched_tokens` is its chunked_prefill_size (8192 on 80 GB GPUs [known]), `max_num_seqs` its
max_running_requests; `max_new_tokens` stands for what clients declare, and by default is the engine's clip [guessed].
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import takewhile

from simserve.policies.batching import admit, elsewhere, fetch, hold, kept_blocks, preempt, promise
from simserve.sim.plan import Plan, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler

RATIO, FLOOR, DECAY_STEPS = 0.7, 0.14, 600  # SGLANG_INIT_NEW_TOKEN_RATIO, _MIN_.._FACTOR, _DECAY_STEPS [known]
RETRACT_STEPS = 20  # decode steps for which a retraction makes room in its new estimate [known]
CLIP = 4096  # declared output counts up to this [known]
LPM_LIMIT = 128  # longer queues are not sorted [known]


@scheduler("sglang")
@dataclass
class SgLang:
    """`get_next_batch_to_run`, with `PrefillAdder` and `retract_decode`."""

    max_num_batched_tokens: int = knob(8192, "tokens that one step may schedule", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    max_prefill_tokens: int = knob(16384, "prompt tokens a step may batch", low=64, high=65536)
    chunked_prefill: bool = knob(True, "cut prompts to the budget", choices=(True, False))
    enable_mixed_chunk: bool = knob(False, "decodes ride along with prompts", choices=(True, False))
    schedule_policy: str = knob("fcfs", "order of waiting", choices=("fcfs", "lpm"))
    schedule_conservativeness: float = knob(1.0, "factor on the new-token ratio", low=0.1, high=2.0)
    max_new_tokens: int = knob(CLIP, "output tokens that requests declare", low=1, high=65536)
    scheduler_recv_interval: int = knob(1, "decode steps between looks at what has arrived", low=1, high=1000)
    _chunked: Seen | None = field(default=None, init=False)
    _full: bool = field(default=False, init=False)
    _expected: int = field(default=0, init=False)
    _retracted_ns: dict[int, int] = field(default_factory=dict, init=False)
    _start_ratio: float = field(default=-1.0, init=False)
    _decays: int = field(default=0, init=False)
    _watched: tuple[Seen, int] | None = field(default=None, init=False)
    _since_look: int = field(default=0, init=False)
    _looked_ns: int = field(default=-1, init=False)

    def plan(self, view: View) -> Plan:
        """A batch of prompts if there is one, else a batch of decodes."""
        plan = Plan()
        self._look_back(view)
        running = [r for r in view.running.values() if r is not self._chunked]
        if self._since_look % self.scheduler_recv_interval == 0 or not view.running:
            self._looked_ns = view.now_ns
        unread = self._unread(view)
        if self._chunked is not None or (
            not self._full and (len(view.waiting) > unread or view.preempted or view.loaded)
        ):
            self._prefill(view, plan, running)
        if not plan.tokens:
            self._decode(view, plan, running)
        elif self.enable_mixed_chunk:
            self._mix(view, plan, running)
        self._expected = len(view.running) + len(plan.admitted) - len(plan.preempted)
        promise(view, plan)
        plan.repeats = plan.repeats and not unread
        plan.arrival_breaks = not self._full or self.scheduler_recv_interval > 1
        return plan

    def _look_back(self, view: View) -> None:
        """Count the decode steps since the last plan (a leap is many), and see who left."""
        self._since_look = self._since_look if self._watched is not None else 0
        if self._watched is not None:
            request, tokens = self._watched
            self._decays += request.num_tokens - tokens
            self._since_look = (self._since_look + request.num_tokens - tokens) % self.scheduler_recv_interval
            self._watched = None
        if len(view.running) < self._expected or not view.running:
            self._full = False
        first = next(iter(view.waiting.values()), None)
        was_idle = not view.running and not view.preempted and first is not None and first.arrival_ns == view.now_ns
        if self._start_ratio < 0 or was_idle:
            self._start_ratio, self._decays = min(RATIO * self.schedule_conservativeness, 1.0), 0

    def _unread(self, view: View) -> int:
        """Requests that have arrived since the last look."""
        if self._looked_ns == view.now_ns:
            return 0
        newest_first = (request.arrival_ns for request in reversed(tuple(view.waiting.values())))
        return sum(1 for _ in takewhile(lambda arrival_ns: arrival_ns > self._looked_ns, newest_first))

    def _ratio(self) -> float:
        """The share of the declared rest that running requests are expected to use."""
        first = min(RATIO * self.schedule_conservativeness, 1.0)
        decayed = self._start_ratio - self._decays * (first - first * FLOOR) / DECAY_STEPS
        return max(decayed, first * FLOOR) if self._decays else self._start_ratio

    def _declared(self, view: View, request: Seen) -> int:
        """Output tokens that the request declares: bounded by the cache, as the engine bounds them."""
        return min(self.max_new_tokens, view.blocks.total * view.blocks.block_size - 1 - request.prompt_tokens)

    def _prefill(self, view: View, plan: Plan, running: list[Seen]) -> None:
        """The prompt under way, then those that wait, as far as seats, budgets and memory allow."""
        if len(running) >= self.max_num_seqs:
            self._full = True
            return
        ratio, riding = self._ratio(), len(running) if self.enable_mixed_chunk else 0
        offset = riding + ratio * sum(_rest(self._declared(view, r), r) for r in running)
        chunk = self.max_num_batched_tokens - riding
        inputs = self.max_prefill_tokens - riding if self.chunked_prefill else min(chunk, self.max_prefill_tokens)
        if self._chunked is not None:
            request = self._chunked
            new = self._go_on(view, plan, request, chunk)
            if self._chunked is not None:
                return
            chunk, inputs = chunk - new, inputs - new
            offset += min(self._declared(view, request), CLIP)
        self._add(view, plan, len(running), chunk, inputs, offset)

    def _go_on(self, view: View, plan: Plan, request: Seen, chunk: int) -> int:
        """The next piece of the prompt under way; returns its tokens."""
        left = request.num_tokens - request.computed_tokens
        new = min(left, chunk)
        if new > 0:
            hold(view.blocks, request, request.computed_tokens + new)
            plan.tokens[request] = new
        if new == left:
            self._chunked = None
        return new

    def _add(self, view: View, plan: Plan, running: int, chunk: int, inputs: int, offset: float) -> None:
        """New prompts in the order of the policy; the last one may be cut."""
        for request in self._queue(view):
            if chunk <= 0 or inputs <= 0:
                return
            if elsewhere(view, request):
                if not fetch(view, plan, request):
                    return
                continue
            if running + len(plan.tokens) >= self.max_num_seqs or not self._fits(view, request, offset):
                self._full = True
                return
            whole = request.num_tokens - view.blocks.cached_tokens(request)
            if whole >= inputs and plan.tokens:
                return
            new = min(whole, chunk)
            admit(view, plan, request, new)
            self._retracted_ns.pop(request.id, None)
            if new < whole:
                self._chunked = request
                return
            chunk, inputs = chunk - new, inputs - new
            offset += min(self._declared(view, request), CLIP)
            if view.blocks.free * view.blocks.block_size <= offset:
                self._full = True
                return

    def _fits(self, view: View, request: Seen, offset: float) -> bool:
        """Whether prompt and declared rest are less than what is free, hits locked, beside `offset` tokens.

        A request whose KV was fetched holds its blocks: only seats keep it back, as on SGLang's decode servers [known].
        """
        blocks = view.blocks
        own = request.num_tokens - blocks.cached_tokens(request)
        total = own + _rest(self._declared(view, request), request)
        needed = int(total + offset) // blocks.block_size + 1
        return blocks.fits(request, request.num_tokens, max(0, needed - blocks.count(own)))

    def _queue(self, view: View) -> Iterator[Seen]:
        """Those whose KV was fetched, then those that wait, a retracted request from the time of its retraction."""
        yield from view.loaded.values()
        seen = (r for r in view.waiting.values() if r.arrival_ns <= self._looked_ns)
        arrived = ((r.arrival_ns, 0, r.id, r) for r in seen)
        retracted = ((self._retracted_ns[r.id], 1, i, r) for i, r in enumerate(view.preempted.values()))
        order: Iterator[Seen] = (row[-1] for row in merge(arrived, retracted))
        if self.schedule_policy == "lpm" and len(view.waiting) + len(view.preempted) <= LPM_LIMIT:
            order = iter(sorted(order, key=lambda r: -view.blocks.cached_tokens(r)))
        yield from order

    def _mix(self, view: View, plan: Plan, running: list[Seen]) -> None:
        """Decodes beside prompts, if there are blocks for all of them."""
        budget = self.max_num_batched_tokens - sum(plan.tokens.values())
        if len(running) <= budget and self._missing(view, running) <= self._free(view):
            for request in running:
                hold(view.blocks, request, request.num_tokens)
                plan.tokens[request] = 1

    def _decode(self, view: View, plan: Plan, running: list[Seen]) -> None:
        """One token each; if there are no blocks for all, the shortest outputs are retracted."""
        if self._missing(view, running) > self._free(view):
            running = self._retract(view, plan, running)
        elif running:
            self._watched = (running[0], running[0].num_tokens)
        for request in running[: self.max_num_batched_tokens]:
            if hold(view.blocks, request, request.num_tokens):
                plan.tokens[request] = 1

    def _retract(self, view: View, plan: Plan, running: list[Seen]) -> list[Seen]:
        """Take requests out until the rest fits; returns the rest and estimates the ratio from it.

        One is left, unless requests whose KV was fetched hold the blocks that it lacks.
        """
        order = sorted(running, key=lambda r: (r.num_tokens - r.prompt_tokens, -r.prompt_tokens), reverse=True)
        while len(order) > (not view.loaded) and (not plan.preempted or self._missing(view, order) > self._free(view)):
            preempt(view, plan, order.pop())
        if self._chunked is not None and self._missing(view, order) > self._free(view):
            preempt(view, plan, self._chunked)
            self._chunked = None
        for victim in plan.preempted:
            self._retracted_ns[victim.id] = view.now_ns
        used = sum(r.num_tokens - r.prompt_tokens for r in order) + RETRACT_STEPS * len(order)
        self._start_ratio = min(1.0, used / (sum(self._declared(view, r) for r in order) + 1))
        self._decays, self._full = 0, False
        return [r for r in running if r in order]

    def _missing(self, view: View, running: list[Seen]) -> int:
        """Blocks that the next token of each request needs beside those held."""
        size = view.blocks.block_size
        return sum(1 for r in running if r.num_tokens > r.blocks * size)

    def _free(self, view: View) -> int:
        """Free blocks that are not kept for the prompt under way."""
        under_way = [] if self._chunked is None else [self._chunked]
        return view.blocks.free - kept_blocks(view.blocks, under_way)


def _rest(declared: int, request: Seen) -> int:
    """Declared output that is still to come, clipped."""
    return min(max(declared - (request.num_tokens - request.prompt_tokens), 0), CLIP)
