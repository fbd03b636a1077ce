"""Steps that several batch rules share: decode what runs, go on with prompts, admit, promise.

A prompt that takes several steps gets its blocks piece by piece (so that the prefix cache never holds what is not
computed); what it still lacks is kept free for it. Nobody is admitted behind a prompt that was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from simserve.sim.plan import Blocks, Plan, View
from simserve.sim.request import Seen


def in_prompt(request: Seen) -> bool:
    """Whether a running request has more to compute than its newest token."""
    return request.num_tokens - request.computed_tokens > 1


def hold(blocks: Blocks, request: Seen, tokens: int) -> bool:
    """Slots for the first `tokens` tokens; for one more token it asks the ledger only if a block is new or full."""
    size, one = blocks.block_size, tokens - request.computed_tokens == 1
    return (one and tokens <= request.blocks * size and tokens % size > 0) or blocks.reserve(request, tokens)


def kept_blocks(blocks: Blocks, prompts: Iterable[Seen]) -> int:
    """Blocks that unfinished prompts still lack; those that were preempted hold none and need none."""
    return sum(max(0, blocks.count(r.num_tokens) - r.blocks) for r in prompts if r.blocks)


def hold_next(blocks: Blocks, request: Seen, prompts: Iterable[Seen]) -> bool:
    """A slot for the newest token of a decode, not from the blocks kept for prompts."""
    if request.num_tokens > request.blocks * blocks.block_size and blocks.free <= kept_blocks(blocks, prompts):
        return False
    return hold(blocks, request, request.num_tokens)


def preempt(view: View, plan: Plan, victim: Seen) -> None:
    """Take the victim's blocks; it will be recomputed."""
    view.blocks.release(victim)
    plan.preempted.append(victim)


def queue(view: View) -> Iterator[Seen]:
    """Requests to admit: those whose KV was fetched, preempted ones, the last one first, then arrivals in order."""
    return chain(view.loaded.values(), reversed([*view.preempted.values()]), view.waiting.values())


def elsewhere(view: View, request: Seen) -> int:
    """Tokens up to which a waiting request's KV can be fetched; 0 if there is nothing to fetch.

    KV that another instance handed over must be fetched; a prefix in the offload tiers is worth it.
    """
    if request.remote_tokens or view.offload is None or request.blocks:
        return request.remote_tokens
    return view.offload.found(request, view.blocks.cached_tokens(request))


def fetch(view: View, plan: Plan, request: Seen, *, slots: int = 0, headroom: int = 0) -> bool:
    """Order KV that is `elsewhere`, if blocks for all of the request's tokens are free beside `headroom`.

    slots: hold blocks for that many tokens, if more. All at once, for requests that were fetched in part could keep
    the rest from one another for ever.
    """
    blocks = view.blocks
    slots = max(slots, request.num_tokens)
    if not blocks.fits(request, slots, headroom):
        return False
    plan.cached[request] = hit = blocks.attach(request)
    if not request.remote_tokens and view.offload is not None:
        view.offload.claim(request, hit)
    blocks.reserve(request, slots, delay_cache=True)
    plan.fetched.append(request)
    return True


def decode_running(view: View, plan: Plan, budget: int, *, spare_prompts: bool = False) -> int:
    """One token for each running request whose prompt is done; on a shortage the last one is preempted.

    spare_prompts: never one in its prompt, as who holds the blocks of a whole prompt must where there is a prefix
    cache: it would find there what it has not computed. Returns the budget that is left.
    """
    blocks, order, index = view.blocks, list(view.running.values()), 0
    prompts = [request for request in order if in_prompt(request)]
    while index < len(order) and budget > 0:
        request = order[index]
        index += 1
        if in_prompt(request):
            continue
        while not hold_next(blocks, request, prompts):
            victim = order.pop(_last_decode(order) if spare_prompts else -1)
            preempt(view, plan, victim)
            if victim is request:
                return budget
        plan.tokens[request] = 1
        budget -= 1
    return budget


def _last_decode(order: list[Seen]) -> int:
    return max(index for index, request in enumerate(order) if not in_prompt(request))


def continue_prompts(view: View, plan: Plan, budget: int, unit: int = 1) -> int:
    """Go on with the prompts that run, in order; a cut piece is a multiple of `unit`.

    Returns the budget that is left: none if a prompt was cut.
    """
    for request in view.running.values():
        left = request.num_tokens - request.computed_tokens
        if left <= 1 or request in plan.preempted:
            continue
        new = left if left <= budget else budget // unit * unit
        if new > 0:
            hold(view.blocks, request, request.computed_tokens + new)
            plan.tokens[request] = new
        if new < left:
            return 0
        budget -= new
    return budget


def admit(view: View, plan: Plan, request: Seen, tokens: int, slots: int = 0) -> None:
    """Admit a request with its cached prefix and `tokens` tokens; slots: hold blocks for that many tokens."""
    hit = view.blocks.cached_tokens(request)
    if hit and not request.blocks:
        plan.cached[request] = view.blocks.attach(request)
    view.blocks.reserve(request, max(hit + tokens, slots))
    plan.admitted.append(request)
    if tokens:
        plan.tokens[request] = tokens


def reservation(blocks: Blocks, request: Seen, max_new_tokens: int) -> int:
    """Tokens a request may reach: prompt and declared output, no more than the cache holds; 0: all of it."""
    capacity = blocks.total * blocks.block_size
    declared = request.prompt_tokens + max_new_tokens if max_new_tokens else capacity
    return min(max(request.num_tokens, declared), capacity)


def closed_batch(view: View, *, budget: int, seats: int, max_new_tokens: int) -> Plan:
    """The next step of a batch that nobody joins: a new batch if none runs, else its prompts, else its decodes."""
    plan = Plan()
    if not view.running:
        _form(view, plan, budget, seats, max_new_tokens)
        return plan
    continue_prompts(view, plan, budget)
    if not plan.tokens:
        decode_running(view, plan, budget, spare_prompts=True)
    promise(view, plan)
    plan.arrival_breaks = False
    return plan


def _form(view: View, plan: Plan, budget: int, seats: int, max_new_tokens: int) -> None:
    """The first requests that fit; those whose prompts exceed the budget compute them in later steps."""
    for request in queue(view):
        slots = reservation(view.blocks, request, max_new_tokens)
        if elsewhere(view, request):
            if not fetch(view, plan, request, slots=slots):
                return
            continue
        if len(plan.admitted) == seats or not view.blocks.fits(request, slots, 0):
            return
        new = min(request.num_tokens - view.blocks.cached_tokens(request), budget)
        admit(view, plan, request, new, slots)
        budget -= new


def promise(view: View, plan: Plan) -> None:
    """A step that only decodes, and decodes all, repeats; arrivals matter only if nobody waits before them.

    True where admission is in order and what keeps the head waiting (blocks, seats, budget) cannot get better
    while the same requests decode.
    """
    moved = plan.admitted or plan.preempted
    plan.repeats = not moved and len(plan.tokens) == len(view.running) == sum(plan.tokens.values())
    plan.arrival_breaks = len(view.waiting) + len(view.preempted) + len(view.loaded) == len(plan.fetched)
