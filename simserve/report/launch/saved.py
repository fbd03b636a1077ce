"""Which run of a saved result launch files are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simserve.errors import SpecError

if TYPE_CHECKING:
    from simserve.explore.objective import Outcome
    from simserve.explore.saved import Saved


def run_of(saved: Saved, rank: int | None) -> Outcome:
    """The run of a rank (1 is the best, as in the table); without one the recommended, or the only one."""
    if rank is None:
        if saved.document.get("kind") == "search" and saved.document.get("recommended") is None:
            raise SpecError("nothing was recommended; say which run by its rank", file=str(saved.path), key="--rank")
        return saved.outcome
    if rank > len(saved.runs):
        raise SpecError(f"there are {len(saved.runs)} runs", file=str(saved.path), key="--rank", value=rank)
    return saved.runs[rank - 1]

