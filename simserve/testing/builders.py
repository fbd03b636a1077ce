"""Small loads and clusters for tests, in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from simserve.perf.cost import CostModel
from simserve.sim.cluster import Cluster
from simserve.sim.confidence import Confidence
from simserve.sim.hybrid_instance import HostTier
from simserve.sim.images import Image
from simserve.sim.instance import Observer
from simserve.sim.plan import Router, Scheduler
from simserve.sim.swap import SwapSpace
from simserve.sim.trace import Trace
from simserve.spec.confidence import ConfidenceSpec
from simserve.workload.requests import Content, RequestSet


def load(
    rows: Sequence[tuple[int, int, int]], *, priority: Sequence[int] | None = None,
    concurrency: int | None = None, content: Sequence[Content] | None = None,
    images: Sequence[tuple[Image, ...]] | None = None, confidence: ConfidenceSpec | None = None,
    confidence_seed: int = 0, **columns: Sequence[int],
) -> RequestSet:  # fmt: skip
    """Requests from (arrival_ns, prompt tokens, output tokens) rows, in order of arrival.

    confidence: of a diffusion model, whose outputs are canvases; columns: others of `RequestSet`, as lists.
    """
    others: dict[str, Any] = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return RequestSet(
        arrival_ns=table[:, 0], prompt_tokens=table[:, 1], output_tokens=table[:, 2],
        priority=np.array(priority if priority is not None else [0] * len(table), dtype=np.int64),
        concurrency=concurrency, provenance={"kind": "built"}, content=content, shown=images,
        confidence=confidence, confidence_seed=confidence_seed, **others,
    )  # fmt: skip


def play(
    requests: RequestSet, schedulers: Sequence[Scheduler], router: Router, cost: CostModel, *,
    num_gpu_blocks: int = 1001, block_size: int = 16, leap: bool = True,
    enable_prefix_caching: bool = False, max_model_len: int | None = None, observer: Observer | None = None,
    swap: Callable[[], SwapSpace] | None = None, async_scheduling: bool = False, stages: int = 1,
    tier: HostTier | None = None, confidence: Confidence | None = None,
) -> tuple[Trace, Cluster]:  # fmt: skip
    """Play `requests` on one instance per scheduler, each of so many pipeline stages; with a host if there is a tier
    and the scheduler uses one, which then believes its prices. confidence: instead of what `requests` draw."""
    cluster = Cluster(router, leap=leap)
    if confidence is None and requests.confidence is not None:
        confidence = Confidence(requests.confidence, requests.confidence_seed)
    for scheduler in schedulers:
        hosted = tier if hasattr(scheduler, "cpu_kernel") else None
        if hosted is not None:
            cast(Any, scheduler).predictor = hosted.cost.times
        cluster.add(
            scheduler, cost, num_gpu_blocks=num_gpu_blocks, block_size=block_size,
            enable_prefix_caching=enable_prefix_caching, max_model_len=max_model_len, observer=observer,
            swap=None if swap is None else swap(), async_scheduling=async_scheduling, stages=stages,
            tier=hosted, confidence=confidence,
        )  # fmt: skip
    return cluster.play(requests), cluster
