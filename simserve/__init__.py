"""simserve: which deployment to run for serving an LLM, found by simulation on measured kernel times.

Reading guide, six files: this one, `spec/study`, `sim/plan`, `sim/instance`, `perf/model`, and one of
`systems/`.

    study.yaml -> spec -> hardware, model, perfdb -> cost model -> cluster (SimPy) -> trace -> metrics
                                                          ^---- explore (screen, Optuna) ----|

The public names are in `__all__`; they are read when they are first asked for, so that `import simserve` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from simserve.version import __version__ as __version__

if TYPE_CHECKING:
    from simserve.api.hardware import vary_gpu
    from simserve.api.searched import Explanation, Search, search
    from simserve.api.simulated import Simulation, simulate
    from simserve.api.study import Study, describe, load_study
    from simserve.errors import SimserveError

__all__ = ["load_study", "describe", "search", "simulate", "vary_gpu", "Study", "Search", "Simulation", "Explanation",
           "SimserveError"]  # fmt: skip

_PLACES = {
    "load_study": "api.study", "describe": "api.study", "Study": "api.study",
    "search": "api.searched", "Search": "api.searched", "Explanation": "api.searched",
    "simulate": "api.simulated", "Simulation": "api.simulated", "vary_gpu": "api.hardware", "SimserveError": "errors",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'simserve' has no attribute {name!r}")
    found = getattr(import_module(f"simserve.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
