"""The controller of semi-PD as a pure function of windows; no clock, no simulation."""

import pytest

from simserve.sim.shares import Window
from simserve.systems.semi_pd import SemiPd, SemiPdController, quantile, shifted, tpot_shape, ttft_shape

MS = 1_000_000


def controller(x: int = 50, y: int = 50, **knobs: float) -> SemiPdController:
    """Targets of 300 and 150 ms, steps of 5, at most 20 a decision."""
    given = {"ttft_ms": 300.0, "tpot_ms": 150.0, "step": 5, "max_step": 20, **knobs}
    return SemiPd(prefill_share=x, decode_share=y, **given).controller()  # type: ignore[arg-type]


def window(ttft_ms: float, gap_ms: float, busy: float = 0.5) -> Window:
    """Ten requests and ten gaps alike."""
    return Window([round(ttft_ms * MS)] * 10, [round(gap_ms * MS)] * 10, busy)


@pytest.mark.parametrize("seen", [window(200, 100), window(400, 200), Window((), (), 0.0)])
def test_both_or_none_missed_is_no_reason(seen: Window) -> None:
    """The shares stay."""
    assert (50, 50) == controller().adjust(seen)


def test_a_late_first_token_moves_sms_to_prefill_until_the_model_is_content() -> None:
    """Load 0.25 of x' 0.5: 0.681 / (x' - 0.25) + 0.022 must fall by 300 / 310, for which one step is enough."""
    assert ttft_shape(55 / 105, 0.25) / ttft_shape(0.5, 0.25) < 300 / 310
    assert (55, 50) == controller().adjust(window(310, 100))


def test_a_slow_decode_moves_sms_to_decode() -> None:
    """0.628 / y' + 0.382 at 50 / 50 is 1.638, of which 150 / 160 is reached with the second step."""
    needed = 150 / 160 * tpot_shape(0.5)
    assert tpot_shape(55 / 105) > needed > tpot_shape(60 / 110)
    assert (50, 60) == controller().adjust(window(200, 160))


def test_one_decision_moves_no_more_than_max_step() -> None:
    """However late, and less if a step does not fit."""
    assert (70, 50) == controller().adjust(window(9000, 100))
    assert (56, 50) == controller(step=3, max_step=8).adjust(window(9000, 100))


def test_a_full_share_makes_the_other_shrink_down_to_the_least() -> None:
    """100 and 100 become 100 and 80; never below min_share."""
    own = controller(100, 100, min_share=75)
    assert (100, 80) == own.adjust(window(9000, 100))
    assert (100, 75) == own.adjust(window(9000, 100))
    assert (100, 75) == own.adjust(window(9000, 100))


def test_a_step_says_what_is_missing_first() -> None:
    """The own share to 100, then the other one."""
    assert ((98, 100), (100, 100)) == (shifted((93, 100), 0, 5, 10), shifted((98, 100), 0, 5, 10))
    assert (95, 100) == shifted((100, 100), 1, 5, 10)


def test_without_both_targets_nothing_is_decided() -> None:
    """A window of no steps never closes."""
    assert [0, 0, 200] == [
        SemiPd(ttft_ms=ttft, tpot_ms=tpot).controller().window_size for ttft, tpot in ((300, 0), (0, 150), (300, 150))
    ]


def test_the_percentile_is_of_the_window() -> None:
    """90 % of ten is the ninth; of none, nothing is late."""
    assert (9, 10, 0) == (quantile(range(1, 11), 90), quantile(range(1, 11), 91), quantile((), 90))
