"""An instance with a second KV tier, host memory, whose decode attention the host's CPU computes.

A request's KV is wholly in one tier, with blocks in that tier's ledger. How a step is priced is in
`simserve.perf.hybrid`; here is when cohorts of overlapped steps get their results. A cohort begins a layer in a step;
its result is ready for the next step if that starts at least linear work, copies and CPU attention later: the GPU comes
to the layer at the same place of both steps. The CPU takes one cohort after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simserve.errors import LawBroken
from simserve.perf.hybrid import HybridCost, PipelinedStep
from simserve.sim.hybrid import Cohort, HostUse, HybridStep, Strategy
from simserve.sim.instance import Instance
from simserve.sim.kv import BlockLedger
from simserve.sim.plan import Lane, Plan
from simserve.sim.request import Request, Seen
from simserve.sim.step import Step


@dataclass(frozen=True)
class HostTier:
    """The host of one instance: KV blocks, and what steps with it take."""

    num_blocks: int
    cost: HybridCost


class HybridInstance(Instance):
    """An instance with a host tier; a plan without `hybrid` runs as on any other."""

    def __init__(self, *args: Any, tier: HostTier, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host_ledger = BlockLedger(tier.num_blocks + 1, self.ledger.block_size)
        self.cohorts: dict[int, Cohort] = {}
        self._hybrid_cost = tier.cost
        self._hosted = self.queues.hosted
        self._seen.hosted, self._seen.host_blocks, self._seen.cohorts = self._hosted, self.host_ledger, self.cohorts
        self.use = HostUse(self.host_ledger.total)
        self._next_key = self._cpu_free_ns = 0

    def _move(self, plan: Plan, now: int) -> None:
        """Apply the plan to queues and tiers."""
        for seen in (*plan.to_gpu, *plan.preempted):
            if any(seen in cohort.requests for cohort in self.cohorts.values()):
                raise LawBroken("cohort", "a request leaves the host between layers", time_ns=now, request=seen.id)
        if plan.hybrid is not None:
            self.queues.change_tiers(plan, now)
        super()._move(plan, now)
        self._count()
        if len(self.running) + len(self._hosted) > self.scheduler.max_num_seqs:
            raise LawBroken("max_num_seqs", f"{self.view.num_running} requests run, in both tiers", time_ns=now)
        for tier, queue, ledger in (("GPU", self.running, self.ledger), ("host", self._hosted, self.host_ledger)):
            if sum(request.blocks for request in queue.values()) != ledger.used:
                raise LawBroken("tiers", f"blocks of the {tier} are not those of its requests", time_ns=now)

    def _count(self) -> None:
        self.view.num_running = len(self.running) + len(self._hosted)

    def _observe(self, step: Step) -> None:
        super()._observe(step)
        step.running = self.view.num_running

    def _finish(self) -> None:
        if self._step is not None:
            self._note_use(self._step)
        super()._finish()
        self._count()

    def _note_use(self, step: Step) -> None:
        """Add a step that ends to what this instance did with its host."""
        use, hybrid = self.use, step.plan.hybrid
        if not step.prefill:
            strategy = Strategy.GPU if hybrid is None else hybrid.strategy
            beside = strategy is Strategy.GPU and self.cohorts
            use.decode_steps[Strategy.OVERLAP if beside else strategy] += step.count
            use.hosted_steps += step.count if self._hosted else 0
        use.tokens += step.sampled * step.count
        use.cpu_tokens += step.cpu_decode
        use.busy_ns += step.duration_ns
        use.block_ns += self.host_ledger.used * step.duration_ns

    def _drop(self, request: Request) -> None:
        if request.id not in self._hosted:
            super()._drop(request)
            return
        del self._hosted[request.id]
        self.host_ledger.release(request)

    def _advance(self, step: Step, tokens_of: Mapping[Seen, int], running: Mapping[int, Request]) -> None:
        """Requests that are computed on the GPU as ever, then those that decode on the CPU."""
        hybrid = step.plan.hybrid
        if hybrid is None:
            super()._advance(step, tokens_of, running)
            return
        on_cpu = self._decoding(hybrid, step.start_ns)
        prompts = {seen.id: self._hosted[seen.id] for seen in step.plan.admitted_host}
        own = {seen: tokens for seen, tokens in tokens_of.items() if seen not in on_cpu}
        super()._advance(step, own, {**running, **prompts} if prompts else running)
        if len(own) + len(on_cpu) != len(tokens_of):  # none decodes without being in the plan's tokens
            raise LawBroken("tokens", "a request that decodes on the CPU has no token", time_ns=step.start_ns)
        rows = step.tokens + len(hybrid.batch0) + len(hybrid.batch1) + len(hybrid.started)
        rows += sum(len(self.cohorts[key].requests) for key in hybrid.joined)
        for seen, tokens in tokens_of.items():
            if seen in on_cpu:
                self._decode(step, seen, tokens)
        if rows > self.scheduler.max_num_batched_tokens:
            raise LawBroken("budget", f"{rows} tokens in one step", time_ns=step.start_ns)

    def _decoding(self, hybrid: HybridStep, now: int) -> set[Seen]:
        """Hosted requests that get a whole token from the CPU in this step."""
        layers = self._hybrid_cost.layers
        fresh = {*hybrid.batch0, *hybrid.batch1, *hybrid.started}
        known = {seen for cohort in self.cohorts.values() for seen in cohort.requests}
        twice = len(hybrid.batch0) + len(hybrid.batch1) + len(hybrid.started) != len(fresh) or fresh & known
        if twice or any(seen.id not in self._hosted for seen in fresh) or set(hybrid.joined) - set(self.cohorts):
            raise LawBroken("cohort", "not hosted, twice in a step, or in a cohort already", time_ns=now)
        if (hybrid.started or hybrid.joined) and hybrid.strategy is not Strategy.OVERLAP:
            raise LawBroken("cohort", "goes on in a step that is not overlapped", time_ns=now)
        if (hybrid.batch0 or hybrid.batch1) and hybrid.strategy is not Strategy.PIPELINE:
            raise LawBroken("cohort", "a sub-batch of a step that is not pipelined", time_ns=now)
        done = {s for key in hybrid.joined if self.cohorts[key].layer == layers for s in self.cohorts[key].requests}
        for seen in fresh:
            if seen.num_tokens - seen.computed_tokens != 1 or seen.num_tokens > seen.blocks * self.ledger.block_size:
                raise LawBroken("tokens", f"{seen} cannot decode on the CPU", time_ns=now, request=seen.id)
        return done | {*hybrid.batch0, *hybrid.batch1}

    def _decode(self, step: Step, seen: Seen, tokens: int) -> None:
        """One token of a hosted request."""
        request = self._hosted[seen.id]
        if tokens != 1:
            raise LawBroken("tokens", f"{tokens} tokens for a decode", time_ns=step.start_ns, request=seen.id)
        request.computed_tokens += 1
        step.batch.append(request)
        step.tokens += 1
        step.sampled += 1
        step.regular += request.last_token_ns == step.start_ns
        step.cpu_decode += 1

    def _step_ns(self, step: Step) -> int:
        """The price of a step; copies between tiers run beside it."""
        plan, hybrid = step.plan, step.plan.hybrid
        if hybrid is None:
            return super()._step_ns(step)
        if hybrid.strategy is Strategy.PIPELINE:
            duration = self._pipelined_ns(step, hybrid)
        else:
            duration = self._overlapped_ns(step, hybrid)
        blocks_out = sum(seen.blocks for seen in (*plan.to_host, *plan.admitted_host))
        out_ns, in_ns = self._hybrid_cost.copies_ns(blocks_out, sum(seen.blocks for seen in plan.to_gpu))
        for lane, copied in ((Lane.PCIE_OUT, out_ns), (Lane.PCIE_IN, in_ns)):
            if copied:
                self._note_lane(lane, step.start_ns, step.start_ns + copied)
        self.use.copy_wait_ns += max(out_ns - duration, in_ns - duration, 0)
        return max(duration, out_ns, in_ns)

    def _pipelined_ns(self, step: Step, hybrid: HybridStep) -> int:
        """Both sub-batches, once the CPU is free of what cohorts left it."""
        cpu0, cpu1 = ((len(part), _context(part)) for part in (hybrid.batch0, hybrid.batch1))
        work = PipelinedStep(step.prefill, (step.decode, step.context), cpu0, cpu1, step.sampled, hybrid.launch_ns)
        duration, busy, own = self._hybrid_cost.pipelined_ns(work)
        begin = max(step.start_ns, self._cpu_free_ns)
        self._note_lane(Lane.CPU, begin, begin + busy)
        self.use.cpu_ns += busy
        self.use.cpu_wait_ns += begin - step.start_ns + duration - own
        return begin - step.start_ns + duration

    def _overlapped_ns(self, step: Step, hybrid: HybridStep) -> int:
        """The GPU's own step; cohorts that join add their rows at their layer, and begin the next one."""
        cost, start = self._hybrid_cost, step.start_ns
        rows = step.tokens - step.cpu_decode
        wait = max((self.cohorts[key].ready_ns - start for key in hybrid.joined), default=0)
        begin = start + max(wait, 0)
        self.use.cpu_wait_ns += begin - start
        duration = begin - start + self.cost.step_ns(step.prefill, step.decode, step.context, step.sampled)
        for key in hybrid.joined:
            cohort = self.cohorts[key]
            duration += cost.joined_ns(rows, len(cohort.requests))
            if cohort.layer == cost.layers:
                del self.cohorts[key]
            else:
                self._begin_layer(cohort, begin, rows)
        if hybrid.started:
            cohort = self.cohorts[self._next_key] = Cohort(hybrid.started, 0, 0)
            self._next_key += 1
            duration += cost.joined_ns(rows, len(cohort.requests))
            self._begin_layer(cohort, begin, rows)
        return duration

    def _begin_layer(self, cohort: Cohort, begin: int, rows: int) -> None:
        """The cohort's next layer in a step that begins now with so many rows of others."""
        times = self._hybrid_cost.cohort(rows, len(cohort.requests), _context(cohort.requests))
        attend = max(begin + times.before_ns, self._cpu_free_ns)
        self._cpu_free_ns = attend + times.cpu_ns
        self._note_lane(Lane.CPU, attend, self._cpu_free_ns)
        self.use.cpu_ns += times.cpu_ns
        cohort.layer += 1
        cohort.ready_ns = self._cpu_free_ns + times.after_ns


def _context(requests: tuple[Seen, ...]) -> int:
    """Tokens that decoding requests attend, the new one included."""
    return sum(seen.num_tokens for seen in requests)
