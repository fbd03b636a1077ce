"""The screen's estimates for diffusion models: what a request's passes take where steps are as full as they can be.

The scheduler itself plans a request of mean length alone, with commits at their mean (`program`): N passes. With n
requests at once a step of it takes D(n), its refreshes and reuses in the proportion of the program, so a request takes
N D(n); n is at most max_num_seqs, what the KV pages hold, and the scheduler's mean query tokens of a step over those of
a pass. In lockstep the program is that of a batch, n requests as long, and as slow, as the longest of n: B(n).

S(n) = N D(n), or B(n), is both the latency of a request among n and n times what it takes of a replica: capacity is
n / S(n) at the largest n. At an arrival rate r requests flow in from an empty start, r, and out, n / S(n), so a finite
run's latency follows without and with overload. Chance adds the wait of n servers (Sakasegawa) as far as it builds up
in such a run, in lockstep also half of the batch that is on its way. The first block takes its share of the steps. A
ranking aid: what is reported is simulated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from simserve.sim.confidence import Confidence
from simserve.sim.denoise import Canvas, commit
from simserve.sim.kv import BlockLedger
from simserve.sim.plan import Denoiser, View
from simserve.sim.request import Request
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.explore.load import Load
    from simserve.perf.denoise import DenoiseCost
    from simserve.spec.confidence import ConfidenceSpec
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_STEPS = 64  # in which the flow of a run is followed
_BUSIEST = 0.95  # utilisation beyond which theory's queue is of no finite run, as in the screen of other models
_SERVICE_CV2 = 0.1  # squared variation of what requests take [guessed]
_ROOM = 1 << 40  # KV slots of a request that is alone


@dataclass(frozen=True)
class Program:
    """The passes of one request from admission to its end.

    passes: {(query tokens, cached tokens, rows of logits): how many}; first: how many until the first block is done;
    together: they are those of every row of a batch in lockstep.
    """

    passes: tuple[tuple[tuple[int, int, int], int], ...]
    first: int
    together: bool

    @property
    def steps(self) -> int:
        """All passes."""
        return sum(count for _, count in self.passes)


@lru_cache(maxsize=4096)
def program(
    scheduler: str, options: tuple[tuple[str, Any], ...], prompt: int, canvas: int, confidence: ConfidenceSpec,
    requests: int = 1,
) -> Program:  # fmt: skip
    """What a scheduler does with a request that is alone; requests: of so many it is the slowest."""
    from simserve.systems import SCHEDULERS

    own = cast(Denoiser, SCHEDULERS.get(scheduler)(**{**dict(options), "max_num_batched_tokens": _ROOM}))
    request, sure = Request(0, 0, prompt, canvas), Confidence(confidence, 0).typical(requests)
    request.canvas = Canvas(canvas)
    waiting, running = {0: request}, dict[int, Request]()
    view = View(0, running, waiting, {}, BlockLedger(_ROOM, 1))
    passes: Counter[tuple[int, int, int]] = Counter()
    steps = first = 0
    together = False
    while request.canvas.committed < canvas:
        plan = own.plan(view)
        if plan.admitted:
            running[0] = waiting.pop(0)
        work = (plan.denoise or {})[request]
        passes[plan.tokens[request], work.cached_tokens, work.logit_rows] += 1
        steps, together = steps + 1, work.together
        if commit(request.canvas, work, sure, canvas)[1] and not first:
            first = steps
    return Program(tuple(passes.items()), first, together)


class DenoiseCurves:
    """What one kind of replica makes of its members, which differ in limits and memory.

    most: requests at once; sizes, serve_s: so many of them, and S of the module docstring; first: share of S until the
    first block is done.
    """

    def __init__(
        self, cost: DenoiseCost, group: Sequence[DeploymentSpec], num_gpu_blocks: Sequence[int], load: Load
    ) -> None:
        from simserve.build import build_scheduler

        assert load.canvases is not None
        self._cost, self._load, self._options = cost, load, group[0].scheduler_options
        self._name = group[0].scheduler
        own = self._program(1)
        schedulers = [cast(Denoiser, build_scheduler(engine)) for engine in group]
        self.together, self.first = own.together, own.first / own.steps
        limit = _most_together if own.together else _most_mixed
        found = [limit(s, blocks - 1, load, own) for s, blocks in zip(schedulers, num_gpu_blocks, strict=True)]
        self.most = np.array(found, dtype=np.float64)
        largest = int(np.ceil(self.most.max()))
        sizes = sorted({1, *(2**i for i in range(1, 13) if 2**i < largest), largest})
        serve_ns = [self._batch_ns(n) if own.together else _mixed_ns(cost, own, n) for n in sizes]
        self.sizes, self.serve_s = np.array(sizes, dtype=np.float64), np.array(serve_ns) / NS_PER_S

    def _program(self, requests: int) -> Program:
        canvases = self._load.canvases
        assert canvases is not None
        longest = canvases.longest_of(requests)
        return program(self._name, self._options, *longest, canvases.confidence, requests)

    def _batch_ns(self, requests: int) -> float:
        """Of a whole batch in lockstep."""
        parts = self._program(requests).passes
        return float(sum(count * _step_ns(self._cost, [(work, requests)]) for work, count in parts))

    def serve(self, requests: Floats) -> Floats:
        """S of so many requests at once, seconds."""
        return np.interp(requests, self.sizes, self.serve_s)

    def estimate(self, member: Ints, replicas: Floats, gpus: Floats, load: Load) -> Floats:
        """Rows: utilisation, TPOT ms, TTFT ms, tokens/s/GPU; columns: (member, replicas)."""
        most = self.most[member]
        each_s = self.serve(most) / most
        count = load.requests / replicas
        if load.concurrency is not None or not np.isfinite(load.rate_rps):
            there = np.maximum(1.0, count if load.concurrency is None else load.concurrency / replicas)
            serve_s = self.serve(np.minimum(there, most))
            rate = served = np.minimum(there, most) / serve_s
            utilisation = np.minimum(1.0, rate * each_s)
            wait_s = np.maximum(0.0, there - most) * each_s * (0.5 if load.concurrency is None else 1.0)
        else:
            rate = load.rate_rps / replicas
            utilisation, served = rate * each_s, np.minimum(rate, 1.0 / each_s)
            serve_s, wait_s = self._flow(rate, most, each_s, load)
            wait_s = wait_s + self._queue_s(rate, serve_s, most, each_s, load.arrival_cv**2 / replicas, load)
        ttft_s = wait_s + self.first * serve_s
        tpot_s = (1 - self.first) * serve_s / max(1.0, load.output_tokens - 1)
        per_gpu = served * replicas * (load.prompt_tokens + load.output_tokens) / gpus
        return np.stack([utilisation, tpot_s * 1e3, ttft_s * 1e3, per_gpu])

    def _flow(self, rate: Floats, most: Floats, each_s: Floats, load: Load) -> tuple[Floats, Floats]:
        """(in service, before it), mean seconds of a request: a fluid that flows in at `rate` from an empty start until
        the last arrival, and out until nothing is left; Little's law over all of it."""
        step_s = load.duration_s / _STEPS
        there, inside, outside = np.zeros_like(most), np.zeros_like(most), np.zeros_like(most)
        for _ in range(_STEPS):
            service_s = self.serve(np.minimum(there, most)) * np.maximum(1.0, there / most)
            target = rate * service_s
            later = target + (there - target) * np.exp(-step_s / service_s)
            middle, there = (there + later) / 2, later
            inside += np.minimum(middle, most) * step_s
            outside += np.maximum(0.0, middle - most) * step_s
        left, behind = np.minimum(there, most), np.maximum(0.0, there - most)
        inside += left * self.serve(left) + behind * self.serve(most)
        outside += behind**2 / 2 * each_s
        return inside / (rate * load.duration_s), outside / (rate * load.duration_s)

    def _queue_s(self, rate: Floats, serve_s: Floats, most: Floats, each_s: Floats, cv2: Floats, load: Load) -> Floats:
        """What chance adds before the first step; cv2: squared variation of the gaps that a replica sees."""
        busy = np.minimum(_BUSIEST, rate * each_s)
        queue = busy ** (np.sqrt(2 * (most + 1)) - 1) / (1 - busy) * each_s * (cv2 + _SERVICE_CV2) / 2
        queue *= -np.expm1(-load.duration_s * (1 - busy) ** 2 / (2 * each_s))
        if self.together:
            queue += np.minimum(1.0, rate * self.serve_s[0]) * serve_s / 2
        return np.asarray(queue, dtype=np.float64)


