"""Replications with common random numbers: the best few on further workload seeds, the same ones for each of them.

One workload is one sample; what differs between two configurations on it may be the luck of its arrivals. On the same
arrivals much of that luck cancels out of the difference, so its confidence interval (Student's t over the seeds,
paired) is narrow, and configurations whose interval reaches zero are ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simserve.explore.intervals import paired
from simserve.explore.repeats import Repeat, repeats

if TYPE_CHECKING:
    from pathlib import Path

    from simserve.spec.study import StudySpec

REPLICATED = 5  # at a time, of the configurations that rank first
CONFIDENCE = 0.9


@dataclass(frozen=True)
class Replications:
    """One configuration on every seed, the study's own first.

    tokens_per_s_per_gpu, worst_excess: by seed, the latter as in `Outcome`.
    """

    seeds: tuple[int, ...]
    tokens_per_s_per_gpu: tuple[float, ...]
    worst_excess: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Tokens/s/GPU."""
        return float(np.mean(self.tokens_per_s_per_gpu))

    @property
    def keeps_slo(self) -> bool:
        """On average over the seeds, the objective that is nearest to its bound is within it."""
        return float(np.mean(self.worst_excess)) <= 0.0

    def reaches(self, other: Replications) -> bool:
        """Whether the interval of the difference, this throughput minus the other, ends at zero or above."""
        high = paired(self.tokens_per_s_per_gpu, other.tokens_per_s_per_gpu, CONFIDENCE).high
        return high is not None and high >= 0.0


def from_dict(data: dict[str, Any] | None) -> Replications | None:
    """The inverse of `dataclasses.asdict`."""
    return None if data is None else Replications(**{name: tuple(values) for name, values in data.items()})


def further(study: StudySpec, base_dir: Path | None, requests: int) -> list[Repeat]:
    """The repeats beyond the study's own requests, those that `simserve compare` plays; as many requests of each."""
    count = study.search.replications if study.search is not None else 1
    return repeats(study, count, base_dir=base_dir, requests=requests)[1:] if count > 1 else []
