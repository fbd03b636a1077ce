"""The order of trials learns by how much the screen is off."""

from dataclasses import replace

import numpy as np

from simserve.explore.learned import Learned
from simserve.explore.objective import NEVER_MS, Outcome, SloValue
from simserve.explore.prune import GivenUp
from simserve.explore.screen import Screen
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.slo import SloSpec

FAST, SURE, PLAYED = (DeploymentSpec(replicas=n) for n in (1, 2, 3))
SCREEN = Screen(
    utilisation=np.array([0.5] * 3), tpot_ms=np.array([8.0, 6.0, 4.0]), ttft_ms=np.array([50.0] * 3),
    tokens_per_s_per_gpu=np.array([100.0, 50.0, 30.0]), gpus=np.array([1.0, 2.0, 3.0]),
    usd_per_hour=np.array([2.0, 4.0, 6.0]), e2e_ms=np.array([850.0, 650.0, 450.0]),
)  # fmt: skip
LEARNED = Learned([FAST, SURE, PLAYED], SCREEN, np.array([1, 2, 3]), SloSpec(tpot_ms=10))
OUTCOME = Outcome(
    deployment=PLAYED, num_gpus=3, num_gpu_blocks=10, tokens_per_s_per_gpu=30.0, ttft_ms=50.0, tpot_ms=4.0,
    usd_per_hour=6.0, usd_per_million_tokens=1.0, slo=(SloValue("tpot", 90.0, 4.0, 10.0),), turned_away=0, metrics={},
)  # fmt: skip


def test_before_anything_is_known_the_order_is_the_screens() -> None:
    """Nothing simulated, nothing changed."""
    assert LEARNED.order([], []) == [FAST, SURE, PLAYED]


def test_a_screen_that_was_right_is_followed() -> None:
    """4 ms estimated, 4 ms simulated: 8 ms are within 10."""
    assert LEARNED.order([OUTCOME], []) == [FAST, SURE, PLAYED]


def test_a_screen_that_was_too_fast_is_corrected() -> None:
    """4 ms estimated, 6 ms simulated: 8 become 12, beyond the bound; 6 become 9, within it."""
    assert LEARNED.order([replace(OUTCOME, tpot_ms=6.0)], []) == [SURE, PLAYED, FAST]


def test_what_was_given_up_teaches_too() -> None:
    """8 ms estimated and above 10 at the percentile: at least 10.5 / 8, so that 6 become 7.9."""
    assert LEARNED.order([], [(FAST, GivenUp("in any words", "tpot"))]) == [SURE, PLAYED, FAST]


def test_what_was_given_up_for_another_latency_teaches_nothing_of_this_one() -> None:
    """TTFT has no bound here."""
    assert LEARNED.order([], [(FAST, GivenUp("TPOT above 10 ms", "ttft"))]) == [FAST, SURE, PLAYED]


def test_an_e2e_bound_is_learned_as_well() -> None:
    """850 ms estimated are within 900; 450 that were simulated as 675 make them 1275, and 650 of the next 975: neither
    is within it, and what misses least comes first. Given up at 850: 650 become 650 x 900 x 1.05 / 850 = 723."""
    learned = replace(LEARNED, slo=SloSpec(e2e_ms=900))
    played = replace(OUTCOME, slo=(SloValue("e2e", 90.0, 675.0, 900.0),))

    assert learned.order([], []) == [FAST, SURE, PLAYED]
    assert learned.order([played], []) == [PLAYED, SURE, FAST]
    assert learned.order([], [(FAST, GivenUp("late", "e2e"))]) == [SURE, PLAYED, FAST]


def test_what_never_ends_leaves_the_rest_in_order() -> None:
    """Infinitely slow is taken as twenty times: all are beyond the bound, those that miss it least first."""
    assert LEARNED.order([replace(OUTCOME, tpot_ms=NEVER_MS)], []) == [PLAYED, SURE, FAST]
