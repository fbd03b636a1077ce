"""Which stage gives a GPU to which: the rule of EPD's released code (arXiv 2501.05460, ICML 2025) [C].

To the stage with the longest queue, unless all queues are at least half as long; from the stage, of those with a
shorter queue, that has most to spare beside the one that each keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

from simserve.spec.stages import Stage


def switch(queues: Mapping[Stage, float], engines: Mapping[Stage, int]) -> tuple[Stage, Stage] | None:
    """(from, to), or None; queues: mean length since the last decision; engines: GPUs of each stage."""
    to = max(queues, key=lambda stage: queues[stage])
    if all(2 * length >= queues[to] for stage, length in queues.items() if stage is not to):
        return None
    able = [stage for stage, length in queues.items() if length < queues[to] and engines[stage] > 1]
    if not able:
        return None
    return max(able, key=lambda stage: engines[stage]), to
