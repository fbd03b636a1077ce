"""Source, router and instances on one clock: plays a request set and returns the trace."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from simserve.errors import LawBroken, SimserveError
from simserve.perf.cost import CostModel
from simserve.sim.clock import ARRIVAL, Clock
from simserve.sim.confidence import Confidence
from simserve.sim.diffusion_instance import DiffusionInstance
from simserve.sim.front import FrontEnd
from simserve.sim.hybrid_instance import HostTier, HybridInstance
from simserve.sim.instance import Instance, Observer
from simserve.sim.kv import BlockLedger
from simserve.sim.lanes import GpuLanes
from simserve.sim.link import Link
from simserve.sim.offload import OffloadTiers
from simserve.sim.pipeline import PipelinedInstance
from simserve.sim.plan import InstanceView, Router, Scheduler
from simserve.sim.prefix import PrefixLedger
from simserve.sim.request import Outcome, Request
from simserve.sim.source import Load, Source, source
from simserve.sim.step import Step
from simserve.sim.swap import SwapSpace
from simserve.sim.trace import REQUEST_COLUMNS, Spans, Trace, columns, pack_request, step_columns

OffloadOf = Callable[[PrefixLedger], OffloadTiers]


class Cluster:
    """Instances behind one router.

    Build it, `add` instances, `play` a load. snapshot_interval_ns: the router reads instance views that are
    refreshed at most that often (0: always fresh). front: what requests pass before they are routed, None for nothing.
    watch: called with each request that ends; what it raises ends the run.
    """

    def __init__(self, router: Router, *, snapshot_interval_ns: int = 0, leap: bool = True) -> None:
        self.front: FrontEnd | None = None
        self.watch: Callable[[Request, Outcome], None] | None = None
        self.clock, self.spans = Clock(), Spans()
        self.router = router
        self.instances: list[Instance] = []
        self.request_log = array("q")
        self.in_flight: dict[int, Request] = {}
        self._interval, self._leap = snapshot_interval_ns, leap
        self._views: list[InstanceView] = []
        self._depths: list[int] = []
        self._refreshed_ns = -1
        self._reads_blocks: bool = getattr(router, "reads_blocks", False)
        self._source: Source | None = None
        self._first_behind_ns: dict[int, int] = {}  # of requests whose first token waited in the front end

    def add(
        self, scheduler: Scheduler, cost: CostModel, *, num_gpu_blocks: int, block_size: int,
        enable_prefix_caching: bool = False, max_model_len: int | None = None,
        observer: Observer | None = None, gpu: GpuLanes | None = None, swap: SwapSpace | None = None,
        offload: OffloadOf | None = None, async_scheduling: bool = False, stages: int = 1,
        tier: HostTier | None = None, confidence: Confidence | None = None, make: Callable[..., Instance] | None = None,
    ) -> Instance:  # fmt: skip
        """One more instance; its index is the order of adding.

        offload: makes its offload tiers from its ledger; they need prefix caching, for they go by block hashes. stages:
        pipeline stages, of which `cost` then prices each. tier: a host with KV of running requests. confidence: how
        sure a diffusion model is of its requests' tokens; such an instance has a `Denoiser` for a scheduler. make: what
        makes it, for kinds that these do not tell.
        """
        ledger = (PrefixLedger if enable_prefix_caching else BlockLedger)(num_gpu_blocks, block_size)
        if offload is not None and not isinstance(ledger, PrefixLedger):
            raise SimserveError("prefix offload needs enable_prefix_caching")
        kind: Callable[..., Instance] = Instance if stages == 1 else partial(PipelinedInstance, stages=stages)
        if tier is not None:
            kind = partial(HybridInstance, tier=tier)
        if make is not None:
            kind = make
        if confidence is not None:
            kind = partial(DiffusionInstance, confidence=confidence)
        instance = kind(
            len(self.instances), self.clock, scheduler, ledger, cost,
            on_end=self._end, max_model_len=max_model_len, leap=self._leap, observer=observer,
            gpu=gpu, swap=swap, spans=self.spans, async_scheduling=async_scheduling,
            offload=offload(ledger) if offload is not None and isinstance(ledger, PrefixLedger) else None,
        )  # fmt: skip
        self.instances.append(instance)
        self._views.append(instance.view)
        self._depths.append(stages)
        return instance

    def link(
        self, name: str, *, bandwidth_bytes_per_s: int, latency_ns: int = 0, launch_ns: int = 0
    ) -> Link:  # fmt: skip
        """A link on this cluster's clock, whose transfers are in the trace under `name`."""
        return Link(
            self.clock, bandwidth_bytes_per_s=bandwidth_bytes_per_s, latency_ns=latency_ns, launch_ns=launch_ns,
            note=self.spans.of(name),
        )  # fmt: skip

    def play(self, load: Load, *, until_ns: int | None = None) -> Trace:
        """Run `load` to its end, or up to `until_ns`; what is then in flight is UNFINISHED."""
        total = len(load.arrival_ns)
        self._source = source(load, self.clock, self.arrive if self.front is None else self._receive)
        # Of plain replicas alone; what pools, stages and other models stream is not modelled.
        plain = all(type(i) is Instance and i.hand_over is None for i in self.instances)
        if self.front is not None and self.front.ns_per_output_token and plain:
            for instance in self.instances:
                instance.on_tokens = self._stream
        self._source.start()
        self.clock.run(until_ns)
        for request in list(self.in_flight.values()):
            self._end(request, Outcome.UNFINISHED)
        steps = step_columns([i.step_log for i in self.instances])
        requests = columns(self.request_log, REQUEST_COLUMNS)
        order = np.argsort(requests["id"])
        trace = Trace(
            requests={name: column[order] for name, column in requests.items()},
            steps=steps,
            itl_gaps_ns=np.concatenate([np.array(i.itl_gaps, dtype=np.int64) for i in self.instances]),
            total_blocks=[i.ledger.total for i in self.instances],
            end_ns=max(int(steps["end_ns"].max(initial=0)), int(requests["finish_ns"].max(initial=0)), until_ns or 0),
            truncated=sum(i.truncated for i in self.instances),
            resources=self.spans.resources,
            depths=self._depths,
            spans=self.spans.table(),
            hosts=[i.use for i in self.instances if isinstance(i, HybridInstance)],
            denoising=[i.use for i in self.instances if isinstance(i, DiffusionInstance)],
        )
        if until_ns is None and len(trace.requests["id"]) != total:
            raise LawBroken("conservation", f"{len(trace.requests['id'])} of {total} requests ended")
        return trace

    def _receive(self, request: Request) -> None:
        """Hand a request to the front end, which lets it arrive when it is through."""
        assert self.front is not None
        self.in_flight[request.id] = request
        ready_ns = self.front.ready_ns(self.clock.now_ns, request.prompt_tokens)
        self.clock.call_at(ready_ns, lambda: self.arrive(request), ARRIVAL)

    def _stream(self, step: Step) -> None:
        """The tokens of a step that ends now pass the front end, the first ones of requests among them."""
        assert self.front is not None
        now = self.clock.now_ns
        self.front.stream(now, step.sampled)
        for request in step.batch:
            if request.first_token_ns == now:
                self._first_behind_ns[request.id] = self.front.behind_ns

    def arrive(self, request: Request) -> None:
        """Route a request that arrives now; REJECTED when every instance refuses it."""
        self.in_flight[request.id] = request
        first = self.router.route(request, self._snapshot())
        if self.instances[first].submit(request):
            return
        for index, instance in enumerate(self.instances):
            if index != first and instance.submit(request):
                return
        self._end(request, Outcome.REJECTED)

    def _snapshot(self) -> Sequence[InstanceView]:
        now = self.clock.now_ns
        if self._interval and self._refreshed_ns >= 0 and now - self._refreshed_ns < self._interval:
            return self._views
        if self._reads_blocks:
            for instance in self.instances:
                instance.refresh_view()
        if self._interval:
            self._refreshed_ns = now
            self._views = [
                InstanceView(v.index, now, v.num_running, v.num_waiting, v.free_blocks, v.total_blocks)
                for v in (i.view for i in self.instances)
            ]
        return self._views

    def _end(self, request: Request, outcome: Outcome) -> None:
        """A request leaves its instance; the last token of one that finished may still be in the front end."""
        behind_ns = self.front.behind_ns if self.front is not None and outcome is Outcome.FINISHED else 0
        if behind_ns:
            sent_ns = self.clock.now_ns + behind_ns
            self.clock.call_at(sent_ns, lambda: self._record(request, outcome, behind_ns), ARRIVAL)
        else:
            self._record(request, outcome, 0)

    def _record(self, request: Request, outcome: Outcome, behind_ns: int) -> None:
        finished = outcome is Outcome.FINISHED
        first_ns = request.first_token_ns + self._first_behind_ns.pop(request.id, 0)
        self.request_log.frombytes(pack_request(
            request.id, request.arrival_ns, request.first_scheduled_ns, first_ns,
            request.last_token_ns + behind_ns if finished else -1, request.prompt_tokens,
            request.num_tokens - request.prompt_tokens, request.instance, request.preemptions, int(outcome),
            request.cached_tokens, request.prefill_instance, request.kv_arrived_ns,
        ))  # fmt: skip
        del self.in_flight[request.id]
        if self._source is not None and outcome is not Outcome.UNFINISHED:
            self._source.ended(request.id)
            if self.watch is not None:
                self.watch(request, outcome)
