"""An instance whose model is split over pipeline stages, with as many steps in flight as there are stages.

As vLLM's batch queue: a step is planned when the first stage is free and fewer steps than stages are in flight; it goes
through the stages in order, each one step at a time; its tokens are known when it leaves the last one. A request whose
token is not known yet has nothing to compute, so a plan leaves it out; chunks of one prompt may follow one another.

vLLM may preempt a request that is in flight. Here the step goes on, and what it computed for that request is lost.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from simserve.errors import LawBroken
from simserve.perf.cost import PipelinedCost
from simserve.sim.clock import PLAN
from simserve.sim.instance import Instance
from simserve.sim.request import Outcome, Request
from simserve.sim.step import Step

Flight = tuple[Step, list[tuple[Request, int]]]


class PipelinedInstance(Instance):
    """An instance over `stages` pipeline stages; its cost is a `PipelinedCost`. Steps are taken one by one."""

    def __init__(self, *args: Any, stages: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stages = cast(PipelinedCost, self.cost)
        self._free_ns = [0] * stages
        self._flight: deque[Flight] = deque()

    def wake(self, *, always: bool = False) -> None:
        """Something arrived: plan when the first stage is free, if it is not full by then."""
        if self._timer is None and len(self._flight) < len(self._free_ns):
            self._timer = self.clock.call_at(max(self.clock.now_ns, self._free_ns[0]), self._form, PLAN)

    def _form(self) -> None:
        """Plan a step, and start it in the first stage."""
        now = self._seen.now_ns = self.clock.now_ns
        self._timer = None
        plan = self.scheduler.plan(self._seen)
        if plan.segments or plan.resume is not None or plan.swapped_out or plan.swapped_in:
            raise LawBroken("pipeline", "segments and swapping have no pipeline stages", time_ns=now)
        if plan.admitted or plan.preempted or plan.fetched:
            self._move(plan, now)
        if not plan.tokens:
            if plan.preempted:
                self._form()
            return
        step = Step(now, plan)
        self._advance(step, plan.tokens, self.running)
        sampling = [(r, r.preemptions) for r in step.batch if r.computed_tokens == r.num_tokens]
        end = self._through_stages(step)
        step.duration_ns = step.first_ns = step.last_ns = end - now
        self._observe(step)
        self._flight.append((step, sampling))
        self.clock.call_at(end, self._leave, self._commit)
        self.wake()

    def _through_stages(self, step: Step) -> int:
        """When the step leaves the last stage: each begins it when it has come from the one before, and is free."""
        at = step.start_ns
        times = self._stages.stages_ns(step.prefill, step.decode, step.context, step.sampled)
        for stage, duration in enumerate(times):
            if duration < 1:
                raise LawBroken("progress", "a stage takes no time", time_ns=at)
            at = self._free_ns[stage] = max(at, self._free_ns[stage]) + duration
        return at

    def _leave(self) -> None:
        """The oldest step has left the last stage: commit its tokens, end requests, record, and go on."""
        step, sampling = self._flight.popleft()
        end = self.clock.now_ns
        # A request that was preempted on the way has lost what this step computed for it.
        step.batch = [request for request, preemptions in sampling if request.preemptions == preemptions]
        step.regular = sum(request.last_token_ns == step.start_ns for request in step.batch)
        done = self._commit_one(step, end)
        step.log_to(self.step_log)
        for request in done:
            del self.running[request.id]
            self.ledger.release(request)
            self.ledger.forget(request)
        if self.hand_over is not None:
            self._hand_over_all(self.hand_over)
        self.view.num_running = len(self.running)
        self.view.free_blocks = self.ledger.free
        for request in done:
            self._on_end(request, Outcome.FINISHED)
        if self.queues.can_go_on:
            self.wake()
