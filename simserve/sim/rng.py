"""Named random streams from one seed: a new draw in one place never disturbs another."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of stream `name` ('arrivals', 'lengths', 'router', 'system:<name>') under `seed`."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
