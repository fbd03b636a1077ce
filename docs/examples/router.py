r"""A router of one's own: long prompts to the last instance, all others in turn.

    python docs/examples/router.py simulate --model meta-llama/Llama-3.1-8B --gpu h100_sxm --replicas 3 --rate 20 \
        --isl 1000 --osl 100 --requests 300 --router long_apart
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from simserve.cli.main import main
from simserve.policies import router
from simserve.sim.plan import InstanceView, knob
from simserve.sim.request import Seen


@router("long_apart")
@dataclass
class LongApart:
    """`threshold` is a knob: `router_options: {threshold: 2000}` in a study."""

    threshold: int = knob(4000, "prompt tokens from which on a request is long", low=1, high=1_000_000)
    _next: int = field(default=0, init=False)

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """The index of the instance that takes the request."""
        if len(views) == 1 or request.num_tokens >= self.threshold:
            return len(views) - 1
        self._next = (self._next + 1) % (len(views) - 1)
        return self._next


if __name__ == "__main__":
    sys.exit(main())
