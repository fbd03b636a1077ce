"""A small fixed hash, so that routers draw without a random generator and without state.

A draw is a function of (seed, request id, ...): the same in every process, and whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

from simserve.sim.plan import InstanceView

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """64 well-mixed bits of some integers: the finaliser of SplitMix64 (Steele et al., 2014) after each."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def consistent(key: int, views: Sequence[InstanceView]) -> int:
    """The instance of a key by rendezvous hashing: without one instance, only its own keys move."""
    return max(range(len(views)), key=lambda i: mix(key, views[i].index))
