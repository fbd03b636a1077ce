"""Shared parts of schedulers, routers and eviction orders, no paper in them.

Routers and eviction orders register here; outside packages use the entry-point groups `simserve.router` and
`simserve.eviction`.
"""

from simserve.registry import Registry
from simserve.sim.plan import Eviction, Router

ROUTERS: Registry[Router] = Registry("router", homes=("simserve.policies",), group="simserve.router")
EVICTIONS: Registry[Eviction] = Registry("eviction order", homes=("simserve.policies",), group="simserve.eviction")
router = ROUTERS.register
eviction = EVICTIONS.register
