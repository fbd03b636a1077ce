"""An analytic estimate of every configuration, vectorised per replica type, to order the simulations.

Per replica with arrival rate r, mean prompt P, mean output O: a request needs w seconds of prefill and O
decode steps. With b requests decoding, a step takes D(b); Little's law gives b = r O t, and prefill steps
take their share of the time, so the time per output token is t = D(b) / (1 - r w). Both are iterated to
their fixed point with b at most max_num_seqs and the KV capacity. At the largest b a request occupies the
replica for w + O D(b) / b seconds: the reciprocal is the capacity, and rate / capacity the utilisation.
TTFT adds to w the wait of an M/G/1 queue (Pollaczek-Khinchine, with the arrivals' own variation) and half a
step; beyond capacity, the backlog that grows over the run. A ranking aid: what is reported is simulated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.search.load import Load
from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.perf.cost import CostModel
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec

Floats = NDArray[np.float64]
_ROUNDS = 30
_PROMISING_EXCESS = 0.3  # estimates within 30 % of every bound are worth a simulation before the others


@dataclass(frozen=True)
class Screen:
    """Estimates per configuration, arrays of one length, in the order of the deployments given."""

    utilisation: Floats
    tpot_ms: Floats
    ttft_ms: Floats
    tokens_per_s_per_gpu: Floats


def estimate(
    model: ModelSpec, deployments: Sequence[DeploymentSpec], num_gpu_blocks: Sequence[int], load: Load
) -> Screen:
    """Screen all `deployments` for `load`; one compiled cost model per kind of replica."""
    columns = np.full((4, len(deployments)), np.nan)
    kinds: dict[tuple[object, ...], list[int]] = {}
    for index, d in enumerate(deployments):
        kind = (d.gpu, d.split, d.dtype, d.kv_cache_dtype)
        kinds.setdefault(kind, []).append(index)
    for members in kinds.values():
        group = [deployments[i] for i in members]
        cost = _group_cost(model, group)
        blocks = np.array([num_gpu_blocks[i] for i in members], dtype=np.float64)
        columns[:, members] = estimate_group(cost, group, blocks, load)
    return Screen(*columns)


def order(
    screen: Screen, deployments: Sequence[DeploymentSpec], slo: SloSpec | None, objective: str = "throughput"
) -> list[int]:
    """Indices of the deployments, the most promising first.

    Configurations that may meet the SLO come first, and among them one of every hardware layout before the
    second variant of any, each round by the objective; the rest follow by how far they miss.
    """
    excess = _excess(screen, slo)
    promising = excess <= _PROMISING_EXCESS
    merit = np.where(promising, _goal(screen, deployments, objective), excess)
    by_merit = np.lexsort((excess, merit, ~promising)).tolist()
    variants: dict[tuple[object, ...], int] = {}
    places: dict[int, tuple[bool, int, int]] = {}
    for place, index in enumerate(by_merit):
        d = deployments[index]
        layout = (d.gpu, d.split, d.replicas, d.dtype)
        variant = variants[layout] = variants.get(layout, -1) + 1
        hopeful = bool(promising[index])
        places[index] = (not hopeful, variant if hopeful else 0, place)
    return sorted(places, key=places.__getitem__)


def _goal(screen: Screen, deployments: Sequence[DeploymentSpec], objective: str) -> Floats:
    """What the objective makes as small as possible; see `objective.goal`."""
    from simserve.spec.hardware import load_gpu

    if objective == "gpus":
        return np.array([d.num_gpus for d in deployments], dtype=np.float64)
    if objective == "cost":
        prices = {d.gpu: load_gpu(d.gpu).price_usd_per_hour for d in deployments}
        return np.array([prices[d.gpu] * d.num_gpus for d in deployments], dtype=np.float64)
    return -np.round(screen.tokens_per_s_per_gpu, 3)


def estimate_group(cost: CostModel, group: Sequence[DeploymentSpec], num_gpu_blocks: Floats, load: Load) -> Floats:
    """Rows: utilisation, TPOT ms, TTFT ms, tokens/s/GPU; columns: the members of one kind of replica."""
    replicas = np.array([d.replicas for d in group], dtype=np.float64)
    gpus = np.array([d.num_gpus for d in group], dtype=np.float64)
    tokens = load.prompt_tokens + load.output_tokens
    slots = num_gpu_blocks * np.array([d.kv_block_tokens for d in group])
    most = np.maximum(1.0, np.minimum([d.max_num_seqs * d.data_parallel_size for d in group], slots / tokens))
    depth = group[0].pipeline_parallel_size
    sizes, step_s = _decode_curve(cost, load, int(np.ceil(most.max())), depth)
    alone_s = np.array([_prefill_s(cost, load, d.max_num_batched_tokens) for d in group])
    prefill_s = alone_s / depth  # as many prompts at once as there are stages
    service_s = prefill_s + load.output_tokens * np.interp(most, sizes, step_s) / most
    if load.concurrency is not None:
        running = np.minimum(most, np.maximum(1.0, load.concurrency / replicas))
        cycle_s = prefill_s + load.output_tokens * np.interp(running, sizes, step_s) / running
        rate = 1.0 / cycle_s
    else:
        rate = load.rate_rps / replicas
    utilisation = rate * service_s
    served = np.minimum(rate, 1.0 / service_s)
    tpot_s = _fixed_point(served, prefill_s, most, load.output_tokens, sizes, step_s)
    ttft_s = alone_s + tpot_s / 2 + _wait_s(served, prefill_s, utilisation, load)
    per_gpu = served * replicas * tokens / gpus
    return np.stack([utilisation, tpot_s * 1e3, ttft_s * 1e3, per_gpu])


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


def _prefill_s(cost: CostModel, load: Load, max_num_batched_tokens: int) -> float:
    """Seconds to prefill the mean prompt alone, in chunks of the token budget."""
    prompt, done, total = max(1, round(load.prompt_tokens)), 0, 0
    while done < prompt:
        chunk = min(max_num_batched_tokens, prompt - done)
        total += cost.step_ns(((chunk, done),), 0, 0, int(done + chunk == prompt))
        done += chunk
    return total / NS_PER_S


def _group_cost(model: ModelSpec, group: Sequence[DeploymentSpec]) -> CostModel:
    """One cost model that is large enough for every member of the group."""
    from simserve.build import deployment_cost
    from simserve.spec.hardware import load_gpu

    largest = group[0].model_copy(
        update={
            "max_num_batched_tokens": max(d.max_num_batched_tokens for d in group),
            "max_num_seqs": max(d.max_num_seqs for d in group),
        }
    )
    return deployment_cost(model, largest, load_gpu(largest.gpu))


def _excess(screen: Screen, slo: SloSpec | None) -> Floats:
    """The largest relative excess over a bound (0: within all), overload included."""
    excess = np.maximum(0.0, screen.utilisation - 1.0) if slo is not None else np.zeros(len(screen.tpot_ms))
    if slo is None:
        return excess
    for bound, value in ((slo.ttft_ms, screen.ttft_ms), (slo.tpot_ms, screen.tpot_ms)):
        if bound is not None:
            excess = np.maximum(excess, value / bound - 1.0)
    return excess
