"""An analytic estimate of every configuration, vectorised over columns, to order the simulations.

Per replica with arrival rate r, mean prompt P, mean output O: a request needs w seconds of prefill and O
decode steps. With b requests decoding, a step takes D(b); Little's law gives b = r O t, and prefill steps
take their share of the time, so the time per output token is t = D(b) / (1 - r w). Both are iterated to
their fixed point with b at most max_num_seqs and the KV capacity. At the largest b a request occupies the
replica for w + O D(b) / b seconds: the reciprocal is the capacity, and rate / capacity the utilisation.
TTFT adds to w the wait of an M/G/1 queue (Pollaczek-Khinchine, with the arrivals' own variation) and half a
step; beyond capacity, the backlog that grows over the run. Of pools, the one that prefills has the first
part of this and the one that decodes the second, at the rate of the slower one; the hand-over of the KV comes
between the first token and the second, so it counts in TPOT. A ranking aid: what is reported is simulated.

With KV on a host (`host_bound`) the GPU's b requests decode as fast as alone, g = b / D(b), and the CPU adds c tokens
per second: prompts leave 1 - w / x of the time where a request takes x, so O / x = (1 - w / x) g + c and
x = (O + w g) / (g + c). w is then what a prompt adds to a step of decodes, b goes by the mean context: an optimistic
bound, so that none is left out for what the GPU alone could not hold. Diffusion models have estimates of their own
(`denoise_screen`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.explore.denoise_screen import DenoiseCurves, denoise_curves
from simserve.explore.host_bound import HostBound, beside_s, host_bound, mean_context
from simserve.explore.load import Load
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.explore.columns import Rows
    from simserve.perf.cost import CostModel, PricedCost
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_ROUNDS = 30
_FULL = 2  # prompts in a step that counts as full: more of them share little more
PROMISING_EXCESS = 0.3  # estimates within 30 % of every bound are worth a simulation before the others


@dataclass(frozen=True)
class Screen:
    """Estimates per configuration, and what it is made of; arrays of one length."""

    utilisation: Floats
    tpot_ms: Floats
    ttft_ms: Floats
    tokens_per_s_per_gpu: Floats
    gpus: Floats
    usd_per_hour: Floats
    e2e_ms: Floats

    @property
    def columns(self) -> tuple[Floats, ...]:
        """All of them."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def select(self, index: Ints) -> Screen:
        """Some of the configurations."""
        return Screen(*(column[index] for column in self.columns))

    def goal(self, objective: str) -> Floats:
        """What the objective makes as small as possible: throughput per GPU (negative), GPUs, or USD per hour."""
        columns = {"gpus": self.gpus, "cost": self.usd_per_hour}
        return columns.get(objective, -np.round(self.tokens_per_s_per_gpu, 3))


def estimate_rows(curves: EngineCurves, rows: Rows, load: Load, role: str = "") -> Floats:
    """The estimates of `_one_pool`, or of the pool that `role` names, for columns that `curves` know the engines of."""
    kinds, replicas, gpus = curves.kind[rows.variant], rows.replicas.astype(np.float64), rows.gpus.astype(np.float64)
    found = np.empty((3 if role else 4, len(rows)))
    for index, kind in enumerate(curves.kinds):
        mine = np.flatnonzero(kinds == index)
        member = curves.member[rows.variant[mine]]
        if isinstance(kind, DenoiseCurves):
            found[:, mine] = kind.estimate(member, replicas[mine], gpus[mine], load)
        elif not role:
            found[:, mine] = _one_pool(kind, member, replicas[mine], gpus[mine], load)
        else:
            pool = _prefill_pool if role == "prefill" else _decode_pool
            found[:, mine] = pool(kind, member, replicas[mine], load)
    return found


@dataclass(frozen=True)
class EngineCurves:
    """The kinds of replicas among engines. kind, member: of each engine, its kind and its place among them."""

    kinds: list[Curves | DenoiseCurves]
    kind: Ints
    member: Ints


