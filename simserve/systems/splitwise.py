"""Splitwise: prompts and tokens on machines of their own, and a pool between them that does both.

Source: P. Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024. No digest of
it was at hand: what follows is [recalled], but for the rules of the mixed pool, which were read in a copy of its
simulator (`MixedPoolScheduler` of splitwise-sim [code]).
Claim: 1.4 times the throughput at 20 % lower cost than machines that do both, or 2.35 times at the same cost and power
[recalled].
Modelled: a scheduler of the cluster assigns both machines when a request arrives, to the shortest queues: by prompt
tokens that are not computed yet, and by the tokens that requests hold [recalled: join the shortest queue by
pending tokens, for both]. Where the prompt pool has more than a threshold pending, or the token pool no memory, it
looks in the mixed pool, and then takes the least loaded machine of the other pool into it [code]; a mixed machine goes
home when it has no work of the other pool [recalled]. Prompt batches of whole prompts up to 2,048 tokens, first come,
first served [recalled]; mixed machines batch both in one step. KV moves layer by layer beside the computation of
prompts of 512 tokens or more, and after it for shorter ones [recalled].
Simplified: memory of the token pool is counted by the blocks in use and the prompts to come, for nobody knows how many
tokens will; what moves beside a prompt does not slow other transfers; the state of the pools is that at the last
arrival; one kind of machine a pool, no power caps; a request stays where its prompt was computed if the machine for
its tokens waits for room that this one holds, for both could wait for ever [guessed]. A prompt longer than the budget
is computed in pieces.
Knobs: `max_pending_prompt_tokens` is the threshold of the simulator's `is_queue_long`; its value there is a setting.
Reproduces: no published figure; hand-made timelines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simserve.policies.batching import admit, continue_prompts, decode_running, elsewhere, fetch, promise, queue
from simserve.sim.machines import Machine
from simserve.sim.plan import Plan, Pool, Role, View, knob
from simserve.sim.request import Seen
from simserve.systems import scheduler, system


@system("splitwise")
@dataclass
class Splitwise:
    """The scheduler of the cluster."""

    max_pending_prompt_tokens: int = knob(8192, "pending tokens of a machine above which no prompt joins", low=1,
                                          high=1 << 20)  # fmt: skip
    overlap_tokens: int = knob(512, "prompts from so many tokens on send KV while they are computed", low=1,
                               high=1 << 20)  # fmt: skip
    mixed_pool: bool = knob(True, "machines may do the work of the other pool", choices=(True, False))

    def pools(self) -> Sequence[Pool]:
        """`prefill` and `decode`, its prompt and token pools; machines of both may become mixed."""
        return (
            Pool("prefill", Role.PREFILL, scheduler="splitwise", router="least_loaded"),
            Pool("decode", Role.DECODE, scheduler="splitwise", router="least_loaded"),
        )

    def assign(self, request: Seen, machines: Sequence[Machine]) -> tuple[int, int]:
        """The shortest queue for the prompt, then for its tokens."""
        return (
            self._choose(machines, Role.PREFILL, _pending, lambda m: self._queues(m, request)),
            self._choose(machines, Role.DECODE, _kept, lambda m: _fits(m, request)),
        )

    def _choose(
        self, machines: Sequence[Machine], role: Role, load: Callable[[Machine], int], takes: Callable[[Machine], bool]
    ) -> int:
        """The least loaded machine of the pool that takes it, else a mixed one, else one of the other pool."""
        own = [i for i, m in enumerate(machines) if m.home is role and not m.mixed]
        mixed = [i for i, m in enumerate(machines) if m.mixed]
        other = [i for i, m in enumerate(machines) if m.home is not role and not m.mixed]
        for pool in (own, mixed):
            best = min(pool, key=lambda i: load(machines[i]), default=None)
            if best is not None and (takes(machines[best]) or not self.mixed_pool):
                return best
        # the last machine of a pool stays in it
        return min(other if len(other) > 1 else own or mixed or other, key=lambda i: load(machines[i]))

    def _queues(self, machine: Machine, request: Seen) -> bool:
        """Whether a prompt may join; an empty queue takes any."""
        pending = machine.prompt_tokens
        return not pending or pending + request.num_tokens <= self.max_pending_prompt_tokens


def _pending(machine: Machine) -> int:
    return machine.prompt_tokens


def _kept(machine: Machine) -> int:
    return machine.kv_tokens


def _fits(machine: Machine, request: Seen) -> bool:
    return machine.kv_tokens + request.num_tokens < machine.capacity_tokens


@scheduler("splitwise")
@dataclass
class SplitwiseMachine:
    """A machine of any pool: decodes, and whole prompts beside them."""

    max_num_batched_tokens: int = knob(2048, "tokens of a step, decodes included", low=64, high=65536)
    max_num_seqs: int = knob(256, "requests that may run at once", low=1, high=4096)
    watermark: float = knob(0.01, "share of blocks kept free when admitting", low=0.0, high=0.5)

    def plan(self, view: View) -> Plan:
        """Decodes, the prompt under way, whole prompts."""
        plan = Plan()
        left = decode_running(view, plan, self.max_num_batched_tokens)
        left = continue_prompts(view, plan, left)
        held = not plan.preempted and self._admit(view, plan, left)
        promise(view, plan)
        # what caches hold of a prompt that waits for the budget changes while others decode
        plan.repeats = plan.repeats and not held
        return plan

    def _admit(self, view: View, plan: Plan, left: int) -> bool:
        """Fetched requests and whole prompts in order; one that exceeds the budget when no other prompt is there.

        Returns whether the budget is what the first one that is left waits for.
        """
        blocks, running, prompts = view.blocks, len(view.running), any(n > 1 for n in plan.tokens.values())
        for request in queue(view):
            headroom = int(self.watermark * blocks.total) if running else 0
            if not left:
                return True  # also for what is to be fetched: a prompt that was cut keeps the blocks that it lacks
            if elsewhere(view, request):
                if not fetch(view, plan, request, headroom=headroom):
                    return False
                continue
            new = request.num_tokens - blocks.cached_tokens(request)
            whole = new <= left or (not prompts and new > self.max_num_batched_tokens)
            if not whole or running == self.max_num_seqs or not blocks.fits(request, request.num_tokens, headroom):
                return not whole
            admit(view, plan, request, min(new, left))
            left -= min(new, left)
            running += 1
            prompts = prompts or new > 1
        return False
