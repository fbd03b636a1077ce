"""A whole study from options by name: those of `simserve search`, without dashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simserve.asked.flags import Flags, study_data
from simserve.asked.space import SPACE_OPTIONS, space_sections
from simserve.errors import SpecError, UnknownName

_SPACE = {option.lstrip("-").replace("-", "_"): option for option in SPACE_OPTIONS}
_RUN = ("objective", "trials")
NAMES = (*Flags.__dataclass_fields__, *_SPACE, *_RUN)
_BOUNDS = ("ttft", "tpot", "e2e")
_KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("gpus", "concurrency", "isl", "osl", "prefix", "requests", "seed", "trials"),
                    (int, "a whole number")),
    **dict.fromkeys(("rate", "cv", "rate_scale", "percentile"), ((int, float), "a number")),
    **dict.fromkeys(_BOUNDS, ((int, float, str), "a duration: ms, or text with a unit")),
    **dict.fromkeys(("model", "trace"), ((str, Path), "a name or a path")),
    **dict.fromkeys(("trace_format", "objective", "scheduler", "kv_cache_dtype"), (str, "a word")),
}  # fmt: skip
_COUNTS = ("gpus",)  # those of a space that are one number


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """The study as a file would have it; SpecError and UnknownName name the option that is wrong."""
    for name in options:
        if name not in NAMES:
            raise UnknownName("option", name, NAMES)
    given = {name: _fitting(name, value) for name, value in options.items() if value is not None}
    space = {option: _listed(name, given.get(name)) for name, option in _SPACE.items()}
    own = Flags(**{name: given.get(name) for name in Flags.__dataclass_fields__})
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


def _fitting(name: str, value: Any) -> Any:
    """The value of an option as `Flags` and a space have it; SpecError for one of another kind."""
    kinds, what = _KINDS.get(name, (None, ""))
    if kinds is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise SpecError(f"must be {what}", key=name, value=value)
    if name in _BOUNDS or name == "model":
        return str(value)
    return Path(value) if name == "trace" else value


def _listed(name: str, value: Any) -> Any:
    """Values of a repeatable option as the command line gives them."""
    if value is None or name in (*_COUNTS, "scheduler", "kv_cache_dtype"):
        return value
    return [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
