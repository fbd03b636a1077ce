"""Beside the chosen run of a diffusion model the best one of every other scheduler, and what limits each.

Told from the outcomes of a search alone; nothing where one scheduler was simulated, or where the model decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from simserve.diffusion import denoises
from simserve.explore.limits import limits
from simserve.explore.objective import Outcome, standing
from simserve.explore.result import describe, missed

_TOLD = ("seqs", "tokens", "kv", "policy", "load", "queries")
GOALS = {"throughput": "tokens/s/GPU", "front": "tokens/s/GPU", "gpus": "GPUs", "cost": "USD per hour"}


@dataclass(frozen=True)
class Rival:
    """The best run of one scheduler, of so many `simulated`.

    place: in the result's runs; goal: what the objective asks for; misses: what of the SLO, '' for nothing; limits:
    sentences.
    """

    scheduler: str
    simulated: int
    place: int
    configuration: str
    goal: float
    misses: str
    limits: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {**asdict(self), "limits": list(self.limits)}


def rivals(runs: Sequence[Outcome], chosen: Outcome, objective: str) -> list[Rival]:
    """Of the other schedulers, in the order of the runs, the best first."""
    found: dict[str, Rival] = {}
    for place, run in enumerate(runs):
        name = run.deployment.scheduler
        if denoises(name) and name not in (chosen.deployment.scheduler, *found):
            found[name] = _rival(place, run, objective, sum(r.deployment.scheduler == name for r in runs))
    return list(found.values())


def _rival(place: int, run: Outcome, objective: str, simulated: int) -> Rival:
    told = [limit.text for limit in limits(run).found if limit.name in _TOLD]
    goal = abs(standing(run, objective))
    few = (told[0], told[-1]) if len(told) > 1 else tuple(told)
    misses = "" if run.meets_slo else missed(run)
    return Rival(run.deployment.scheduler, simulated, place, describe(run), goal, misses, few)


def lines(found: Sequence[Rival], chosen: Outcome, objective: str) -> list[str]:
    """A paragraph for each."""
    own, unit = abs(standing(chosen, objective)), GOALS[objective]
    return [
        f"{one.scheduler}, best of {one.simulated} simulated: {one.configuration}: {one.goal:.4g} {unit} against "
        + f"{own:.4g}{f'; {one.misses}' if one.misses else ''}. {' '.join(f'{text}.' for text in one.limits)}"
        for one in found
    ]
