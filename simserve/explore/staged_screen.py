"""The screen's estimates for layouts of stages: a network of queues, whose stages slow one another on shared GPUs.

A request's images wait for one of n encoders (Sakasegawa's approximation of n servers) and are encoded, or their tiles
by k of them at once, which are then n / k servers k times as fast; its prompt waits for a process that prefills, whose
times are taken to vary as much as random ones; its KV leaves; it decodes as in `simserve.explore.screen`, in the same
process, whose prompts then lengthen its steps, or in another. Requests are shared out in proportion to capacity. A
stage that cannot keep up passes on what it can, and the backlog of a finite run is half of it on average. Roles that
change are left out.

Beside another process on its GPU a stage goes on at a rate of 1 - sum (1 - 1 / s) a, s the system's slowdown beside
another kind of work and a the share of the time in which there is such work: E and P by their utilisation, D as often
as one request decodes at least (1 - exp(-b), arrivals being random). Features share their link (processor sharing).
Utilisations, slowdowns, decode batches and, in a closed loop, the arrival rate (Little's law) are iterated to their
common fixed point. A ranking aid: what is reported is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.sim.handover import PARTS, Stages
from simserve.sim.plan import WorkKind
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.explore.load import Load
    from simserve.explore.screen import Curves

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_ROUNDS = 60
_BUSIEST = 0.95  # utilisation beyond which theory's queue is of no finite run, as in the screen of other models
_SLOWEST = 0.05  # rate beside others
_KINDS = (WorkKind.ENCODE, WorkKind.PREFILL, WorkKind.DECODE)


@dataclass(frozen=True)
class EncoderStage:
    """A process that encodes only. place: whose GPU it is on; pass_s: of the mean request with new images; cv2: squared
    variation of that."""

    place: int
    pass_s: float
    cv2: float


@dataclass(frozen=True)
class ModelStage:
    """A process with the language model.

    prefills, decodes: what it does; curves, member: its prices; encode_s: of images that it encodes itself, mean over
    all requests; kv_s: how long the KV of a prompt keeps its link busy; late_s: how long after the prompt the last of
    it is there.
    """

    place: int
    prefills: bool
    decodes: bool
    curves: Curves
    member: int
    encode_s: float = 0.0
    kv_s: float = 0.0
    late_s: float = 0.0


@dataclass(frozen=True)
class Layout:
    """The processes of one kind of layout, whatever its counts. slowdowns, feature_link: as of `StagedSystem`."""

    encoders: Sequence[EncoderStage]
    models: Sequence[ModelStage]
    stages: Stages
    slowdowns: Mapping[tuple[WorkKind, WorkKind], int]
    feature_link: tuple[int, int]


def estimate_layouts(layout: Layout, counts: Ints, gpus: Floats, load: Load) -> Floats:
    """Rows: utilisation, TPOT ms, TTFT ms, tokens/s/GPU; columns: rows of `counts`, whose columns are places."""
    return _Network(layout, counts, load).solved(gpus)


class _Network:
    """The queues of one kind of layout, for all its counts at once."""

    def __init__(self, layout: Layout, counts: Ints, load: Load) -> None:
        self.layout, self.load = layout, load
        self.n = counts.astype(np.float64).T  # by place
        size = len(counts)
        self.slow = [1.0 - PARTS / layout.slowdowns.get((a, b), PARTS) for a in _KINDS for b in _KINDS]
        self.processes: list[EncoderStage | ModelStage] = [*layout.encoders, *layout.models]
        self.active = [np.zeros((3, size)) for _ in self.processes]
        self.tpot = [np.full(size, m.curves.step_s[0]) for m in layout.models]
        open_loop = load.concurrency is None and np.isfinite(load.rate_rps)
        self.requests = None if open_loop else float(load.concurrency or load.requests)
        self.rate = np.full(size, load.rate_rps if open_loop else 1e-3)
        shown = load.shown
        self.shown, self.new = (shown.share, shown.new_share) if shown is not None else (0.0, 0.0)
        self._features()

    def _features(self) -> None:
        """Seconds of fetching one request's features, and of scheduling it."""
        latency_ns, rate = self.layout.feature_link
        s, shown, fetchers = self.layout.stages, self.load.shown, sum(self.n[m.place] for m in self._prefilling())
        fetched = shown is not None and bool(self.layout.encoders)
        tokens, size = (shown.image_tokens, shown.feature_bytes) if shown is not None else (0.0, 0.0)
        self.schedule_s = (s.schedule_ns + s.schedule_ns_per_token * tokens) / NS_PER_S if fetched else 0.0
        self.link_s = size / rate if fetched and rate else 0.0
        self.fetchers = fetchers
        self.latency_s = latency_ns / NS_PER_S if fetched else 0.0
        blocks = fetched and not s.prefetch
        self.blocking_s = (self.link_s + self.latency_s + s.blocking_ns / NS_PER_S) * blocks

    def _prefilling(self) -> list[ModelStage]:
        return [m for m in self.layout.models if m.prefills]

    def solved(self, gpus: Floats) -> Floats:
        """See `estimate_layouts`."""
        for _ in range(_ROUNDS):
            busy, ttft_s, tpot_s = self._round()
            if self.requests is not None:
                each_s = ttft_s + tpot_s * max(0.0, self.load.output_tokens - 1)
                self.rate = np.sqrt(self.rate * np.minimum(self.requests / each_s, self.rate / np.maximum(busy, 1e-9)))
        served = self.rate * np.minimum(1.0, 1.0 / np.maximum(busy, 1e-9))
        tokens = self.load.prompt_tokens + self.load.output_tokens
        return np.stack([busy, tpot_s * 1e3, ttft_s * 1e3, served * tokens / gpus])

    def _factor(self, process: int, place: int, kind: int) -> Floats:
        """How many times as long work of a kind takes beside the other processes of its place."""
        found = np.ones_like(self.rate)
        for other, peer in enumerate(self.processes):
            if other != process and peer.place == place:
                found -= sum(self.slow[3 * kind + k] * self.active[other][k] for k in range(3))
        return 1.0 / np.maximum(_SLOWEST, found)

    def _round(self) -> tuple[Floats, Floats, Floats]:
        """(utilisation of the busiest stage, TTFT s, TPOT s) with the slowdowns of the round before."""
        busy_e, encode_s = self._encode()
        flow = self.rate * (1 - self.new + self.new / np.maximum(1.0, busy_e))
        busy_f, fetch_s = self._fetch(flow)
        flow = flow * (1 - self.shown + self.shown / np.maximum(1.0, busy_f))
        busy_p, prompt_s, shares = self._prefill(flow)
        through = flow / np.maximum(1.0, busy_p)
        sent = through * (1.0 - sum((shares[i] for i, m in enumerate(self.layout.models) if m.prefills and m.decodes),
                                    np.zeros_like(through)))  # fmt: skip
        busy_d, apart_s, late_s = self._decode(sent)
        own = [(shares[i], self.tpot[i]) for i, m in enumerate(self.layout.models) if m.prefills and m.decodes]
        own_share = sum((share for share, _ in own), np.zeros_like(through))
        tpot_s = sum((share * t for share, t in own), (1.0 - own_share) * apart_s)
        outputs = max(1.0, self.load.output_tokens - 1)
        first = self.layout.stages.decode_answers
        late_s, half_s = (1.0 - own_share) * late_s, sum((share * t / 2 for share, t in own), np.zeros_like(through))
        behind_s = (1.0 - own_share) * self._backlog(busy_d)
        after_s = late_s + behind_s + (1.0 - own_share) * 1.5 * apart_s if first else np.zeros_like(through)
        tpot_s = tpot_s if first else tpot_s + (late_s + behind_s) / outputs
        ttft_s = self.layout.stages.proxy_ns / NS_PER_S + encode_s + fetch_s + prompt_s + half_s + after_s
        return np.max([busy_e, busy_f, busy_p, busy_d], axis=0), np.asarray(ttft_s), np.asarray(tpot_s)

    def _fetch(self, flow: Floats) -> tuple[Floats, Floats]:
        """(utilisation of the link of features, seconds of scheduling a prompt and of fetching beside it, mean)."""
        if not self.layout.stages.prefetch:
            return np.zeros_like(flow), np.full_like(flow, self.shown * self.schedule_s)
        busy = flow * self.shown * self.link_s / self.fetchers
        fetch_s = self.latency_s + self.link_s / (1.0 - np.minimum(_BUSIEST, busy)) + self._backlog(busy)
        return busy, np.asarray(self.shown * np.maximum(self.schedule_s, fetch_s))

    def _encode(self) -> tuple[Floats, Floats]:
        """(utilisation, seconds of waiting and encoding, mean over all requests)."""
        if not self.layout.encoders or not self.new:
            return np.zeros_like(self.rate), np.zeros_like(self.rate)
        took = [e.pass_s * self._factor(i, e.place, 0) for i, e in enumerate(self.layout.encoders)]
        each = [self.n[e.place] / s for e, s in zip(self.layout.encoders, took, strict=True)]
        servers = sum(self.n[e.place] for e in self.layout.encoders)
        capacity = sum(each)
        busy = self.rate * self.new / capacity
        for i in range(len(took)):
            self._settle(i, 0, np.minimum(1.0, busy))
        assert self.load.shown is not None
        spread = np.minimum(servers, self.load.shown.tiles if self.layout.stages.spread else 1.0)
        mean_s, cv2 = servers / capacity / spread, self.layout.encoders[0].cv2
        variation = (self.load.arrival_cv**2 + cv2) / 2
        wait_s = _queue_s(busy, mean_s, servers / spread, variation) + self._backlog(busy)
        return np.asarray(busy), np.asarray(self.new * (wait_s + mean_s))

    def _prefill(self, flow: Floats) -> tuple[Floats, Floats, dict[int, Floats]]:
        """(utilisation, seconds of waiting and prefill, share of the requests of each process)."""
        first, capacity, alone, taken = len(self.layout.encoders), {}, {}, {}
        for i, m in enumerate(self.layout.models):
            if not m.prefills:
                continue
            slow = self._factor(first + i, m.place, 1)
            own_s = m.encode_s * self._factor(first + i, m.place, 0) + self.shown * self.blocking_s
            alone[i] = own_s + m.curves.alone_s[m.member] * slow
            taken[i] = own_s + m.curves.per_prompt_s[m.member] * slow
            whole_s = np.maximum(taken[i], m.kv_s)
            if m.decodes:
                most = m.curves.most[m.member]
                step_s = float(m.curves.step(most)) * self._factor(first + i, m.place, 2)
                whole_s = taken[i] + self.load.output_tokens * step_s / most
            capacity[i] = self.n[m.place] / whole_s
        total = sum(capacity.values())
        busy, shares = flow / total, {i: c / total for i, c in capacity.items()}
        seconds = np.zeros_like(flow)
        for i, share in shares.items():
            m = self.layout.models[i]
            each = np.minimum(flow, total) * share / self.n[m.place]
            used = np.minimum(1.0, each * taken[i])
            self._settle(first + i, 1, used)
            servers = sum(self.n[o.place] for o in self._prefilling())
            wait_s = _queue_s(each * alone[i], alone[i], servers, (1.0 + self.load.arrival_cv**2) / 2)
            seconds += share * (wait_s + alone[i])
            if m.decodes:
                self._steps(i, each, each * alone[i])
        return np.asarray(busy), seconds + self._backlog(busy), shares

    def _decode(self, sent: Floats) -> tuple[Floats, Floats, Floats]:
        """(utilisation, TPOT s, seconds until the KV of a prompt is there) of processes that decode only."""
        nothing, first = np.zeros_like(sent), len(self.layout.encoders)
        takers = [(i, m) for i, m in enumerate(self.layout.models) if m.decodes and not m.prefills]
        if not takers:
            return nothing, nothing, nothing
        capacity = {}
        for i, m in takers:
            most = m.curves.most[m.member]
            step_s = float(m.curves.step(most)) * self._factor(first + i, m.place, 2)
            capacity[i] = self.n[m.place] * most / (self.load.output_tokens * step_s)
        total = sum(capacity.values())
        tpot_s = nothing
        for i, m in takers:
            share = capacity[i] / total
            self._steps(i, np.minimum(sent, total) * share / self.n[m.place], nothing)
            tpot_s = tpot_s + share * self.tpot[i]
        late = [m.late_s for m in self._prefilling() if not m.decodes]
        return np.asarray(sent / total), tpot_s, nothing + (sum(late) / len(late) if late else 0.0)

    def _steps(self, index: int, rate: Floats, prompts: Floats) -> None:
        """A round of the fixed point of a process's step and batch; prompts: share of its time that they take."""
        m, process = self.layout.models[index], len(self.layout.encoders) + index
        most = float(m.curves.most[m.member])
        there = rate * self.load.output_tokens * self.tpot[index]
        step_s = m.curves.step(np.clip(there, 1.0, most)) * self._factor(process, m.place, 2)
        left = np.maximum(0.05, 1.0 - prompts)
        self.tpot[index] = 0.5 * (self.tpot[index] + step_s / left)
        self._settle(process, 2, -np.expm1(-np.minimum(there, most)) * np.maximum(0.0, 1.0 - prompts))

    def _settle(self, process: int, kind: int, active: Floats) -> None:
        """Move the share of the time in which a process does a kind of work half of the way."""
        self.active[process][kind] = 0.5 * (self.active[process][kind] + active)

    def _backlog(self, busy: Floats) -> Floats:
        """Mean wait for a stage that cannot keep up, in a run as long as this one; none in a closed loop."""
        if self.requests is not None:
            return np.zeros_like(busy)
        return np.asarray(np.maximum(0.0, busy - 1.0) * self.load.duration_s / 2.0)


def _queue_s(busy: Floats, service_s: Floats, servers: Floats, variation: float) -> Floats:
    """Sakasegawa's wait for one of some servers; variation: mean of the squared ones of gaps and services."""
    used = np.minimum(_BUSIEST, busy)
    return np.asarray(used ** (np.sqrt(2 * (servers + 1)) - 1) / (servers * (1 - used)) * service_s * variation)
