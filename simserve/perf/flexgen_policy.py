"""FlexGen's placement: for each block, nine shares by a linear programme under the peak memory of GPU, host and disk.

Source: `experimental/cost_model.py` of FMInference/FlexLLMGen and section 4.3 of the paper [known]: minimise the time
of a block per sequence, T = L T_pre + L (n - 1) T_gen, each of which is at least each of its lanes; peaks are at most
0.8 of the memory; the GPU batch is 1, 2, 3, 4, 8, 16, ... The number of batches is from a coarser ladder than there.

A placement that a study gives is as FlexGen's runtime makes it: matrices whole, each where its middle falls among the
percentages, disk first [known: init_weight_list of flex_opt.py]; its peaks may fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from simserve.errors import Infeasible
from simserve.perf.flexgen import Policy, at_lengths, decode_lanes, prefill_lanes, with_shares
from simserve.perf.rates import LayerShape, Rates
from simserve.perf.roofline import Floats
from simserve.spec.tiers import PolicySpec
from simserve.units import format_bytes

SAFETY = 0.8  # of each memory, for a placement by the programme [known]
TIERS = ("GPU", "host memory", "disk")
NOTHING = Policy(1, 1, (1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True)
class Plan:
    """What a placement is made for: padded lengths, and bytes of GPU, host memory and disk."""

    shape: LayerShape
    rates: Rates
    prompt_tokens: int
    output_tokens: int
    capacity: tuple[int, int, int]


def peaks(plan: Plan, policy: Policy, shares: Floats) -> list[tuple[int, float]]:
    """(tier, bytes at the fullest) of GPU and host while prefilling and decoding, and of the disk [known].

    What lies there, and the working memory of a GPU batch: two layers' weights, its hidden rows, intermediate results.
    """
    wg, wc, wd, cg, cc, cd, hg, hc, hd = shares
    shape, s, gbs, block = plan.shape, plan.prompt_tokens, policy.gpu_batch_size, policy.block
    whole, row = s + plan.output_tokens, shape.hidden_bytes
    weights, layer = shape.layers * shape.weight_bytes, shape.weight_bytes
    kv = block * shape.layers * shape.kv_bytes
    scores = 2 * shape.heads * s * s
    prefill = gbs * (9 * s * row + scores + 2 * s * shape.ffn)
    decode = gbs * (7 * row + 2 * shape.ffn + cg * (2 * row + 2 * whole * row + 2 * shape.heads * whole))
    gpu, cpu, disk = 0, 1, 2
    return [
        (gpu, wg * weights + hg * block * s * row + cg * kv * whole
         + 2 * layer * (1 - wg) + s * row * gbs * (1 - hg) + prefill),
        (gpu, wg * weights + hg * block * row + cg * kv * whole
         + 2 * layer * (1 - wg) + row * gbs * (1 - hg) + cg * gbs * whole * shape.kv_bytes + decode),
        (cpu, wc * weights + hc * block * s * row + cc * kv * s + layer * (1 - wg) + s * row * gbs * (1 - hg)),
        (cpu, wc * weights + hc * block * row + cc * kv * whole + layer * wd + 2 * row * gbs * hd
         + 2 * whole * shape.kv_bytes * gbs * cd + 2 * shape.heads * whole * gbs + row * gbs),
        (disk, wd * weights + hd * block * s * row + cd * kv * whole),
    ]  # fmt: skip


def block_lanes(plan: Plan, policy: Policy, shares: Floats) -> tuple[list[float], list[float]]:
    """Seconds of one layer by lane over the block, prefilling and decoding, at the planned lengths."""
    tokens, pairs, context = at_lengths(policy, plan.prompt_tokens, plan.output_tokens)
    first = prefill_lanes(plan.shape, plan.rates, shares, policy.block, tokens, pairs)
    later = decode_lanes(plan.shape, plan.rates, shares, policy.gpu_batch_size, policy.block, context)
    return first.prefill(), later.decode()


def block_seconds(plan: Plan, policy: Policy) -> float:
    """T = L T_pre + L (n - 1) T_gen."""
    first, later = block_lanes(plan, policy, policy.shares)
    return plan.shape.layers * (max(first) + (plan.output_tokens - 1) * max(later))


def fits(plan: Plan, policy: Policy, safety: float = 1.0) -> bool:
    """Whether every peak is within its memory."""
    return all(peak <= safety * plan.capacity[tier] for tier, peak in peaks(plan, policy, policy.shares))


def best_placement(plan: Plan, gpu_batch_size: int, num_gpu_batches: int) -> Policy | None:
    """The shares with the shortest time for this block, None if it fits nowhere; variables: the nine, T_pre, T_gen."""
    from scipy.optimize import linprog

    block = Policy(gpu_batch_size, num_gpu_batches, NOTHING.weights, NOTHING.kv, NOTHING.hidden)
    sizes, memory = _affine(lambda x: [peak for _, peak in peaks(plan, block, x)])
    tiers = [tier for tier, _ in peaks(plan, block, block.shares)]
    room = SAFETY * np.array([plan.capacity[tier] for tier in tiers]) - memory
    slopes, fixed = _affine(lambda x: [lane for part in block_lanes(plan, block, x) for lane in part])
    first = len(block_lanes(plan, block, block.shares)[0])
    times = np.zeros((len(fixed), 2))
    times[:first, 0] = times[first:, 1] = -1.0
    scale = np.maximum(np.abs(sizes).max(axis=1), 1.0)  # rows of like magnitude, for the solver's tolerances
    above = np.vstack([np.hstack([sizes / scale[:, None], np.zeros((len(tiers), 2))]), np.hstack([slopes, times])])
    sums = np.zeros((4, 11))
    for row in range(3):
        sums[row, 3 * row : 3 * row + 3] = 1.0
    sums[3, 8] = 1.0  # the runtime has no hidden states on disk [known]
    layers, later = plan.shape.layers, plan.output_tokens - 1
    found = linprog(
        [0.0] * 9 + [layers, layers * later], A_ub=above, b_ub=np.concatenate([room / scale, -fixed]),
        A_eq=sums, b_eq=[1.0, 1.0, 1.0, 0.0], bounds=[(0, 1)] * 9 + [(0, None)] * 2, method="highs",
    )  # fmt: skip
    return with_shares(block, np.clip(found.x[:9], 0.0, 1.0) + 0.0) if found.status == 0 else None


@lru_cache(maxsize=256)
def best_policy(plan: Plan, most: int) -> Policy:
    """The block of at most so many sequences with the most of them a second; Infeasible if none fits."""
    best, least = None, np.inf
    for gpu_batch_size in _ladder(most):
        for number in _batches(most // gpu_batch_size):
            policy = best_placement(plan, gpu_batch_size, number)
            if policy is None:
                break
            if (seconds := block_seconds(plan, policy) / policy.block) < least * (1 - 1e-9):
                best, least = policy, seconds
    if best is None:
        need = format_bytes(plan.shape.layers * plan.shape.weight_bytes)
        have = ", ".join(f"{format_bytes(round(SAFETY * size))} of {name}" for name, size in _named(plan))
        raise Infeasible(f"no block fits: {need} of weights, a sequence's KV and a working set into {have}")
    return best


def given_policy(plan: Plan, asked: PolicySpec, most: int) -> Policy:
    """A study's placement of a block, by default of `most` sequences, as the runtime makes it; Infeasible if it does
    not fit a memory."""
    shape, matrices = plan.shape, plan.shape.weight_bytes // 2
    attention = 2 * shape.hidden * (shape.query + shape.kv_bytes // 4)
    square = shape.hidden * shape.query
    kv = shape.hidden * shape.kv_bytes // 4
    columns = shape.hidden * shape.ffn
    mlp = [columns] * ((matrices - attention) // columns)
    weights = _whole_matrices([[square, kv, kv, square], mlp], asked.weights)
    gpu_batch_size = asked.gpu_batch_size or max(1, most // asked.num_gpu_batches)
    policy = Policy(gpu_batch_size, asked.num_gpu_batches, weights, _shares(asked.kv), _shares(asked.hidden))
    for tier, peak in peaks(plan, policy, policy.shares):
        if peak > plan.capacity[tier]:
            have = format_bytes(plan.capacity[tier])
            raise Infeasible(f"a block of {policy.gpu_batch_size} x {policy.num_gpu_batches} sequences needs "
                             f"{format_bytes(round(peak))} of {TIERS[tier]}, which has {have}")  # fmt: skip
    return policy


def kv_tokens(plan: Plan, policy: Policy, safety: float) -> int:
    """Tokens whose KV the tiers hold beside the rest of the block's data, at the placement's shares."""
    token = plan.shape.layers * plan.shape.kv_bytes
    planned = policy.block * (plan.prompt_tokens + plan.output_tokens)
    left = [
        planned + (safety * plan.capacity[tier] - peak) / (share * token)
        for tier, peak in peaks(plan, policy, policy.shares)
        if (share := policy.kv[tier]) > 1e-9
    ]
    return max(planned, int(min(left)))


def _affine(function: Callable[[Floats], list[float]]) -> tuple[Floats, Floats]:
    """(slopes [rows, 9], values at 0) of a function that is linear in the nine shares but for a constant."""
    fixed = np.array(function(np.zeros(9)), dtype=np.float64)
    slopes = [np.array(function(unit), dtype=np.float64) - fixed for unit in np.eye(9)]
    return np.array(slopes).T, fixed


def _ladder(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 8, 16, ... up to `most` [known]."""
    yield from (size for size in (1, 2, 3) if size <= most)
    size = 4
    while size <= most:
        yield size
        size *= 2


def _batches(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to `most`."""
    yield from (number for number in (1, 2, 3) if number <= most)
    number = 4
    while number <= most:
        yield number
        if number * 3 // 2 <= most:
            yield number * 3 // 2
        number *= 2


def _whole_matrices(groups: list[list[int]], percent: tuple[float, float]) -> tuple[float, float, float]:
    """Shares on GPU, host and disk when each matrix lies where its middle falls: disk, then host, then GPU."""
    disk, cpu = 100.0 - sum(percent), percent[1]
    ends = (disk, disk + cpu)
    found, whole = [0.0, 0.0, 0.0], sum(map(sum, groups))
    for sizes in groups:
        for size, end in zip(sizes, accumulate(sizes), strict=True):
            middle = 100.0 * (end - size / 2) / sum(sizes)
            found[2 if middle < ends[0] else 1 if middle < ends[1] else 0] += size / whole
    return found[0], found[1], found[2]


def _shares(percent: tuple[float, float]) -> tuple[float, float, float]:
    gpu, cpu = percent
    return gpu / 100, cpu / 100, (100 - gpu - cpu) / 100


def _named(plan: Plan) -> Iterator[tuple[str, int]]:
    return zip(TIERS, plan.capacity, strict=True)
