"""Which study a command is about: a path, or the name of one that comes with simserve; and what else was meant."""

from __future__ import annotations

import difflib
from pathlib import Path

from simserve.cli import options as opt
from simserve.cli.complete import STUDY_FOLDERS
from simserve.errors import SimserveError, SpecError, UnknownName
from simserve.paths import data_files

PAPERS, _ = STUDY_FOLDERS
UNITS = ("s", "ms")  # of a bound such as --ttft 0.5 s, whose unit comes here as the study
SUFFIXES = (".yaml", ".yml")


def study_file(given: Path | None) -> Path | None:
    """A bare name ('quickstart') is a study that comes with simserve; everything else is a path.

    SpecError for a file that is not there, UnknownName for a name; both say what was probably meant.
    """
    if given is None or given.exists():
        return given
    shipped = {path.stem: path for path in reversed(list(data_files("studies")))}
    studies = {name: path for name, path in shipped.items() if path.parent.name not in STUDY_FOLDERS}
    name = str(given)
    if name in UNITS:
        raise SpecError(f"no study: write a duration as one word, e.g. --ttft 0.5{name}", value=name)
    if given.suffix not in SUFFIXES:
        _refuse_model(name)
    if given.suffix or len(given.parts) != 1:
        raise SpecError("no such file", file=name, nearest=_nearest_file(given, studies))
    if name in studies:
        return studies[name]
    if name in shipped:
        command = "reproduce" if shipped[name].parent.name == PAPERS else "validate --records"
        raise SpecError(f"{name!r} is no study of this kind; `simserve {command} {name}` plays it")
    raise UnknownName("study", name, studies)


def _nearest_file(given: Path, shipped: dict[str, Path]) -> str | None:
    """A YAML file beside the one that is missing, else a study that comes with simserve."""
    folder = given.parent
    here = [path.name for path in folder.iterdir() if path.suffix in SUFFIXES] if folder.is_dir() else []
    if close := difflib.get_close_matches(given.name, here, n=1, cutoff=0.7):
        return str(folder / close[0])
    close = difflib.get_close_matches(given.stem, shipped, n=1, cutoff=0.7)
    return close[0] if close else None


def _refuse_model(name: str) -> None:
    """SpecError if the name of a study is that of a model, or of several."""
    from simserve.spec.model import load_model

    try:
        whole = opt.whole_command("search", load_model(name).name)
    except UnknownName as error:
        if not error.choices:
            return
        whole = f"{opt.whole_command('search', error.choices[0])} (or {', '.join(error.choices[1:])})"
    except SimserveError:
        return
    raise SpecError(f"{name!r} is a model, not a study; try: {whole}")
