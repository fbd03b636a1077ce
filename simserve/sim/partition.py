"""A GPU whose SMs are shared out between processes, as CUDA MPS does.

Rules [paper: semi-PD, section 2.13 of our digest]: work bound by compute takes 1 / share as long; work bound by memory
does not depend on the share until so few SMs are left that they cannot saturate HBM. A share is a cap: idle SMs of
another process stay unused. Shares of processes that are active at once and add up to more than all SMs shrink in
proportion [inferred], and so does what they ask of HBM where that is more than there is (`lanes.proportional`).
"""

from __future__ import annotations

from fractions import Fraction

from simserve.sim.clock import Clock
from simserve.sim.lanes import Demand, GpuLanes, segment_ns
from simserve.sim.plan import Lane, WorkKind

HBM_SATURATION = Fraction(35, 100)  # "about 30 to 40 %" of the SMs saturate HBM [paper]; the middle [guessed]
_GRAIN = 1 << 20  # of rates, so that what is left of a segment stays a short fraction


class PartitionedGpu(GpuLanes):
    """One GPU, or a group that works in step.

    shares: kind of work -> per cent of the SMs. A change counts for a process from its next step on, so that old and
    new shares may overlap (delayed, asynchronous switch [paper]).
    """

    def __init__(self, clock: Clock, shares: dict[WorkKind, int], saturation: Fraction = HBM_SATURATION) -> None:
        super().__init__(clock)
        self.wanted, self._saturation = shares, saturation
        self._shares = dict(shares)

    def adopt(self, kind: WorkKind) -> None:
        """A process that does work of this kind begins a step: from now on it has the share that is wanted."""
        self._shares[kind] = self.wanted[kind]

    def _rates(self) -> list[Fraction]:
        on_sms = {job.kind for job in self._jobs if uses_sms(job.demand)}
        crowd = max(Fraction(1), Fraction(sum(self._shares[kind] for kind in on_sms), 100))
        alone = [self._alone(job.kind, job.demand, crowd) for job in self._jobs]
        asked = sum((rate * hbm_share(job.demand) for job, rate in zip(self._jobs, alone, strict=True)), Fraction(0))
        slow = max(Fraction(1), asked)
        rates = [rate / slow if job.demand.get(Lane.HBM) else rate for job, rate in zip(self._jobs, alone, strict=True)]
        return [Fraction(max(1, int(_GRAIN * rate)), _GRAIN) for rate in rates]

    def _alone(self, kind: WorkKind, demand: Demand, crowd: Fraction) -> Fraction:
        """How fast a segment progresses with its share of the SMs and HBM to itself."""
        if not uses_sms(demand):
            return Fraction(1)
        share = Fraction(self._shares[kind], 100) / crowd
        slowest = max(
            Fraction(segment_ns(demand)),
            demand.get(Lane.COMPUTE, 0) / share,
            demand.get(Lane.HBM, 0) * max(Fraction(1), self._saturation / share),
        )
        return segment_ns(demand) / slowest


def uses_sms(demand: Demand) -> bool:
    """Whether a segment computes or reads memory on the GPU; collectives and the host do not."""
    return bool(demand.get(Lane.COMPUTE) or demand.get(Lane.HBM))


def hbm_share(demand: Demand) -> Fraction:
    """The part of HBM's bandwidth that a segment uses at full pace."""
    return Fraction(demand.get(Lane.HBM, 0), max(segment_ns(demand), 1))
