"""Shared parts of schedulers and routers, no paper in them.

Routers register here; outside packages use the entry-point group `simserve.router`.
"""

from simserve.registry import Registry
from simserve.sim.plan import Router

ROUTERS: Registry[Router] = Registry("router", homes=("simserve.policies",), group="simserve.router")
router = ROUTERS.register
