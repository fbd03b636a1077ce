"""An instance that does something about a request's images before the first step of its prompt.

It encodes them, where encoder and prefill are one process, or fetches what others encoded, where that is synchronous;
meanwhile nothing else runs in the process. Processes that share the GPU see encoding as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simserve.sim.instance import Instance
from simserve.sim.lanes import Part
from simserve.sim.plan import Lane, WorkKind
from simserve.sim.request import Request
from simserve.sim.step import Step

Before = Callable[[Request], int]


class MultimodalInstance(Instance):
    """encodes, fetches: ns of a request's images before its prompt; fetches keep no GPU busy."""

    def __init__(self, *args: Any, encodes: Before, fetches: Before, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encodes, self._fetches = encodes, fetches

    def _new(self, step: Step) -> list[Request]:
        """Requests with images whose prompt begins in this step."""
        if not step.prefill:
            return []
        return [r for r in step.batch if r.images and r.first_scheduled_ns == step.start_ns]

    def _step_ns(self, step: Step) -> int:
        new = self._new(step) if self._gpu is None else ()
        return super()._step_ns(step) + sum(self._encodes(r) + self._fetches(r) for r in new)

    def _parts(self, step: Step) -> list[Part]:
        parts, new = super()._parts(step), self._new(step)
        encoding, fetching = sum(self._encodes(r) for r in new), sum(self._fetches(r) for r in new)
        before: list[Part] = [(WorkKind.ENCODE, {Lane.COMPUTE: encoding})] if encoding else []
        return [*before, *([(WorkKind.ENCODE, {Lane.NETWORK: fetching})] if fetching else []), *parts]
