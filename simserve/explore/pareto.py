"""Pareto fronts: what no other configuration beats in everything that is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simserve.explore.objective import NEVER_MS, Outcome

Axis = Callable[[Outcome], float]  # to be made as small as possible
AXES: dict[str, Axis] = {
    "tokens_per_s_per_gpu": lambda o: -o.tokens_per_s_per_gpu,
    "tokens_per_s_per_user": lambda o: o.tpot_order,
    "usd_per_million_tokens": lambda o: o.usd_per_million_tokens,
    "joules_per_token": lambda o: NEVER_MS if o.energy is None else o.energy.joules_per_token,
}
TWO = ("tokens_per_s_per_gpu", "tokens_per_s_per_user")


def front(outcomes: Sequence[Outcome], axes: Sequence[str] = TWO) -> list[Outcome]:
    """Outcomes that meet the SLO and that no other such outcome dominates in `axes`, by falling throughput per GPU.

    One dominates another if it is at least as good in all and better in one; of equal ones the first stays.
    """
    good = sorted((o for o in outcomes if o.meets_slo), key=lambda o: (-o.tokens_per_s_per_gpu, o.tpot_order))
    points = [tuple(AXES[name](o) for name in axes) for o in good]
    return [
        outcome
        for place, (outcome, own) in enumerate(zip(good, points, strict=True))
        if not any(_beats(other, own, other_place < place) for other_place, other in enumerate(points))
    ]


def _beats(other: tuple[float, ...], own: tuple[float, ...], earlier: bool) -> bool:
    """Whether `other` dominates `own`, or equals it and came earlier."""
    no_worse = all(a <= b for a, b in zip(other, own, strict=True))
    return no_worse and (other != own or earlier)
