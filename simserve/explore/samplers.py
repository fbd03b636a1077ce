"""Optuna's samplers as a search uses them: seeded per trial, so that any number of workers gives the same trials."""

from __future__ import annotations

import hashlib
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

from simserve.errors import MissingData

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

POPULATION = 16  # of NSGA-II: two batches of trials [guessed]


def check(name: str) -> None:
    """MissingData if a sampler needs a package that is not there."""
    if name == "gp" and find_spec("torch") is None:
        raise MissingData("search.sampler: gp needs torch; pip install 'simserve[gp]', or use tpe")


def make(name: str, seed: int, slot: int, *, conditional: bool) -> BaseSampler:
    """The sampler that proposes the trial of a slot; conditional: parameters depend on others."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler, NSGAIISampler, TPESampler

    mixed = _mix(seed, slot)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "nsga2":
            return NSGAIISampler(seed=mixed, population_size=POPULATION)
        if name == "gp":
            return GPSampler(seed=mixed)
        return TPESampler(seed=mixed, multivariate=True, group=conditional)


def _mix(seed: int, slot: int) -> int:
    digest = hashlib.sha256(f"tpe:{seed}:{slot}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
