"""Every layout of stages that so many GPUs can form, counted and written out by hand."""

from math import comb

import pytest

from simserve.errors import SpecError
from simserve.explore.layouts import every_layout, own_width
from simserve.spec.stages import one_more, parse_stages, text_of

OF_TWO = ["(E-PD)", "TP1x1", "(E-D)-P", "(E-P)-D", "(E-PD)x2", "E-PD", "EP-D", "TP1x2"]
OF_THREE = ["(E-D)-2P", "(E-P)-2D", "(E-PD)x3", "2(E-D)-P", "2(E-P)-D", "2E-PD", "2EP-D", "E-2PD", "E-P-D", "EP-2D",
            "TP1x3"]  # fmt: skip


def test_layouts_of_three_gpus() -> None:
    """The fewest GPUs first, then by name."""
    assert every_layout(2, [1], encodes=True) == OF_TWO
    assert every_layout(3, [1], encodes=True) == OF_TWO + OF_THREE


def test_encoders_stay_on_one_gpu_each_where_the_model_takes_two() -> None:
    """Of 3 GPUs: E-PD has one and two; E-P-D would need five."""
    assert every_layout(3, [2], encodes=True) == ["(E-PD)", "TP2x1", "E-PD"]


def test_text_alone_has_no_encoders() -> None:
    """One kind of process, or prompts apart from decoding."""
    assert every_layout(3, [1], encodes=False) == ["TP1x1", "P-D", "TP1x2", "2P-D", "P-2D", "TP1x3"]


def test_both_widths_have_each_layout_once() -> None:
    """A layout that either width can have stands there once; TP1 and TP2 are two."""
    found = every_layout(8, [1, 2], encodes=True)

    assert len(found) == len(set(found))
    assert {parse_stages(text) for text in found if own_width(text) is None}
    assert found.count("E-P-D") == 1
    assert {"TP1x8", "TP2x4"} <= set(found)


@pytest.mark.parametrize("most", [4, 9])
def test_the_count_is_that_of_compositions(most: int) -> None:
    """E-P-D: 3 of n; five kinds of two parts, 2 of n; TP1 and (E-PD), n each."""
    assert len(every_layout(most, [1], encodes=True)) == comb(most, 3) + 4 * comb(most, 2) + 2 * most


def test_more_than_can_be_screened() -> None:
    """100 GPUs have 161,700 counts of E-P-D alone."""
    with pytest.raises(SpecError, match=r"more than 100,000 layouts .* \(got 'max_gpus 100'\)"):
        every_layout(100, [1], encodes=True)


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("E-P-D", [("E", "2E-P-D"), ("P", "E-2P-D"), ("D", "E-P-2D")]),
        ("(E-P)x2-3D", [("(E-P)", "3(E-P)-3D"), ("D", "2(E-P)-4D")]),
        ("(E-PD)x2", [("(E-PD)", "(E-PD)x3")]),
        ("TP2", [("TP2", "TP2x2")]),
        ("1E3PD", [("E", "2E-3PD"), ("PD", "E-4PD")]),
    ],
)
def test_one_more_of_each_place(text: str, more: list[tuple[str, str]]) -> None:
    """In the same notation."""
    assert one_more(text) == more


@pytest.mark.parametrize("text", every_layout(5, [1, 2], encodes=True))
def test_what_is_written_reads_the_same(text: str) -> None:
    """`text_of` and `parse_stages` are inverse."""
    assert parse_stages(text_of(parse_stages(text))) == parse_stages(text)
