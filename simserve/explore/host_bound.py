"""What a host that attends could add at the most, for the screen: nothing that it could gain is left out.

The CPU attends for b requests in c(b) a layer, so it makes at most b / (L c(b)) tokens per second, whatever the GPU
does meanwhile: linear work of those rows, copies and waits count nothing. Beside them the GPU decodes as fast as alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.units import NS_PER_S

if TYPE_CHECKING:
    from simserve.explore.load import Load
    from simserve.perf.cost import CostModel, PricedCost
    from simserve.perf.layers import LayerTimes
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec

Floats = NDArray[np.float64]


class HostBound:
    """Of engines that differ in limits and host memory; num_host_blocks: of each.

    most: requests of the mean context that each one's host memory holds.
    """

    def __init__(
        self, times: LayerTimes, group: Sequence[DeploymentSpec], num_host_blocks: Sequence[int], load: Load
    ) -> None:
        context = mean_context(load)
        slots = np.array(num_host_blocks, dtype=np.float64) * np.array([d.kv_block_tokens for d in group])
        self.most = np.minimum([d.max_num_seqs for d in group], slots / context)
        largest = max(1, int(self.most.max()))
        sizes = sorted({1, *(2**i for i in range(1, 14) if 2**i < largest), largest})
        rates = [b * NS_PER_S / (times.layers * times.cpu_attention_ns(b, int(b * context))) for b in sizes]
        self._sizes, self._rates = np.array(sizes, dtype=np.float64), np.maximum.accumulate(rates)

    def tokens_per_s(self, requests: Floats) -> Floats:
        """Of so many requests on the host, at most."""
        known = np.interp(requests, self._sizes, self._rates)
        return np.asarray(known * np.minimum(1.0, requests), dtype=np.float64)


def mean_context(load: Load) -> float:
    """Tokens of KV that a decoding request has on average."""
    return load.prompt_tokens + load.output_tokens / 2


def host_bound(
    model: ModelSpec, group: Sequence[DeploymentSpec], cost: PricedCost, load: Load
) -> HostBound | None:  # fmt: skip
    """That of the engines of one kind, None if their scheduler uses no host."""
    from simserve.build import build_tier, host_blocks
    from simserve.spec.hardware import load_gpu

    blocks = [host_blocks(model, engine) or 0 for engine in group]
    tier = build_tier(model, group[0], load_gpu(group[0].gpu), cost)
    return None if tier is None else HostBound(tier.cost.times, group, blocks, load)


def beside_s(cost: CostModel, load: Load, max_num_batched_tokens: int, past: int, decodes: int) -> float:
    """Seconds that the mean prompt adds to steps of so many decodes, in chunks of what they leave of the budget."""
    prompt, decodes, total = max(1, round(load.prompt_tokens)), min(decodes, max_num_batched_tokens // 2), 0
    context = int(decodes * mean_context(load))
    alone = cost.step_ns((), decodes, context, decodes) if decodes else 0
    done = min(past, prompt - 1)
    while done < prompt:
        chunk = min(max_num_batched_tokens - decodes, prompt - done)
        sampled = decodes + int(done + chunk == prompt)
        total += cost.step_ns(((chunk, done),), decodes, context, sampled) - alone
        done += chunk
    return max(total, 0) / NS_PER_S