def denoise_curves(
    model: ModelSpec, group: Sequence[DeploymentSpec], num_gpu_blocks: Sequence[int], load: Load,
    limits: tuple[int, int],
) -> DenoiseCurves:  # fmt: skip
    """Of one kind of replica: GPU, scheduler and its options; engines that share tables share their compilation.

    limits: the largest max_num_batched_tokens and max_num_seqs of the space.
    """
    from simserve.build import traits_of
    from simserve.perf.denoise import DenoiseCost

    traits = traits_of(group[0])
    assert traits is not None
    tables = _tables(model, group[0].model_copy(update={
        "replicas": 1, "router": "round_robin", "router_options": (), "gpu_memory_utilization": None,
        "max_num_batched_tokens": 2 * max(limits), "max_num_seqs": limits[1], "scheduler_options": (),
    }))  # fmt: skip
    cost = DenoiseCost(tables.inner, model, traits, tables.kernel_efficiency)
    return DenoiseCurves(cost, group, num_gpu_blocks, load)


@lru_cache(maxsize=64)
def _tables(model: ModelSpec, engine: DeploymentSpec) -> DenoiseCost:
    from simserve.build import deployment_cost
    from simserve.spec.hardware import load_gpu

    return cast("DenoiseCost", deployment_cost(model, engine, load_gpu(engine.gpu)))


