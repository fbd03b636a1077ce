"""One serving engine: asks its scheduler for a plan, checks and applies it, waits for its cost, commits.

Leap: when the plan promises to repeat (see `Plan.repeats`), the steps up to the next finish, block shortage
or (if it matters) arrival are priced together and taken as one event; the trace is the same as without.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from simserve.errors import LawBroken
from simserve.perf.cost import CostModel
from simserve.sim.clock import COMMIT, PLAN, Clock, Timer
from simserve.sim.kv import BlockLedger
from simserve.sim.lanes import Demand, GpuLanes, Part, SegmentRun, demands
from simserve.sim.offload import OffloadTiers
from simserve.sim.plan import InstanceView, Lane, Plan, Scheduler, View, WorkKind
from simserve.sim.queues import Queues
from simserve.sim.request import Outcome, Request, Seen
from simserve.sim.step import Step
from simserve.sim.swap import SwapSpace
from simserve.sim.trace import Spans

_running_sum = np.add.accumulate  # as cumsum(), without its detours
Observer = Callable[[int, int, Plan, int], None]


class Instance:
    """A replica: scheduler, block ledger and cost model on one clock.

    max_model_len: tokens (prompt and output) a request may reach; a longer prompt is refused, a longer
    output is cut there, as vLLM does. on_end: called with each request that ends, at that time.
    gpu: the lanes that this engine shares with others; None: it has its GPU to itself. observer: called as
    (start_ns, duration_ns, plan, free blocks) for every step (duration 0 for a step on lanes, whose end is not
    known yet); it switches leap off. async_scheduling: the plan of a step is made while the one before it runs, so a
    request that arrives during a step is not in the next one.
    """

    def __init__(
        self, index: int, clock: Clock, scheduler: Scheduler, ledger: BlockLedger, cost: CostModel, *,
        on_end: Callable[[Request, Outcome], None], max_model_len: int | None = None,
        leap: bool = True, observer: Observer | None = None, gpu: GpuLanes | None = None,
        swap: SwapSpace | None = None, offload: OffloadTiers | None = None,
        spans: Spans | None = None, async_scheduling: bool = False,
    ) -> None:  # fmt: skip
        self.clock, self.scheduler, self.ledger, self.cost = clock, scheduler, ledger, cost
        capacity = ledger.total * ledger.block_size
        self.max_model_len = min(max_model_len or capacity, capacity)
        queues = self.queues = Queues()
        self.running = queues.running
        self.view = InstanceView(index, free_blocks=ledger.free, total_blocks=ledger.total)
        self.step_log, self.itl_gaps = array("q"), array("q")
        self.truncated = 0
        self.hand_over: Callable[[Request], None] | None = None
        self.fetch: Callable[[Request, Callable[[], None]], None] | None = None
        self.on_cut: Callable[[NDArray[np.int64], int], None] | None = None  # (a leap's durations, steps it took)
        self.on_tokens: Callable[[Step], None] | None = None  # each step that ends, without leaps
        self._seen = View(
            0, queues.running, queues.waiting, queues.preempted, ledger, queues.suspended, queues.loading,
            queues.loaded, queues.swapped, swap, offload,
        )  # fmt: skip
        self._swap, self._offload, self._spans = swap, offload, spans
        if offload is not None:
            offload.changed = lambda: self.wake(always=True)
        self._gpu, self._own_gpu = gpu, gpu or GpuLanes(clock)
        self._async = async_scheduling
        self._stopped, self._stops = dict[int, Step](), 0
        self._commit = COMMIT + index
        self._on_end, self._observer, self._leap = on_end, observer, leap and observer is None
        self._timer: Timer | None = None
        self._step: Step | None = None

    def submit(self, request: Request) -> bool:
        """Queue a request that arrives now; False if this instance can never serve it."""
        if request.prompt_tokens >= self.max_model_len:
            return False
        if request.final_tokens > self.max_model_len:
            request.final_tokens = self.max_model_len
            self.truncated += 1
        request.instance = self.view.index
        queue = self.queues.late if self._async and self._step is not None else self.queues.waiting
        queue[request.id] = request
        self.view.num_waiting += 1
        self.wake()
        return True

    def free_kv(self, request: Request) -> None:
        """Free the blocks of a request that was handed over: its KV has been fetched."""
        self.ledger.release(request)
        self.ledger.forget(request)
        self.view.free_blocks = self.ledger.free
        self.wake(always=True)

    def refresh_view(self) -> None:
        """Make the view's free blocks those of now, also inside a leap."""
        taken = 0 if self._step is None else self._step.unbooked_blocks(self.clock.now_ns, self.ledger.block_size)
        self.view.free_blocks = self.ledger.free - taken

    def wake(self, *, always: bool = False) -> None:
        """Something arrived: plan anew, now if idle, else as soon as the step in flight allows.

        always: what arrived may change the plan even where a waiting request would not.
        """
        step = self._step
        if step is not None:
            if step.count > 1 and (always or step.arrival_breaks or self.queues.late):
                self._cut(step)
            if step.run is not None and step.plan.interruptible:
                step.run.stop()
        elif self._timer is None:
            self._timer = self.clock.call_at(self.clock.now_ns, self._form, PLAN)

    def _form(self) -> None:
        """Ask for a plan at this instant and start it."""
        now = self._seen.now_ns = self.clock.now_ns
        self._timer = None
        plan = self.scheduler.plan(self._seen)
        late = self.queues.admit_late()
        plan.repeats = plan.repeats and not late
        moves = plan.admitted or plan.preempted or plan.fetched or plan.swapped_out or plan.swapped_in
        if moves or plan.hybrid is not None:
            self._move(plan, now)
        if plan.resume is not None:
            self._resume(plan.resume, now)
            return
        if not plan.tokens and (plan.hybrid is None or not plan.hybrid.moves_on):
            # blocks are free or requests there: schedule again at once
            if plan.preempted or plan.swapped_out or plan.to_host or late:
                self._form()
            return
        step = self._step = Step(now, plan)
        self._advance(step, plan.tokens, self.running)
        if plan.segments or self._gpu is not None:
            self._run_segments(step)
            return
        self._price(step)
        self._observe(step)
        self._timer = self.clock.call_at(step.start_ns + step.duration_ns, self._finish, self._commit)

    def _run_segments(self, step: Step) -> None:
        """Run a step on lanes: its end is known when it comes."""
        parts = self._parts(step)
        step.duration_ns = 0
        self._observe(step)
        step.run = SegmentRun(self._own_gpu, parts, self._commit, self._end_segments, self._suspend, self._note_segment)
        step.run.start()

    def _parts(self, step: Step) -> list[Part]:
        """What the step asks of the lanes, in order."""
        price = self._step_ns(step)
        if not step.plan.segments:
            return [(WorkKind.PREFILL if step.prefill else WorkKind.DECODE, {Lane.COMPUTE: price})]
        asked = demands(step.plan.segments, price)
        return [(segment.kind, demand) for segment, demand in zip(step.plan.segments, asked, strict=True)]

    def _note_segment(self, demand: Demand, start_ns: int, end_ns: int) -> None:
        """Every lane that a segment asked for was its own from start to end."""
        for lane, busy in demand.items():
            if busy:
                self._note_lane(lane, start_ns, end_ns)

    def _note_lane(self, lane: Lane, start_ns: int, end_ns: int) -> None:
        if self._spans is not None:
            self._spans.of(f"instance {self.view.index} {lane.value}")(start_ns, end_ns, -1, 0)

    def _end_segments(self) -> None:
        """The last segment has ended: now the step's duration is known."""
        self._clock_step()
        self._finish()

    def _clock_step(self) -> Step:
        """The step in flight, with the time it took so far."""
        step = self._step
        assert step is not None
        step.first_ns = step.last_ns = step.duration_ns = self.clock.now_ns - step.start_ns
        return step

    def _suspend(self) -> None:
        """Stop at a segment boundary: log the time, keep the rest of the work, and plan anew."""
        step = self._clock_step()
        tokens, step.tokens, step.regular = step.tokens, 0, 0
        step.log_to(self.step_log)
        step.tokens, step.preempted = tokens, 0
        self._step = None
        self.queues.suspended[self._stops], self._stopped[self._stops] = step.plan, step
        self._stops += 1
        self._timer = self.clock.call_at(self.clock.now_ns, self._form, PLAN)

    def _resume(self, key: int, now: int) -> None:
        """Go on with a suspended step where it stopped."""
        step = self._stopped.pop(key, None)
        if step is None or step.run is None:
            raise LawBroken("resume", f"no suspended step {key}", time_ns=now)
        del self.queues.suspended[key]
        step.start_ns, self._step = now, step
        self._observe(step)
        step.run.start()

    def _move(self, plan: Plan, now: int) -> None:
        """Apply the plan to the queues, and start its fetches."""
        queues = self.queues
        for request in queues.move(plan, now):
            self._load(request, now)
        if len(self.running) > self.scheduler.max_num_seqs:
            raise LawBroken("max_num_seqs", f"{len(self.running)} requests run", time_ns=now)
        self.view.num_running = len(self.running)
        self.view.num_waiting = queues.num_waiting
        self.view.free_blocks = self.ledger.free

    def _load(self, request: Request, now: int) -> None:
        """Fetch the KV of a request, handed over or from the offload tiers, into the blocks that it holds."""
        fetch, ready = self.fetch, request.remote_tokens
        if not ready and self._offload is not None:
            fetch, ready = self._offload.fetch, self._offload.claimed_tokens(request)
        if fetch is None or not ready or request.blocks * self.ledger.block_size < ready:
            raise LawBroken("fetch", "nothing to fetch from, or no blocks", time_ns=now, request=request.id)

        def arrived() -> None:
            request.computed_tokens, request.remote_tokens = ready, 0
            request.kv_arrived_ns = self.clock.now_ns
            self.queues.loaded[request.id] = self.queues.loading.pop(request.id)
            self.wake(always=True)

        fetch(request, arrived)

    def _advance(self, step: Step, tokens_of: Mapping[Seen, int], running: Mapping[int, Request]) -> None:
        """Check the token map and advance computed tokens, gathering what the price depends on."""
        size, start = self.ledger.block_size, step.start_ns
        prefill: list[tuple[int, int]] = []
        context = total = cut = irregular = 0
        most_left = 1 << 62
        for request, tokens in cast("Mapping[Request, int]", tokens_of).items():
            if request.id not in running:
                raise LawBroken("running", "a request that does not run got tokens", time_ns=start,
                                request=request.id)  # fmt: skip
            known, after = request.num_tokens, request.computed_tokens + tokens
            if tokens < 1 or after > known or after > request.blocks * size:
                raise LawBroken("tokens", f"{tokens} tokens do not fit {request}", time_ns=start,
                                request=request.id)  # fmt: skip
            request.computed_tokens = after
            if tokens == 1:
                context += after
            else:
                prefill.append((tokens, after - tokens))
                total += tokens
            if after != known:
                cut += 1
                continue
            left = request.final_tokens - after
            if left < most_left:
                most_left = left
            if request.last_token_ns != start:
                irregular += 1
        batch = list(cast("Mapping[Request, int]", tokens_of))
        decode = len(batch) - len(prefill)
        total += decode
        if total > self.scheduler.max_num_batched_tokens:
            raise LawBroken("budget", f"{total} tokens in one step", time_ns=start)
        step.prefill, step.decode, step.context, step.sampled = prefill, decode, context, len(batch) - cut
        step.regular, step.tokens, step.left, step.batch = step.sampled - irregular, total, most_left, batch

    def _price(self, step: Step) -> None:
        """Set the duration; for a plan that repeats, of all steps up to the next change."""
        plan = step.plan
        alike = plan.repeats and step.regular == step.decode == len(plan.tokens)
        leaps = alike and self._leap and self.on_tokens is None
        count = step.steps_that_fit(self.ledger.block_size, self.ledger.free) if leaps and step.left > 1 else 1
        if count > 1:
            durations = self.cost.decode_run_ns(step.decode, step.context, count)
            step.ends = _running_sum(durations)
            step.first_ns, step.last_ns = durations.item(0), durations.item(-1)
            step.durations, step.duration_ns = durations, step.ends.item(-1)
        else:
            step.duration_ns = self._step_ns(step)
            step.first_ns = step.last_ns = step.duration_ns
        if step.duration_ns < 1:
            raise LawBroken("progress", "a step takes no time", time_ns=step.start_ns)
        step.count = count
        step.arrival_breaks = count > 1 and plan.arrival_breaks

    def _step_ns(self, step: Step) -> int:
        """The price of one step, after the swap copies that its plan ordered."""
        price = self.cost.step_ns(step.prefill, step.decode, step.context, step.sampled)
        if self._swap is None:
            return price
        out_ns, back_ns = self._swap.settle_ns()
        for lane, start, duration in ((Lane.PCIE_OUT, step.start_ns, out_ns),
                                      (Lane.PCIE_IN, step.start_ns + out_ns, back_ns)):  # fmt: skip
            if duration:
                self._note_lane(lane, start, start + duration)
        return out_ns + back_ns + price

    def _cut(self, step: Step) -> None:
        """End a leap at the first step boundary at or after now."""
        elapsed = self.clock.now_ns - step.start_ns
        count = int(step.ends.searchsorted(elapsed)) + 1
        step.arrival_breaks = False
        if count >= step.count:
            return
        if self._timer is not None:
            self._timer.cancel()
        step.count = count
        if self.on_cut is not None:
            self.on_cut(step.durations, count)
        step.duration_ns, step.last_ns = step.ends.item(count - 1), step.durations.item(count - 1)
        self._timer = self.clock.call_at(step.start_ns + step.duration_ns, self._finish, self._commit)

    def _observe(self, step: Step) -> None:
        """Note the state in which the step starts, and tell an observer."""
        ledger = self.ledger
        step.used = step.last_used = ledger.total - ledger.free
        step.running = len(self.running)
        step.waiting = self.view.num_waiting
        if self._observer is not None:
            self._observer(step.start_ns, step.duration_ns, step.plan, self.ledger.free)

    def _finish(self) -> None:
        """Commit the tokens of the step that ends now, end requests, record, and go on."""
        step = self._step
        assert step is not None
        self._step = self._timer = None
        end = step.start_ns + step.duration_ns
        done = self._commit_many(step, end) if step.count > 1 else self._commit_one(step, end)
        if self._offload is not None and step.prefill:
            self._store_prompts(step, self._offload)
        if self.on_tokens is not None:
            self.on_tokens(step)
        step.log_to(self.step_log)
        for request in done:
            self._drop(request)
        if self.hand_over is not None:
            self._hand_over_all(self.hand_over)
        self.view.num_running = len(self.running)
        self.view.free_blocks = self.ledger.free
        for request in done:
            self._on_end(request, Outcome.FINISHED)
        if not self.queues.can_go_on:
            return
        if self.clock.later():
            if self._timer is not None:
                self._timer.cancel()
            self._form()
        elif self._timer is None:
            self._timer = self.clock.call_at(end, self._form, PLAN)

    def _drop(self, request: Request) -> None:
        """Take out a request that has ended, and its blocks."""
        del self.running[request.id]
        self.ledger.release(request)
        self.ledger.forget(request)

    def _store_prompts(self, step: Step, offload: OffloadTiers) -> None:
        """Copy what the step computed of prompts to the offload tiers."""
        for seen, tokens in step.plan.tokens.items():
            if seen.computed_tokens - tokens < seen.prompt_tokens:
                offload.store(self.running[seen.id], min(seen.computed_tokens, seen.prompt_tokens))

    def _hand_over_all(self, hand_over: Callable[[Request], None]) -> None:
        """Pass on requests that have their first token; their blocks stay until `free_kv`."""
        for request in [r for r in self.running.values() if r.num_tokens > r.prompt_tokens]:
            del self.running[request.id]
            hand_over(request)

    def _commit_one(self, step: Step, end: int) -> list[Request]:
        """Give each request that caught up its token."""
        done: list[Request] = []
        start = step.start_ns
        for request in step.batch:
            known = request.num_tokens
            if request.computed_tokens != known:
                continue
            last = request.last_token_ns
            if last != start:
                if last < 0:
                    request.first_token_ns = end
                else:
                    self.itl_gaps.append(end - last)
            request.last_token_ns = end
            request.num_tokens = known = known + 1
            if known == request.final_tokens:
                done.append(request)
        return done

    def _commit_many(self, step: Step, end: int) -> list[Request]:
        """Give each request of a leap its tokens and blocks."""
        more = step.count - 1
        for request in step.batch:
            computed = request.computed_tokens = request.num_tokens + more
            request.num_tokens = computed + 1
            request.last_token_ns = end
        if not self.ledger.advance(step.batch, more):
            raise LawBroken("blocks", "a leap ran out of blocks", time_ns=end)
        step.last_used = self.ledger.used
        return [r for r in step.batch if r.num_tokens == r.final_tokens] if step.count == step.left else []
