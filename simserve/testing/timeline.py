"""The steps of one instance as rows of integers, for timelines worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.policies.routers import RoundRobin
from simserve.sim.plan import Plan, Scheduler
from simserve.sim.trace import Trace
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost
from simserve.workload.requests import Content


@dataclass(frozen=True)
class StepRow:
    """One step: when it starts, {request: tokens}, who was preempted, blocks free while it runs."""

    start_ns: int
    tokens: dict[int, int]
    preempted: list[int]
    free: int


def steps_of(
    rows: Sequence[tuple[int, int, int]], scheduler: Scheduler, *, num_gpu_blocks: int = 1001, block_size: int = 16,
    content: Sequence[Content] | None = None, async_scheduling: bool = False,
) -> tuple[Trace, list[StepRow]]:  # fmt: skip
    """Play (arrival_ns, prompt, output) rows; a step costs 100 ns and 10 ns a token. content: turns caching on."""
    steps: list[StepRow] = []

    def observe(start: int, _duration: int, plan: Plan, free: int) -> None:
        tokens = {r.id: n for r, n in plan.tokens.items()}
        steps.append(StepRow(start, tokens, [r.id for r in plan.preempted], free))

    trace, _ = play(
        load(rows, content=content), [scheduler], RoundRobin(), ToyCost(base_ns=100, per_token_ns=10),
        num_gpu_blocks=num_gpu_blocks, block_size=block_size, enable_prefix_caching=content is not None,
        observer=observe, async_scheduling=async_scheduling,
    )  # fmt: skip
    return trace, steps