def curves_of(
    model: ModelSpec, engines: Sequence[DeploymentSpec], num_gpu_blocks: Sequence[int], load: Load,
    limits: tuple[int, int],
) -> EngineCurves:  # fmt: skip
    """One compiled cost model per kind of replica: engines that differ in limits alone share one.

    limits: the largest max_num_batched_tokens and max_num_seqs of the whole space, so that its parts share them too.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    names = (*_PRICED, "scheduler_options") if model.diffusion else _PRICED
    for index, engine in enumerate(engines):
        groups.setdefault(tuple(getattr(engine, name) for name in names), []).append(index)
    kind, member = np.zeros(len(engines), dtype=np.int64), np.zeros(len(engines), dtype=np.int64)
    kinds: list[Curves | DenoiseCurves] = []
    for place, members in enumerate(groups.values()):
        group = [engines[index] for index in members]
        own = [num_gpu_blocks[index] for index in members]
        if model.diffusion:
            kinds.append(denoise_curves(model, group, own, load, limits))
        else:
            cost = _kind_cost(model, group[0], limits, load)
            blocks = np.array(own, dtype=np.float64)
            kinds.append(Curves(cost, group, blocks, load, host_bound(model, group, cost, load)))
        kind[members], member[members] = place, np.arange(len(members))
    return EngineCurves(kinds, kind, member)


# what a step's price depends on, limits aside
_PRICED = (
    "gpu", "tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size",
    "decode_context_parallel_size", "enable_expert_parallel", "moe_tensor_parallel_size", "dtype", "moe_dtype",
    "kv_cache_dtype", "all2all_backend", "inter_node_link", "scheduler", "engine", "engine_version", "calibrated",
    "num_speculative_tokens", "acceptance_rate",
)  # fmt: skip


def places(
    screen: Screen, layouts: Ints, slo: SloSpec | None, objective: str = "throughput",
    tolerance: float = PROMISING_EXCESS,
) -> Ints:  # fmt: skip
    """Indices of configurations, the most promising first; `layouts`: a number for each hardware layout.

    Configurations whose estimates are at most `tolerance` beyond the SLO come first, and among them one of every
    hardware layout before the second variant of any, each round by the objective; the rest follow by how far they miss.
    """
    promising, merit, excess = merits(screen, slo, objective, tolerance)
    by_merit = np.lexsort((excess, merit, ~promising))
    ordered = layouts[by_merit]
    by_layout = np.argsort(ordered, kind="stable")
    starts = np.flatnonzero(np.diff(ordered[by_layout], prepend=ordered[by_layout[0]] - 1))
    variant = np.empty(len(ordered), dtype=np.int64)
    variant[by_layout] = np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered)))
    hopeful = promising[by_merit]
    return np.asarray(by_merit[np.lexsort((np.where(hopeful, variant, 0), ~hopeful))], dtype=np.int64)


def merits(
    screen: Screen, slo: SloSpec | None, objective: str, tolerance: float = PROMISING_EXCESS
) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """(whether it may meet the SLO, what to sort by within either group, relative excess over the worst bound)."""
    excess = _excess(screen, slo)
    promising = excess <= tolerance
    return promising, np.where(promising, screen.goal(objective), excess), excess


def estimate_group(cost: CostModel, group: Sequence[DeploymentSpec], num_gpu_blocks: Floats, load: Load) -> Floats:
    """Rows: utilisation, TPOT ms, TTFT ms, tokens/s/GPU; columns: the members of one kind of replica."""
    replicas = np.array([d.replicas for d in group], dtype=np.float64)
    gpus = np.array([d.num_gpus for d in group], dtype=np.float64)
    return _one_pool(Curves(cost, group, num_gpu_blocks, load), np.arange(len(group)), replicas, gpus, load)


class Curves:
    """What the price curves of one kind of replica say of its members, which differ in their limits.

    most: requests that may decode at once; alone_s: to prefill the mean prompt alone; per_prompt_s: the same in a step
    that is full of prompts; beside_s: what a prompt takes of a replica, of which data-parallel ranks have one each at
    once; sizes, step_s: decode batches and their step times.
    """

    def __init__(
        self, cost: CostModel, group: Sequence[DeploymentSpec], num_gpu_blocks: Floats, load: Load,
        host: HostBound | None = None,
    ) -> None:  # fmt: skip
        self.depth, self.host = group[0].pipeline_parallel_size, host
        slots = num_gpu_blocks * np.array([d.kv_block_tokens for d in group])
        tokens = load.prompt_tokens + load.output_tokens if host is None else mean_context(load)
        self.most = np.maximum(1.0, np.minimum([d.max_num_seqs * d.data_parallel_size for d in group], slots / tokens))
        self.sizes, self.step_s = _decode_curve(cost, load, int(np.ceil(self.most.max())), self.depth)
        limits = [(d.max_num_batched_tokens, d.max_num_seqs, _past(d, load)) for d in group]
        alone = {limit: _prefill_s(cost, load, limit[0], limit[2]) for limit in set(limits)}
        ranks = group[0].data_parallel_size
        full = {limit: min(alone[limit], _full_prefill_s(cost, load, *limit, ranks)) for limit in set(limits)}
        self.alone_s = np.array([alone[limit] for limit in limits])
        self.per_prompt_s = np.array([full[limit] for limit in limits])
        self.beside_s = self.alone_s if ranks == 1 else self.per_prompt_s
        if host is not None:
            decodes = int(self.most.max())
            beside = {limit: beside_s(cost, load, limit[0], limit[2], decodes) for limit in set(limits)}
            self.beside_s = np.minimum(self.per_prompt_s, [beside[limit] for limit in limits])

    def step(self, running: Floats) -> Floats:
        """Seconds of a decode step."""
        return np.interp(running, self.sizes, self.step_s)

    def hosted(self, member: Ints, requests: Floats) -> Floats:
        """Tokens per second that the CPU adds at most where so many requests are there for GPU and host."""
        if self.host is None:
            return np.zeros(len(member))
        there = np.where(requests > self.most[member], np.minimum(self.host.most[member], requests), 0.0)
        return self.host.tokens_per_s(there)


def _one_pool(curves: Curves, member: Ints, replicas: Floats, gpus: Floats, load: Load) -> Floats:
    """Rows as of `estimate_group`, for columns of (member, replicas)."""
    most, alone_s = curves.most[member], curves.alone_s[member]
    prefill_s = curves.beside_s[member] / curves.depth  # as many prompts at once as there are stages

    def seconds(running: Floats, requests: Floats) -> Floats:
        """Of a replica, per request, with so many on the GPU and so many there."""
        on_gpu, on_cpu = running / curves.step(running), curves.hosted(member, requests)
        return (load.output_tokens + prefill_s * on_gpu) / (on_gpu + on_cpu)

    service_s = seconds(most, np.full(len(member), np.inf))
    if load.concurrency is not None:
        there = np.maximum(1.0, load.concurrency / replicas)
        rate = 1.0 / seconds(np.minimum(most, there), there)
    else:
        rate = load.rate_rps / replicas
    utilisation = rate * service_s
    served = np.minimum(rate, 1.0 / service_s)
    tpot_s = _fixed_point(served, prefill_s, most, load.output_tokens, curves.sizes, curves.step_s)
    ttft_s = alone_s + tpot_s / 2 + _wait_s(served, prefill_s, utilisation, load)
    per_gpu = served * replicas * (load.prompt_tokens + load.output_tokens) / gpus
    return np.stack([utilisation, tpot_s * 1e3, ttft_s * 1e3, per_gpu])


def _prefill_pool(curves: Curves, member: Ints, replicas: Floats, load: Load) -> Floats:
    """Rows: utilisation, TTFT ms, requests/s of all replicas, of instances that only prefill."""
    alone_s, each_s = curves.alone_s[member], curves.per_prompt_s[member] / curves.depth
    rate = np.minimum(load.rate_rps, 1e12) / replicas if load.concurrency is None else 1.0 / each_s
    utilisation, served = rate * each_s, np.minimum(rate, 1.0 / each_s)
    ttft_s = alone_s + _wait_s(served, alone_s / curves.depth, utilisation, load)
    return np.stack([utilisation, ttft_s * 1e3, served * replicas])


def _decode_pool(curves: Curves, member: Ints, replicas: Floats, load: Load) -> Floats:
    """Rows: utilisation, TPOT ms, requests/s of all replicas, of instances that only decode."""
    most, output = curves.most[member], load.output_tokens
    service_s = (output * curves.step(curves.most) / curves.most)[member]
    if load.concurrency is not None:
        running = np.minimum(most, np.maximum(1.0, load.concurrency / replicas))
        rate = running / (output * curves.step(running))
    else:
        rate = load.rate_rps / replicas
    utilisation, served = rate * service_s, np.minimum(rate, 1.0 / service_s)
    tpot_s = _fixed_point(served, np.zeros_like(served), most, output, curves.sizes, curves.step_s)
    return np.stack([utilisation, tpot_s * 1e3, served * replicas])


def _fixed_point(
    rate: Floats, prefill_s: Floats, most: Floats, output_tokens: float, sizes: Floats, step_s: Floats
) -> Floats:
    decoding_share = np.maximum(0.05, 1.0 - rate * prefill_s)
    tpot = np.interp(np.ones_like(rate), sizes, step_s) / decoding_share
    for _ in range(_ROUNDS):
        running = np.clip(rate * output_tokens * tpot, 1.0, most)
        tpot = 0.5 * (tpot + np.interp(running, sizes, step_s) / decoding_share)
    return np.asarray(tpot, dtype=np.float64)


def _wait_s(rate: Floats, prefill_s: Floats, utilisation: Floats, load: Load) -> Floats:
    busy = np.minimum(0.95, rate * prefill_s)
    queue = busy * prefill_s * (1.0 + load.arrival_cv**2) / (2.0 * (1.0 - busy))
    overload = np.maximum(0.0, 1.0 - 1.0 / np.maximum(utilisation, 1e-9))
    if load.concurrency is not None or not np.isfinite(load.rate_rps):
        return queue
    return np.asarray(queue + overload * load.duration_s / 2.0, dtype=np.float64)


def _decode_curve(cost: CostModel, load: Load, largest: int, depth: int = 1) -> tuple[Floats, Floats]:
    """(batch sizes, seconds of a decode step at the mean context); in a pipeline, of a step of a depth-th of them."""
    context = int(load.prompt_tokens + load.output_tokens / 2) + 1
    sizes = sorted({1, *(2**i for i in range(1, 14) if 2**i < largest), largest})
    shares = [-(-b // depth) for b in sizes]
    seconds = [cost.step_ns((), b, b * context, b) / NS_PER_S for b in shares]
    return np.array(sizes, dtype=np.float64), np.array(seconds)


def _past(engine: DeploymentSpec, load: Load) -> int:
    """Tokens of the mean prompt that an engine finds in its prefix cache, if nothing is ever evicted."""
    return round(load.reused_tokens) if engine.enable_prefix_caching else 0


def _prefill_s(cost: CostModel, load: Load, max_num_batched_tokens: int, past: int) -> float:
    """Seconds to prefill the mean prompt alone, in chunks of the token budget, from its first `past` tokens on."""
    prompt, total = max(1, round(load.prompt_tokens)), 0
    done = min(past, prompt - 1)
    while done < prompt:
        chunk = min(max_num_batched_tokens, prompt - done)
        total += cost.step_ns(((chunk, done),), 0, 0, int(done + chunk == prompt))
        done += chunk
    return total / NS_PER_S


def _full_prefill_s(
    cost: CostModel, load: Load, max_num_batched_tokens: int, max_num_seqs: int, past: int, ranks: int
) -> float:
    """Seconds of a step full of prompts, on all data-parallel ranks, for each of them."""
    new = max(1, round(load.prompt_tokens) - past)
    if new > max_num_batched_tokens:
        return float("inf")
    count = ranks * max(1, min(max_num_batched_tokens // new, max_num_seqs, _FULL))
    return cost.step_ns(((new, past),) * count, 0, 0, count) / NS_PER_S / count


def _kind_cost(model: ModelSpec, engine: DeploymentSpec, limits: tuple[int, int], load: Load) -> PricedCost:
    """A cost model as large as the screen asks for: steps of a few prompts, and of all decoding requests."""
    from simserve.build import deployment_cost
    from simserve.spec.hardware import load_gpu

    tokens, seqs = limits
    enough = max(seqs, min(tokens, (_FULL + 1) * round(load.prompt_tokens)))
    update = {"max_num_batched_tokens": enough, "max_num_seqs": seqs}
    return deployment_cost(model, engine.model_copy(update=update), load_gpu(engine.gpu))


def _excess(screen: Screen, slo: SloSpec | None) -> Floats:
    """The largest relative excess over a bound (0: within all), overload included."""
    excess = np.maximum(0.0, screen.utilisation - 1.0) if slo is not None else np.zeros(len(screen.tpot_ms))
    if slo is None:
        return excess
    for bound, value in ((slo.ttft_ms, screen.ttft_ms), (slo.tpot_ms, screen.tpot_ms), (slo.e2e_ms, screen.e2e_ms)):
        if bound is not None:
            excess = np.maximum(excess, value / bound - 1.0)
    return excess
