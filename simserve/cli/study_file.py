"""Which study a command is about, and what was meant by a word that is none."""

from __future__ import annotations

from pathlib import Path

from simserve.asked.flags import whole_command
from simserve.errors import SimserveError, SpecError, UnknownName

UNITS = ("s", "ms")  # of a bound such as --ttft 0.5 s, whose unit comes here as the study


def study_file(given: Path | None) -> Path | None:
    """The study file of an argument, if there is one; SpecError for a unit and for a model."""
    from simserve.spec.study import YAML_SUFFIXES, find_study

    if given is None:
        return None
    name = str(given)
    if not given.exists() and given.suffix not in YAML_SUFFIXES:
        if name in UNITS:
            raise SpecError(f"no study: write a duration as one word, e.g. --ttft 0.5{name}", value=name)
        _refuse_model(name)
    return find_study(given)


def _refuse_model(name: str) -> None:
    """SpecError if the name of a study is that of a model, or of several."""
    from simserve.spec.model import load_model

    try:
        whole = whole_command("search", load_model(name).name)
    except UnknownName as error:
        if not error.choices:
            return
        whole = f"{whole_command('search', error.choices[0])} (or {', '.join(error.choices[1:])})"
    except SimserveError:
        return
    raise SpecError(f"{name!r} is a model, not a study; try: {whole}")
