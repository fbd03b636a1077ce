"""A whole study from options by name: those of `simserve search`, without dashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simserve.asked.flags import Flags, study_data
from simserve.asked.space import SPACE_OPTIONS, space_sections
from simserve.errors import SpecError, UnknownName

_SPACE = {option.lstrip("-").replace("-", "_"): option for option in SPACE_OPTIONS}
_RUN = ("objective", "trials")
NAMES = (*Flags.__dataclass_fields__, *_SPACE, *_RUN)
_COUNTS = ("gpus",)  # those of a space that are one number


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The study as a file would have it; SpecError and UnknownName name the option that is wrong."""
    for name in options:
        if name not in NAMES:
            raise UnknownName("option", name, NAMES)
    given = {name: value for name, value in options.items() if value is not None}
    most = given.get("gpus")
    if most is not None and (not isinstance(most, int) or most < 1):
        raise SpecError("must be a whole number above 0", key="gpus", value=most)
    space = {option: _listed(name, given.get(name)) for name, option in _SPACE.items()}
    kinds: dict[str, Callable[[Any], Any]] = {"trace": Path, "ttft": str, "tpot": str, "e2e": str}
    flags: dict[str, Any] = {
        name: kinds.get(name, lambda value: value)(given[name]) if name in given else None
        for name in Flags.__dataclass_fields__
    }
    own = Flags(**flags)
    try:
        sections = space_sections(space, given.get("trials"), own.model)
        if "objective" in given:
            sections["search"]["objective"] = given["objective"]
        return study_data(own, sections)
    except UnknownName:
        raise
    except SpecError as error:
        raise SpecError(error.problem, key=(error.key or "").lstrip("-").replace("-", "_") or None,
                        value=error.value, nearest=error.nearest) from None  # fmt: skip


def _listed(name: str, value: Any) -> Any:
    """Values of a repeatable option as the command line gives them."""
    if value is None or name in (*_COUNTS, "scheduler", "kv_cache_dtype"):
        return value
    return [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
