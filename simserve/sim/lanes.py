"""How long a list of segments takes: segments follow one another, lanes of one segment run side by side.

Interference rule (the default): a segment lasts as long as its busiest lane, so perfect overlap inside a
segment and none between segments.
"""

from __future__ import annotations

from collections.abc import Sequence

from simserve.sim.plan import Segment


def segment_ns(segment: Segment) -> int:
    """Duration of one segment: its largest lane demand."""
    return max(segment.demand_ns.values(), default=0)


def step_ns(segments: Sequence[Segment]) -> int:
    """Duration of a step made of `segments`."""
    return sum(segment_ns(s) for s in segments)
