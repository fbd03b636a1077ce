"""One file = one paper or engine. Adding the file is the whole registration.

Each file opens with citation, claim, what is modelled, what is simplified and where its rules come from;
`simserve explain NAME` prints it. Outside packages register under the entry-point group `simserve.scheduler`.
"""

from simserve.registry import Registry
from simserve.sim.plan import Scheduler

SCHEDULERS: Registry[Scheduler] = Registry(
    "scheduler", homes=("simserve.systems",), group="simserve.scheduler"
)
scheduler = SCHEDULERS.register
