"""What every scheduler must keep, checked for one of yours: the laws of `simserve.sim.laws` over random workloads.

    from simserve.testing.conformance import check_scheduler
    check_scheduler(MyScheduler)                   # the class, or any function that makes one

Bursts and gaps, short and long requests, open and closed loops, little and much KV cache. Besides the laws: all blocks
come back, the same workload gives the same run, taking many decode steps as one event changes nothing, and nothing is
planned by output lengths, which a scheduler cannot know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from simserve.errors import LawBroken
from simserve.policies.routers import RoundRobin
from simserve.sim import laws
from simserve.sim.plan import Plan, Scheduler
from simserve.sim.trace import Trace
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost
from simserve.workload.requests import RequestSet

_COST = ToyCost(base_ns=1000, per_token_ns=7, per_context_ns=1)
_GAPS_NS = (0, 0, 1, 500, 1007, 20_000)
_BLOCKS = (11, 14, 40, 400)  # of 16 tokens; the longest request needs 10
Planned = tuple[int, dict[int, int]]  # (time, {request: tokens})
_LATER = 13  # output tokens more, of which nothing may be seen before the first request ends


def check_scheduler(make: Callable[[], Scheduler], *, examples: int = 50, seed: int = 0) -> int:
    """Play so many random workloads; their number if all laws hold, else LawBroken, which names the workload."""
    for example in range(examples):
        rng = np.random.default_rng((seed, example))
        requests, blocks = random_load(rng), int(rng.choice(_BLOCKS))
        try:
            _check(make, requests, blocks)
        except LawBroken as error:
            detail = f"{error.detail} (workload {example} of seed {seed}, {blocks} blocks)"
            raise LawBroken(error.law, detail, time_ns=error.time_ns, request=error.request) from error
    return examples


def random_load(rng: np.random.Generator) -> RequestSet:
    """Up to 40 requests of up to 90 prompt and 60 output tokens, at once or apart; half of them in a closed loop."""
    count = int(rng.integers(1, 41))
    arrivals = np.cumsum(rng.choice(_GAPS_NS, count))
    rows = list(zip(arrivals, rng.integers(1, 91, count), rng.integers(1, 61, count), strict=True))
    concurrency = rng.choice([0, 0, 1, 5])
    return load(rows, priority=rng.integers(0, 3, count).tolist(), concurrency=int(concurrency) or None)


def same(first: Trace, second: Trace) -> bool:
    """Equal requests, equal steps when expanded, equal gaps."""
    steps = [laws.expanded(t.steps) for t in (first, second)]
    return (
        all(np.array_equal(first.requests[k], second.requests[k]) for k in first.requests)
        and all(np.array_equal(steps[0][k], steps[1][k]) for k in steps[0])
        and sorted(first.itl_gaps_ns.tolist()) == sorted(second.itl_gaps_ns.tolist())
    )


def _check(make: Callable[[], Scheduler], requests: RequestSet, blocks: int) -> None:
    leaping = _played(make, requests, blocks)
    laws.check(leaping)
    plans: list[Planned] = []
    stepping = _played(make, requests, blocks, plans)
    laws.check(stepping)
    if not same(leaping, _played(make, requests, blocks)):
        raise LawBroken("determinism", "the same workload gives another run")
    if not same(leaping, stepping):
        raise LawBroken("leap", "decode steps taken as one event differ from steps one by one; see `Plan.repeats`")
    longer = dataclasses.replace(requests, output_tokens=requests.output_tokens + _LATER)
    others: list[Planned] = []
    _played(make, longer, blocks, others)
    finished = stepping.requests["finish_ns"]
    first_end = int(finished[finished >= 0].min(initial=np.iinfo(np.int64).max))
    if [p for p in plans if p[0] < first_end] != [p for p in others if p[0] < first_end]:
        raise LawBroken("non-anticipation", "plans differ by output lengths that nobody knows yet")


def _played(
    make: Callable[[], Scheduler], requests: RequestSet, blocks: int, plans: list[Planned] | None = None
) -> Trace:
    """The run of two replicas; step by step where plans are to be noted, else with leaps."""

    def note(start_ns: int, _ns: int, plan: Plan, _free: int) -> None:
        assert plans is not None
        plans.append((start_ns, {request.id: tokens for request, tokens in plan.tokens.items()}))

    observed = plans is not None
    trace, cluster = play(requests, [make(), make()], RoundRobin(), _COST, num_gpu_blocks=blocks, leap=not observed,
                          observer=note if observed else None)  # fmt: skip
    if any(instance.ledger.used for instance in cluster.instances):
        raise LawBroken("memory", "KV blocks are still held when all requests have ended")
    return trace
