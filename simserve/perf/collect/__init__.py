"""Measuring kernels on the machine at hand, `simserve perfdb collect`: each collector is loaded when asked for.

torch measures GPUs and is never imported otherwise; without it NumPy measures what a CPU can.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from simserve.errors import UnknownName
from simserve.perf.collect.machine import Machine
from simserve.perf.collect.task import Options, Task

Collector = Callable[[Machine, Options], list[Task]]
_MODULES = {
    "gemm": "gemm",
    "attention": "attention",
    "pcie": "pcie",
    "cpu-attention": "cpu_attention",
    "collectives": "collectives",
}


def collector_names() -> list[str]:
    """What `simserve perfdb collect` takes."""
    return list(_MODULES)


def collector(name: str) -> Collector:
    """tasks(machine, options) of one kind of measurement; UnknownName otherwise."""
    if name not in _MODULES:
        raise UnknownName("collector", name, _MODULES)
    return cast(Collector, importlib.import_module(f"simserve.perf.collect.{_MODULES[name]}").tasks)
