"""What a run made of the host beside its GPU; shares of 0 to 1, over all instances together.

    decode_gpu, decode_pipeline, decode_overlap    of the steps without prompts: the GPU alone; two sub-batches
                                    (asymmetric pipelining); one beside which the CPU attends for a cohort that takes
                                    its results a step later (asynchronous overlap); they add up to 1
    hosted_overlap                  of the steps without prompts while requests are on the host: overlapped
    cpu_tokens                      of the sampled tokens: those whose attention the CPU computed
    cpu_busy                        of the time in steps: CPU attention
    cpu_wait, copy_wait             of it: the GPU stands still for the CPU, for copies of KV
    host_kv                         of the host's KV blocks: in use, mean over the time in steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.sim.hybrid import HostUse, Strategy


@dataclass(frozen=True)
class HybridMetrics:
    """See the module docstring."""

    decode_gpu: float
    decode_pipeline: float
    decode_overlap: float
    hosted_overlap: float
    cpu_tokens: float
    cpu_busy: float
    cpu_wait: float
    copy_wait: float
    host_kv: float


def hybrid_metrics(hosts: Sequence[HostUse]) -> HybridMetrics | None:
    """Over all instances that keep KV on a host; None if none does."""
    if not hosts:
        return None
    by_strategy = [sum(use.decode_steps[strategy] for use in hosts) for strategy in Strategy]
    gpu, pipeline, overlap = (steps / max(sum(by_strategy), 1) for steps in by_strategy)
    tokens = max(sum(use.tokens for use in hosts), 1)
    busy = max(sum(use.busy_ns for use in hosts), 1)
    return HybridMetrics(
        gpu, pipeline, overlap,
        hosted_overlap=by_strategy[2] / max(sum(use.hosted_steps for use in hosts), 1),
        cpu_tokens=sum(use.cpu_tokens for use in hosts) / tokens,
        cpu_busy=sum(use.cpu_ns for use in hosts) / busy,
        cpu_wait=sum(use.cpu_wait_ns for use in hosts) / busy,
        copy_wait=sum(use.copy_wait_ns for use in hosts) / busy,
        host_kv=sum(use.block_ns for use in hosts) / max(sum(use.blocks * use.busy_ns for use in hosts), 1),
    )  # fmt: skip
