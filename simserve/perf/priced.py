"""A price: nanoseconds, where they come from, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Source = Literal["measured", "interpolated", "transferred", "modelled"]
SOURCES: tuple[Source, ...] = ("measured", "interpolated", "transferred", "modelled")


@dataclass(frozen=True, slots=True)
class Priced:
    """Time of one operation of a step, all its runs together.

    source: measured = a table row; interpolated = between rows of one table; transferred = the utilisation of
    another device or shape on this device's roofline; modelled = roofline with a documented efficiency, or a
    table continued beyond its hull. table: device/family, roofline/family,
    or engines/profile. error_fraction: median relative
    error of the family's interpolation when rows are left out, None where nobody measured it.
    """

    ns: float
    source: Source
    table: str
    note: str = ""
    error_fraction: float | None = None


def worst(*sources: Source) -> Source:
    """The least trustworthy of several sources."""
    return max(sources, key=SOURCES.index)
