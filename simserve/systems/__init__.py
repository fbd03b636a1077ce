"""One file = one paper or engine. Adding the file is the whole registration.

Each file opens with citation, claim, what is modelled, what is simplified and where its rules come from;
`simserve explain NAME` prints it. Outside packages register under the entry-point groups `simserve.scheduler` and
`simserve.system` (for those with pools).
"""

from simserve.registry import Registry
from simserve.sim.plan import Scheduler, System

SCHEDULERS: Registry[Scheduler] = Registry(
    "scheduler", homes=("simserve.systems",), group="simserve.scheduler"
)
SYSTEMS: Registry[System] = Registry("system with pools", homes=("simserve.systems",), group="simserve.system")
scheduler = SCHEDULERS.register
system = SYSTEMS.register
