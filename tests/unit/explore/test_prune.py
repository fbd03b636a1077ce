"""Pruning: counts by hand, and the law that it never takes what would have met the SLO."""

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.explore.objective import at_percentile
from simserve.explore.prune import GivenUp, Pruned, Watch
from simserve.sim.request import Outcome
from simserve.spec.slo import SloSpec


def ended(ttft_ms: float, tokens: int = 11, tpot_ms: float = 1.0) -> Any:
    """A finished request."""
    first = int(ttft_ms * 1e6)
    return SimpleNamespace(arrival_ns=0, first_token_ns=first, last_token_ns=first + int((tokens - 1) * tpot_ms * 1e6),
                           num_tokens=100 + tokens, prompt_tokens=100)  # fmt: skip


def test_the_eleventh_of_a_hundred_is_too_many() -> None:
    """P90 of 100 requests allows ten beyond the bound."""
    watch = Watch(SloSpec(ttft_ms=5), 100)
    for _ in range(10):
        watch(ended(6), Outcome.FINISHED)
    watch(ended(5), Outcome.FINISHED)
    with pytest.raises(Pruned, match=r"11 of 100 requests have a TTFT above 5 ms, .*known after 12") as caught:
        watch(ended(6), Outcome.FINISHED)
    reason = pickle.loads(pickle.dumps(caught.value.reason))  # as it comes from a worker
    assert (type(reason), reason, reason.missed) == (GivenUp, str(caught.value), "ttft")


def test_who_is_turned_away_is_late() -> None:
    """And a single token has no TPOT."""
    watch = Watch(SloSpec(tpot_ms=0.5), 10)
    watch(ended(1, tokens=1), Outcome.FINISHED)
    watch(ended(1), Outcome.REJECTED)
    with pytest.raises(Pruned, match="2 of 10 requests have a TPOT above"):
        watch(ended(1, tpot_ms=0.6), Outcome.FINISHED)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.floats(1, 99), st.integers(1, 20))
def test_pruned_is_missed_and_missed_is_pruned(values: list[int], percentile: float, bound: int) -> None:
    """Over a whole run, a simulation is given up exactly if the percentile of all requests exceeds the bound."""
    watch, pruned = Watch(SloSpec(ttft_ms=bound, percentile=percentile), len(values)), False
    for value in values:
        try:
            watch(ended(value), Outcome.FINISHED)
        except Pruned:
            pruned = True
    reached = at_percentile(np.array(values, dtype=np.float64), percentile)
    assert reached is not None
    assert pruned == (reached > bound)
