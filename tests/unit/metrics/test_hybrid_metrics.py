"""What a run made of its host, as shares."""

from typing import Any

import pytest

from simserve.check.metrics import check_metric
from simserve.errors import SpecError
from simserve.metrics.hybrid import HybridMetrics, hybrid_metrics
from simserve.sim.hybrid import HostUse, Strategy
from simserve.spec.base import parse
from simserve.spec.study import StudySpec

STUDY: dict[str, Any] = {
    "name": "s", "model": "meta-llama/Llama-2-7b-hf",
    "workload": {"arrivals": {"kind": "closed_loop", "concurrency": 1}, "prompt_tokens": {"kind": "fixed", "value": 9},
                 "output_tokens": {"kind": "fixed", "value": 9}, "requests": 1},
    "deployment": {"gpu": "t4", "dtype": "fp16", "scheduler": "apex",
                   "hybrid": {"host": "xeon_gold_6130_x2", "kv_gib": 8}},
}  # fmt: skip


def use(steps: tuple[int, int, int], **numbers: int) -> HostUse:
    """Of ten blocks; steps by strategy."""
    return HostUse(10, dict(zip(Strategy, steps, strict=True)), **numbers)


def test_shares_are_over_all_instances() -> None:
    """Of 1 + 2 + 1 and 4 steps; times weigh as they are."""
    busy = use((1, 2, 1), hosted_steps=2, tokens=10, cpu_tokens=5, busy_ns=60, cpu_ns=40, cpu_wait_ns=4, copy_wait_ns=2,
               block_ns=300)  # fmt: skip
    idle = use((4, 0, 0), tokens=10, busy_ns=20)

    assert hybrid_metrics([busy, idle]) == HybridMetrics(
        5 / 8, 2 / 8, 1 / 8, hosted_overlap=1 / 2, cpu_tokens=0.25, cpu_busy=0.5, cpu_wait=0.05, copy_wait=0.025,
        host_kv=300 / 800,
    )  # fmt: skip


def test_nothing_happened() -> None:
    """No host: no metrics; a host and no step: zeros."""
    assert hybrid_metrics([]) is None
    assert hybrid_metrics([HostUse(10)]) == HybridMetrics(0, 0, 0, 0, 0, 0, 0, 0, 0)


def test_they_have_names_where_there_is_a_host() -> None:
    """As in `expect` and paper studies."""
    check_metric("hybrid.decode_overlap", "expect", parse(StudySpec, STUDY))
    plain = {**STUDY, "deployment": {**STUDY["deployment"], "scheduler": "vllm", "hybrid": None}}
    with pytest.raises(SpecError, match="no run has a metric"):
        check_metric("hybrid.decode_overlap", "expect", parse(StudySpec, plain))
