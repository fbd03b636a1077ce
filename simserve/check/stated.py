"""Before any work: whether what a study expects can be judged. Its errors name the key, not yet file and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simserve.check.metrics import check_metric
from simserve.errors import SpecError, UnknownName, nearest_name
from simserve.policies import ROUTERS
from simserve.spec.hardware import load_gpu
from simserve.spec.stages import parse_stages
from simserve.spec.study import ALL_LAYOUTS
from simserve.systems import SCHEDULERS, SYSTEMS

if TYPE_CHECKING:
    from simserve.spec.expect import ExpectSpec
    from simserve.spec.study import StudySpec

_NAMED: dict[str, Callable[[str], object]] = {
    "gpu": load_gpu, "scheduler": SCHEDULERS.get, "router": ROUTERS.get, "system": SYSTEMS.get,
}  # fmt: skip


def check_expect(study: StudySpec) -> ExpectSpec:
    """The expectations of a study; SpecError where they are missing, misspelt, or ask what the study has not."""
    expect = study.expect
    if expect is None:
        raise SpecError("there is no 'expect' section, so nothing to check; add one, e.g. expect: {slo_met: true}")
    if expect.slo_met is not None and study.slo is None:
        raise SpecError("the study has no slo that could be met", key="expect.slo_met")
    for name in expect.bounds:
        check_metric(name, f"expect.{name}", study)
    for name in expect.tolerance.metrics if expect.tolerance is not None else ():
        check_metric(name, f"expect.tolerance.{name}", study)
    if expect.winner is not None:
        _check_winner(expect.winner, study)
    return expect


def _check_winner(winner: Any, study: StudySpec) -> None:
    """Names that exist, and values that the search may choose."""
    if study.search is None:
        raise SpecError("only a study with a search section has a winner", key="expect.winner")
    for key in winner.model_fields_set:
        value, choices = getattr(winner, key), getattr(study.search.space, key, None)
        if key in _NAMED and value is not None:
            _look_up(key, value)
        if key == "stages" and choices is not None and ALL_LAYOUTS in choices:
            _check_layout(str(value))
        elif isinstance(choices, tuple) and value not in choices:
            known = ", ".join(map(str, choices))
            raise SpecError(f"can never win: search.space.{key} has {known}", key=f"expect.winner.{key}",
                            value=value, nearest=nearest_name(str(value), map(str, choices)))  # fmt: skip


def _check_layout(text: str) -> None:
    """SpecError unless a layout can be read."""
    try:
        parse_stages(text)
    except ValueError as error:
        raise SpecError(str(error), key="expect.winner.stages") from None


def _look_up(key: str, name: str) -> None:
    try:
        _NAMED[key](name)
    except UnknownName as error:
        raise UnknownName(error.kind, name, error.known, key=f"expect.winner.{key}", choices=error.choices) from None
