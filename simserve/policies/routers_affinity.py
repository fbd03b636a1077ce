"""Routers that send what belongs together to one instance, so that its prefix cache serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simserve.policies import router
from simserve.policies.hashing import consistent, mix
from simserve.policies.routers import least_loaded
from simserve.sim.plan import InstanceView, knob
from simserve.sim.request import Seen


def _bounded(chosen: int, views: Sequence[InstanceView], most: int) -> int:
    """`chosen`, or the least loaded instance if `chosen` has over `most` more requests than that one."""
    least = least_loaded(views)
    over = (
        views[chosen].num_waiting + views[chosen].num_running - views[least].num_waiting - views[least].num_running
    )
    return least if over > most else chosen


@router("prefix_affinity")
@dataclass
class PrefixAffinity:
    """Prompts that begin with the same tokens go to the same instance, unless it is much busier than another."""

    prefix_tokens: int = knob(256, "tokens at the beginning of the prompt that decide", low=1, high=1 << 20)
    max_imbalance: int = knob(16, "requests that it may have more than the least loaded one", low=0, high=1 << 20)

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """Consistent hashing of the prompt's first tokens, with a bound on the load."""
        key, left = 0, self.prefix_tokens
        for content, tokens in request.content:
            key = mix(key, content, min(tokens, left))
            left -= tokens
            if left <= 0:
                break
        return _bounded(consistent(key, views), views, self.max_imbalance)


@router("session_affinity")
@dataclass
class SessionAffinity:
    """All turns of a session go to the same instance; requests without a session to the least loaded one."""

    def route(self, request: Seen, views: Sequence[InstanceView]) -> int:
        """Consistent hashing of the session."""
        return least_loaded(views) if request.session < 0 else consistent(request.session, views)