def _most_mixed(scheduler: Denoiser, pages: int, load: Load, own: Program) -> float:
    """Requests of the mean length that seats, KV pages and the query tokens of a step hold."""
    assert load.canvases is not None
    length = sum(load.canvases.longest_of(1))
    held = -(-scheduler.slots(length) // scheduler.traits.page_tokens)
    queries = sum(tokens * count for (tokens, _, _), count in own.passes) / own.steps
    return max(1.0, min(scheduler.max_num_seqs, pages // held, scheduler.step_tokens / queries))


def _most_together(scheduler: Denoiser, pages: int, load: Load, own: Program) -> float:
    """Requests of a batch, all as long as the longest of them, that fit likewise."""
    assert load.canvases is not None
    size = 1
    while size < scheduler.max_num_seqs:
        length = sum(load.canvases.longest_of(size + 1))
        held = -(-scheduler.slots(length) // scheduler.traits.page_tokens)
        if (size + 1) * held > pages or (size + 1) * length > scheduler.max_num_batched_tokens:
            break
        size += 1
    return float(size)


def _mixed_ns(cost: DenoiseCost, own: Program, requests: int) -> float:
    """N D(n): the largest passes one by one in the steps that have them, all others as their mean."""
    (refresh, refreshes), *_ = sorted(own.passes, reverse=True)
    others = [(work, count) for work, count in own.passes if work != refresh]
    left = sum(count for _, count in others)
    mean = [round(sum(work[k] * count for work, count in others) / max(left, 1)) for k in range(3)]
    reuse = (mean[0], mean[1], mean[2])
    expected = requests * refreshes / own.steps
    low = int(expected)
    share = expected - low
    few = _step_ns(cost, [(refresh, low), (reuse, requests - low)])
    many = few if not share else _step_ns(cost, [(refresh, low + 1), (reuse, requests - low - 1)])
    return own.steps * (few + share * (many - few))


def _step_ns(cost: DenoiseCost, parts: Sequence[tuple[tuple[int, int, int], int]]) -> int:
    """Of a step with so many of each pass."""
    passes = [(tokens, cached) for (tokens, cached, _), count in parts for _ in range(count)]
    return cost.step_ns(passes, 0, 0, sum(work[2] * count for work, count in parts))
