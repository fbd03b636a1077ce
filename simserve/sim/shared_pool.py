"""Prefill and decode as two asynchronous workers on the same GPU, with one copy of the weights and one KV pool.

A request is prefilled by one worker and decoded by the other, its KV stays in the blocks where it is. What the decode
worker preempts goes back to the head of the prefill worker's queue. After every window of decode steps a controller
may change the shares of the SMs that the workers have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from simserve.perf.cost import CostModel
from simserve.perf.lane_split import LanePart
from simserve.sim.cluster import Cluster
from simserve.sim.instance import Instance
from simserve.sim.kv import BlockLedger
from simserve.sim.lanes import Part
from simserve.sim.partition import PartitionedGpu
from simserve.sim.plan import InstanceView, Lane, Plan, Router, Scheduler, WorkKind
from simserve.sim.request import Outcome, Request
from simserve.sim.shares import ShareController, Window
from simserve.sim.step import Step

# (prefill, decode_seqs, decode_context_tokens, sampled, ns of the whole step) -> its parts
Split = Callable[[Sequence[tuple[int, int]], int, int, int, int], list[LanePart]]
LANES = (Lane.COMPUTE, Lane.HBM, Lane.NETWORK, Lane.CPU)  # of a LanePart


class PoolWorker(Instance):
    """One of the two; `pool` is the ledger of both, `partner` the other one. busy_ns: time of its steps so far."""

    partner: PoolWorker
    ended: Callable[[int, bool], None]  # (start of a step, whether the worker goes on)

    def __init__(
        self, index: int, clock: Any, scheduler: Scheduler, _: BlockLedger, cost: CostModel, *, pool: BlockLedger,
        kind: WorkKind, split: Split, gpu: PartitionedGpu, **others: Any,
    ) -> None:  # fmt: skip
        super().__init__(index, clock, scheduler, pool, cost, gpu=gpu, **others)
        self.kind, self.busy_ns = kind, 0
        self._split, self._partitioned = split, gpu

    def take_back(self, request: Request) -> None:
        """Compute again what the partner preempted."""
        self.queues.preempted[request.id] = request
        request.instance = self.view.index
        self.view.num_waiting += 1
        self.wake(always=True)

    def _move(self, plan: Plan, now: int) -> None:
        super()._move(plan, now)
        if self.kind is WorkKind.PREFILL or not plan.preempted:
            return
        for seen in plan.preempted:
            self.partner.take_back(self.queues.preempted.pop(seen.id))
        self.view.num_waiting = self.queues.num_waiting

    def _parts(self, step: Step) -> list[Part]:
        self._partitioned.adopt(self.kind)
        parts = self._split(step.prefill, step.decode, step.context, step.sampled, self._step_ns(step))
        return [(self.kind, {lane: ns for lane, ns in zip(LANES, part, strict=True) if ns}) for part in parts]

    def _finish(self) -> None:
        start = self._step.start_ns if self._step is not None else self.clock.now_ns
        self.busy_ns += self.clock.now_ns - start
        super()._finish()
        self.ended(start, bool(self.running))
        if self.partner.queues.can_go_on:
            self.partner.wake(always=True)  # blocks may be free

    def _hand_over_all(self, hand_over: Callable[[Request], None]) -> None:
        """Pass on requests of which one token is left to compute: the newest, or the last one of a cut prompt."""
        for request in [r for r in self.running.values() if r.num_tokens - r.computed_tokens == 1]:
            del self.running[request.id]
            hand_over(request)


class SharedPoolCluster(Cluster):
    """Pairs of workers behind one router, which sees each pair as one instance."""

    def __init__(
        self, router: Router, *, controller: Callable[[], ShareController], split: Split,
        snapshot_interval_ns: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(router, snapshot_interval_ns=snapshot_interval_ns, leap=False)
        self.pairs: list[Pair] = []
        self._controller, self._split = controller, split

    def add(self, scheduler: Scheduler, cost: CostModel, **options: Any) -> Instance:
        """One more pair; the index of the worker that prefills is even. Returns that one, which takes requests."""
        controller = self._controller()
        prefill, decode = controller.shares
        gpu = PartitionedGpu(self.clock, {WorkKind.PREFILL: prefill, WorkKind.DECODE: decode})
        pool = BlockLedger(options["num_gpu_blocks"], options["block_size"])

        def worker(kind: WorkKind) -> PoolWorker:
            def make(*args: Any, **others: Any) -> PoolWorker:
                return PoolWorker(*args, pool=pool, kind=kind, split=self._split, **{**others, "gpu": gpu})

            made = Cluster.add(self, copy(scheduler), cost, **{**options, "make": make})
            assert isinstance(made, PoolWorker)
            return made

        self.pairs.append(Pair(worker(WorkKind.PREFILL), worker(WorkKind.DECODE), gpu, controller))
        return self.pairs[-1].prefill

    def arrive(self, request: Request) -> None:
        """Route a request that arrives now to a pair."""
        self.in_flight[request.id] = request
        views = self._snapshot()
        both = [_both(index, views[2 * index], views[2 * index + 1]) for index in range(len(self.pairs))]
        first = self.router.route(request, both)
        for pair in (self.pairs[first], *(p for i, p in enumerate(self.pairs) if i != first)):
            if pair.prefill.submit(request):
                return
        self._end(request, Outcome.REJECTED)


class Pair:
    """Two workers, their GPU, and who decides on its shares. decisions: (ns, prefill share, decode share)."""

    def __init__(
        self, prefill: PoolWorker, decode: PoolWorker, gpu: PartitionedGpu, controller: ShareController
    ) -> None:
        self.prefill, self.decode, self.gpu = prefill, decode, gpu
        self.decisions: list[tuple[int, int, int]] = [(0, *controller.shares)]
        self._controller = controller
        prefill.partner, decode.partner = decode, prefill
        prefill.hand_over = self._hand_over
        prefill.ended = lambda start, on: None
        decode.ended = self._decoded
        self._ttft_ns: list[int] = []
        self._gaps_ns: list[int] = []
        self._last_ns = -1
        self._since = (0, 0)

    def _hand_over(self, request: Request) -> None:
        """A request has been prefilled: the other worker goes on with the blocks that it holds."""
        now = self.prefill.clock.now_ns
        if request.last_token_ns == request.first_token_ns == now:
            self._ttft_ns.append(request.first_token_ns - request.arrival_ns)
        request.prefill_instance, request.kv_arrived_ns = self.prefill.view.index, now
        self.decode.submit(request)

    def _decoded(self, start_ns: int, goes_on: bool) -> None:
        """A decode step has ended."""
        now = self.decode.clock.now_ns
        self._gaps_ns.append(now - (self._last_ns if self._last_ns >= 0 else start_ns))
        self._last_ns = now if goes_on else -1
        if self._controller.window_size and len(self._gaps_ns) >= self._controller.window_size:
            self._decide(now)

    def _decide(self, now: int) -> None:
        """Close the window, and want what the controller says of it."""
        began, busy = self._since
        share = min(1.0, (self.prefill.busy_ns - busy) / max(now - began, 1))
        shares = self._controller.adjust(Window(tuple(self._ttft_ns), tuple(self._gaps_ns), share))
        self._since = now, self.prefill.busy_ns
        self._ttft_ns.clear()
        self._gaps_ns.clear()
        if shares != self.decisions[-1][1:]:
            self.decisions.append((now, *shares))
            self.gpu.wanted = dict(zip((WorkKind.PREFILL, WorkKind.DECODE), shares, strict=True))


def _both(index: int, prefill: InstanceView, decode: InstanceView) -> InstanceView:
    """A pair as one instance; the pool is that of both."""
    return InstanceView(
        index, prefill.taken_at_ns, prefill.num_running + decode.num_running, prefill.num_waiting + decode.num_waiting,
        prefill.free_blocks, prefill.total_blocks,
    )  # fmt: skip
