"""The front of throughput per GPU against TPOT: what no other configuration beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from simserve.search.objective import Outcome


def front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes that meet the SLO and that no other such outcome dominates, by falling throughput per GPU.

    One dominates another if it is at least as good in both and better in one; of equal ones the first stays.
    """
    good = sorted((o for o in outcomes if o.meets_slo), key=lambda o: (-o.tokens_per_s_per_gpu, o.tpot_order))
    kept: list[Outcome] = []
    for outcome in good:
        if not kept or outcome.tpot_order < kept[-1].tpot_order:
            kept.append(outcome)
    return kept
