"""Sources of kernel tables, one file each, loaded only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from simserve.errors import UnknownName

Build = Callable[[Sequence[str], Path, Path | None], list[Path]]
_MODULES = {
    name: f"simserve.perf.importers.{name}"
    for name in ("aiconfigurator", "blis", "infersim", "llmservingsim", "llmservingsim_v0", "pcie", "vidur")
}


def importer_names() -> list[str]:
    """Names that `simserve perfdb build --from` takes."""
    return sorted(_MODULES)


def importer(name: str) -> Build:
    """build(devices, out_dir, package_dir) -> written files, of one source; UnknownName otherwise."""
    if name not in _MODULES:
        raise UnknownName("table source", name, _MODULES)
    return cast(Build, importlib.import_module(_MODULES[name]).build)
