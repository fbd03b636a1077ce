"""An instance that does something about a request's images before the first step of its prompt, or takes KV in.

It encodes them, where encoder and prefill are one process, or fetches what others encoded, where that is synchronous;
meanwhile nothing else runs in the process. Processes that share the GPU see encoding as such. KV that another process
pushes here gets its blocks when it leaves there, if they are free, and joins the batch of the next step after its
arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from simserve.sim.instance import Instance
from simserve.sim.lanes import Part
from simserve.sim.plan import Lane, WorkKind
from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Request
from simserve.sim.step import Step

Before = Callable[[Request], int]


def nothing(request: Request) -> int:
    """No time: the instance does not do this."""
    return 0


class MultimodalInstance(Instance):
    """encodes, fetches: ns of a request's images before its prompt; fetches keep no GPU busy. computing_ns: when the
    layers of a prompt that is handed over begin, where that is not when its first step does."""

    def __init__(self, *args: Any, encodes: Before = nothing, fetches: Before = nothing, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encodes, self._fetches = encodes, fetches
        self.computing_ns: dict[int, int] = {}

    def receive(self, request: Request) -> bool:
        """Hold blocks for KV that leaves for here; False if others wait for blocks, or there are too few.

        With a prefix cache the scheduler decides what to fetch, so nothing is pushed.
        """
        queues, ledger = self.queues, self.ledger
        if queues.waiting or queues.late or queues.preempted or isinstance(ledger, PrefixLedger):
            return False
        if not ledger.fits(request, request.num_tokens, self._blocks_of_cut_leap()) or not self.submit(request):
            return False
        (queues.late if request.id in queues.late else queues.waiting).pop(request.id)
        ledger.reserve(request, request.num_tokens)
        queues.loading[request.id] = request
        self.view.free_blocks = ledger.free
        return True

    def _blocks_of_cut_leap(self) -> int:
        """Cut a leap, which knew nothing of new requests, after its present step; blocks that it takes till then."""
        if self._step is None or self._step.count == 1:
            return 0
        self._cut(self._step)
        return self._step.unbooked_blocks(self.clock.now_ns, self.ledger.block_size)

    def received(self, request: Request) -> None:
        """The KV that `receive` holds blocks for is here."""
        request.computed_tokens, request.remote_tokens = request.remote_tokens, 0
        request.kv_arrived_ns = self.clock.now_ns
        self.queues.loaded[request.id] = self.queues.loading.pop(request.id)
        self.wake(always=True)

    def _before(self, step: Step) -> tuple[int, int]:
        """(ns of encoding, ns of fetching) for the requests whose prompts begin in this step."""
        begin = [r for r in cast("list[Request]", step.plan.admitted) if r.first_scheduled_ns == step.start_ns]
        new = [r for r in begin if r.images]
        encoding, fetching = sum(self._encodes(r) for r in new), sum(self._fetches(r) for r in new)
        if self.hand_over is not None and (encoding or fetching):
            self.computing_ns.update((r.id, step.start_ns + encoding + fetching) for r in begin)
        return encoding, fetching

    def _step_ns(self, step: Step) -> int:
        on_lanes = self._gpu is not None or step.plan.segments
        return super()._step_ns(step) + (0 if on_lanes else sum(self._before(step)))

    def _parts(self, step: Step) -> list[Part]:
        parts, (encoding, fetching) = super()._parts(step), self._before(step)
        before: list[Part] = [(WorkKind.ENCODE, {Lane.COMPUTE: encoding})] if encoding else []
        return [*before, *([(WorkKind.ENCODE, {Lane.NETWORK: fetching})] if fetching else []), *parts]
