"""Layouts of encode, prefill and decode in EPD-Serve's notation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simserve.spec.stages import Place, Stage, parse_stages

E, P, D = Stage


def one(*stages: Stage) -> frozenset[Stage]:
    return frozenset(stages)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("TP1", (Place((one(E, P, D),)),)),
        ("TP2", (Place((one(E, P, D),), 1, 2),)),
        ("TP1x2", (Place((one(E, P, D),), 2),)),
        ("E-P-D", (Place((one(E),)), Place((one(P),)), Place((one(D),)))),
        ("EP-D", (Place((one(E, P),)), Place((one(D),)))),
        ("(E-P)-D", (Place((one(E), one(P))), Place((one(D),)))),
        ("(E-D)-P", (Place((one(E), one(D))), Place((one(P),)))),
        ("(E-PD)", (Place((one(E), one(P, D))),)),
        ("(E-PD)x2", (Place((one(E), one(P, D)), 2),)),
        ("E-PD", (Place((one(E),)), Place((one(P, D),)))),
        ("2E-P-3D", (Place((one(E),), 2), Place((one(P),)), Place((one(D),), 3))),
        ("6E1P1D", (Place((one(E),), 6), Place((one(P),)), Place((one(D),)))),
        ("1E3PD", (Place((one(E),)), Place((one(P, D),), 3))),
        ("P-D", (Place((one(P),)), Place((one(D),)))),
        ("(P-D)", (Place((one(P), one(D))),)),
    ],
)
def test_layouts_are_read_as_the_paper_writes_them(text: str, places: tuple[Place, ...]) -> None:
    """Glued letters are one process, dashes part devices, parentheses share one."""
    assert parse_stages(text) == places


def test_devices_are_counted() -> None:
    """EPD-Serve's own counts: TP1x2 and (E-P)-D take 2 NPUs, E-P-D 3; EPD's 6E1P1D 8 GPUs."""
    counts = {"TP1x2": 2, "(E-P)-D": 2, "E-P-D": 3, "6E1P1D": 8, "TP2": 2}
    assert {text: sum(place.devices for place in parse_stages(text)) for text in counts} == counts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("E-P", "nobody does D in 'E-P'"),
        ("E", "nobody does P and D"),
        ("E--D", "a place is missing in 'E--D'; write e.g. E-P-D"),
        ("(E-P-D", "is no place"),
        ("E-Q-D", "'Q' is no place"),
        ("(P)-D", "'(P)' is no place"),
        ("2(E-P)x2-D", "'2(E-P)x2' has two counts"),
        ("(E-EP)-D", "'(E-EP)' has a stage twice on one device"),
        ("PP-D", "'PP' has a stage twice"),
        ("0P-D", "counts must be 1 to 4096"),
        ("", "a place is missing"),
    ],
)
def test_what_is_no_layout_says_why(text: str, problem: str) -> None:
    """In one line that names the part."""
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        parse_stages(text)
    assert "\n" not in str(error.value)


@given(st.text(alphabet="EPDxT()-0123456789", max_size=12))
def test_any_text_is_a_layout_or_refused(text: str) -> None:
    """With every stage after the encoder somewhere."""
    try:
        places = parse_stages(text)
    except ValueError:
        return
    assert {P, D} <= set().union(*(process for place in places for process in place.processes))
    assert all(place.devices >= 1 for place in places)
