"""KV in two tiers, GPU and host: who moves, who is admitted where. Rules of NEO (`swiftllm/server/scheduler.py` of its
repository, commit b55aaab) [N], which APEX extends [I].

A request's KV is wholly in one tier. Prompts run whole, on the GPU; one longer than the step's budget is cut, and stays
on the GPU with blocks for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from simserve.policies.batching import in_prompt, preempt, queue
from simserve.sim.plan import Blocks, Plan, View
from simserve.sim.request import Seen


@dataclass
class Placement:
    """What a step may run. decodes: on the GPU, with slots; hosted: on the host and between tokens, in order, what
    leaves the GPU first; long: a prompt that was cut before; gpu_prompts, host_prompts: that could be admitted now;
    budget: tokens left for prompts and CPU decodes."""

    decodes: list[Seen] = field(default_factory=list)
    hosted: list[Seen] = field(default_factory=list)
    long: list[Seen] = field(default_factory=list)
    gpu_prompts: list[Seen] = field(default_factory=list)
    host_prompts: list[Seen] = field(default_factory=list)
    budget: int = 0


def host_of(view: View) -> Blocks:
    """The host's ledger; who asks for it was given one."""
    assert view.host_blocks is not None
    return view.host_blocks


def settle(view: View, plan: Plan, budget: int, *, swap_in: float = 0.95) -> Placement:
    """Who stays on the GPU, who leaves (last ones first, at 100 % of the blocks), else who comes back (below `swap_in`
    of them, or to an empty GPU) [N]. A victim for which the host has no room is recomputed [I]."""
    blocks, host = view.blocks, host_of(view)
    running = list(view.running.values())
    at = Placement([r for r in running if not in_prompt(r)], between_tokens(view), [r for r in running if in_prompt(r)])
    need = sum(blocks.count(r.num_tokens) for r in running)
    moved: list[Seen] = []
    while at.decodes and (need > blocks.total or len(at.decodes) > budget):
        victim = at.decodes.pop()
        need -= blocks.count(victim.num_tokens)
        if host.count(victim.num_tokens) <= host.free:
            to_host(view, plan, victim)
            moved.append(victim)
        else:
            preempt(view, plan, victim)
    at.hosted = [*reversed(moved), *at.hosted]
    while at.hosted and not moved and not plan.preempted and len(at.decodes) < budget:
        back, more = at.hosted[0], blocks.count(at.hosted[0].num_tokens)
        if need + more > (swap_in * blocks.total if need else blocks.total):
            break
        to_gpu(view, plan, at.hosted.pop(0))
        at.decodes.append(back)
        need += more
    for request in at.decodes:
        blocks.reserve(request, request.num_tokens)
    at.budget = budget - len(at.decodes)
    return at


def between_tokens(view: View) -> list[Seen]:
    """Hosted requests that are in no cohort, in order."""
    if not view.cohorts:
        return list(view.hosted.values())
    busy = {seen for cohort in view.cohorts.values() for seen in cohort.requests}
    return [seen for seen in view.hosted.values() if seen not in busy]


def to_host(view: View, plan: Plan, request: Seen) -> None:
    """Move a request's KV to the host, which has room for it."""
    view.blocks.release(request)
    host_of(view).reserve(request, request.num_tokens)
    plan.to_host.append(request)


def to_gpu(view: View, plan: Plan, request: Seen) -> None:
    """Move a request's KV to the GPU, which has room for it."""
    host_of(view).release(request)
    view.blocks.reserve(request, request.num_tokens)
    plan.to_gpu.append(request)


def choose_prompts(
    view: View, at: Placement, seats: int, budget: int, *, host_blocks: int, prefer_host: bool = False
) -> None:  # fmt: skip
    """Waiting requests in order that one step could prefill: on the GPU while they fit and none before went to the
    host; on the host while its blocks in use stay within `host_blocks` and the staging layer holds them all [N].

    seats: requests that may run in both tiers; budget: of a whole step; prefer_host: on the GPU only what is longer
    than a step, or than all of `host_blocks`.
    """
    blocks, host = view.blocks, host_of(view)
    free, staged, left = blocks.free, 0, at.budget
    room = min(blocks.total, host_blocks - (host.total - host.free))
    seats -= len(view.running) + len(view.hosted)
    if at.long:
        return
    for request in queue(view):
        need = blocks.count(request.num_tokens)
        alone = request.num_tokens > budget and not at.gpu_prompts and not at.host_prompts
        if seats < 1 or (request.num_tokens > left and not (alone and left > 0)):
            return
        on_gpu = alone or need >= host_blocks if prefer_host else not at.host_prompts
        if need <= free and on_gpu:
            at.gpu_prompts.append(request)
            free -= need
        elif not alone and not (prefer_host and on_gpu) and staged + need <= room:
            at.host_prompts.append(request)
            staged += need
        else:
            return
        seats, left = seats - 1, left - request.num_tokens
        if alone:
            return


def start_prompts(view: View, plan: Plan, at: Placement, gpu: Iterable[Seen], host: Iterable[Seen]) -> None:
    """Admit prompts to their tiers, and go on with one that was cut; at most the budget's tokens."""
    for request in at.long:
        _prompt(plan, at, request)
    for request in gpu:
        view.blocks.reserve(request, request.num_tokens)
        plan.admitted.append(request)
        _prompt(plan, at, request)
    for request in host:
        host_of(view).reserve(request, request.num_tokens)
        plan.admitted_host.append(request)
        _prompt(plan, at, request)


def _prompt(plan: Plan, at: Placement, request: Seen) -> None:
    tokens = min(request.num_tokens - request.computed_tokens, at.budget)
    if tokens > 0:
        plan.tokens[request] = tokens
        at.budget -= tokens


def with_slots(view: View, requests: Iterable[Seen]) -> list[Seen]:
    """Those hosted requests for whose newest token the host has a slot."""
    host, size = host_of(view), host_of(view).block_size
    return [r for r in requests if r.num_tokens <= r.blocks * size or host.reserve(r, r.num_tokens)]


def chunks(prompts: Iterable[Seen], budget: int) -> list[tuple[int, int]]:
    """(tokens, tokens before) of prompts as `start_prompts` would schedule them."""
    found = []
    for request in prompts:
        tokens = min(request.num_tokens - request.computed_tokens, budget)
        if tokens > 0:
            found.append((tokens, request.computed_tokens))
            budget -= tokens
    return found
