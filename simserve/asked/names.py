"""Say where in the study file a problem lies that shows only when its names are looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from simserve.errors import SimserveError, SpecError, UnknownName

if TYPE_CHECKING:
    from simserve.spec.deployment import DeploymentSpec, PoolSpec
    from simserve.spec.study import StudySpec

LookUp = Callable[[str, "str | None", Callable[[str], object]], None]


def check_names(study: StudySpec, path: Path | None) -> None:
    """Look up model, GPUs, engine, scheduler and routers before any work; UnknownName with file, line, key."""
    from simserve.perf.host import load_profile
    from simserve.spec.hardware import load_link
    from simserve.spec.model import load_model
    from simserve.systems import SYSTEMS

    def look_up(key: str, name: str | None, find: Callable[[str], object]) -> None:
        try:
            if name is not None:
                find(name)
        except UnknownName as error:
            file, line = _place(path, key)
            raise UnknownName(error.kind, name or "", error.known, file=file, line=line, key=key,
                              choices=error.choices) from None  # fmt: skip

    look_up("model", study.model, load_model)
    named = {f"deployments.{name}": deployment for name, deployment in (study.deployments or {}).items()}
    for key, deployment in {"deployment": study.deployment, **named}.items():
        look_up(f"{key}.system", deployment.system, SYSTEMS.get)
        look_up(f"{key}.kv_link", deployment.kv_link, load_link)
        look_up(f"{key}.engine", deployment.engine, load_profile)
        _check_engine(look_up, key, deployment)
        for name, pool in deployment.pools:
            _check_engine(look_up, f"{key}.pools.{name}", pool)
    _check_space(look_up, study)


def _check_space(look_up: LookUp, study: StudySpec) -> None:
    """The names in the space of a search."""
    from simserve.policies import ROUTERS
    from simserve.spec.hardware import load_gpu
    from simserve.systems import SCHEDULERS

    space = study.search.space if study.search is not None else None
    if space is not None:
        lists: list[tuple[str, tuple[str, ...] | None, Callable[[str], object]]] = []
        lists.append(("scheduler", space.scheduler, SCHEDULERS.get))
        for key, part in (("", space), ("prefill.", space.prefill), ("decode.", space.decode)):
            if part is not None:
                lists += [(f"{key}gpu", part.gpu, load_gpu), (f"{key}router", part.router, ROUTERS.get)]
        for key, names, find in lists:
            for index, name in enumerate(names or ()):
                look_up(f"search.space.{key}[{index}]", name, find)


def _check_engine(
    look_up: LookUp, key: str, engine: DeploymentSpec | PoolSpec
) -> None:
    """The names in a deployment, or in one of its pools."""
    from simserve.policies import EVICTIONS, ROUTERS
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.hardware import load_gpu, load_host, load_link
    from simserve.systems import SCHEDULERS

    look_up(f"{key}.gpu", engine.gpu, load_gpu)
    look_up(f"{key}.scheduler", engine.scheduler, SCHEDULERS.get)
    look_up(f"{key}.router", engine.router, ROUTERS.get)
    if isinstance(engine, DeploymentSpec) and engine.tiers is not None:
        look_up(f"{key}.tiers.host", engine.tiers.host, load_host)
        look_up(f"{key}.tiers.disk_link", engine.tiers.disk_link, load_link)
    if engine.offload is not None:
        look_up(f"{key}.offload.eviction", engine.offload.eviction, EVICTIONS.get)
        look_up(f"{key}.offload.ssd_link", engine.offload.ssd_link, load_link)


@contextmanager
def located(path: Path | None) -> Iterator[None]:
    """Add file and line to a SpecError that names a key of the study and no file yet."""
    try:
        yield
    except SpecError as error:
        if error.file is not None or error.key is None:
            raise
        file, line = _place(path, error.key)
        raise SpecError(
            error.problem, file=file, line=line, key=error.key, value=error.value, nearest=error.nearest
        ) from None


def _place(path: Path | None, key: str) -> tuple[str, int | None]:
    return ("command line", None) if path is None else (str(path), _line_of(path, key))


def _line_of(path: Path, key: str) -> int | None:
    """The line of a dotted key, or of its closest parent that the file has."""
    from simserve.spec.base import dotted, read_yaml

    try:
        lines = {dotted(place): line for place, line in read_yaml(path).lines.items()}
    except SimserveError:
        return None
    parents = [name for name in lines if key == name or (name and key.startswith((f"{name}.", f"{name}[")))]
    return lines[max(parents, key=len)] if parents else None
