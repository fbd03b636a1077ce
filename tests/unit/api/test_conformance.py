"""What is shipped for schedulers of others finds what is wrong with them."""

from collections.abc import Callable
from typing import Any

import pytest

from simserve.errors import LawBroken
from simserve.sim.plan import Plan, View
from simserve.systems.vllm import Vllm
from simserve.testing import conformance
from simserve.testing.conformance import check_scheduler
from simserve.workload.requests import RequestSet


class Spoiled:
    """vLLM's plans with one rule broken."""

    max_num_batched_tokens, max_num_seqs = 64, 8

    def __init__(self, spoil: Callable[[View, Plan], None]) -> None:
        self.inner, self.spoil = Vllm(64, 8), spoil

    def plan(self, view: View) -> Plan:
        """The inner plan, spoiled."""
        plan = self.inner.plan(view)
        self.spoil(view, plan)
        return plan


def too_many(_: View, plan: Plan) -> None:
    """Tokens that are not known yet."""
    for request in plan.tokens:
        plan.tokens[request] += 1


def promises(_: View, plan: Plan) -> None:
    """Says that no arrival changes what it plans."""
    plan.arrival_breaks = False


calls = [0]


def forgets(_: View, plan: Plan) -> None:
    """Depends on how often it was asked in its life, not on what it sees."""
    calls[0] += 1
    plan.repeats = False
    if calls[0] % 97 == 0 and len(plan.tokens) > 1 and not plan.admitted and not plan.preempted:
        del plan.tokens[next(reversed(plan.tokens))]


lengths: list[RequestSet] = []


def prophesies(_: View, plan: Plan) -> None:
    """Knows output lengths, and lets those wait whose is odd."""
    plan.repeats = False
    if len(plan.tokens) > 1 and not plan.admitted and not plan.preempted:
        for request in list(plan.tokens)[1:]:
            if lengths[-1].output_tokens[request.id] % 2:
                del plan.tokens[request]


def test_a_good_scheduler_passes() -> None:
    """As many workloads as were asked for."""
    assert 10 == check_scheduler(Vllm, examples=10)


@pytest.mark.parametrize(
    ("spoil", "law"),
    [(too_many, "tokens"), (promises, "leap"), (forgets, "determinism|leap"), (prophesies, "non-anticipation")],
)  # fmt: skip
def test_a_bad_one_is_found(
    spoil: Callable[[View, Plan], None], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the law, and the workload that shows it."""
    real = conformance.play

    def play(requests: RequestSet, *rest: Any, **more: Any) -> Any:
        lengths.append(requests)
        return real(requests, *rest, **more)

    monkeypatch.setattr(conformance, "play", play)
    with pytest.raises(LawBroken, match=rf"law broken: ({law}).*workload \d+ of seed 0"):
        check_scheduler(lambda: Spoiled(spoil))
