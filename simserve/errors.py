"""Every error a user can meet, as one tree.

    SimserveError
    ├── SpecError        a file, flag or value is wrong: says file, line, key, value, nearest valid name
    │   └── UnknownName  a name that no registry or data folder holds
    ├── Infeasible       the deployment cannot exist: says which byte count or divisor
    ├── OutOfRange       a query outside what a table can answer
    ├── MissingData      a file, table or optional package that is not there
    └── LawBroken        the simulator contradicts itself: law, time, request (a bug of ours)

The command line prints the message as one line and exits with code 2; no user sees a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SimserveError(Exception):
    """Base of all errors that simserve raises on purpose."""

    def __reduce__(self) -> tuple[object, ...]:
        # Errors come back from other processes; their own arguments cannot be read off the finished sentence.
        return _rebuilt, (type(self), self.args), self.__dict__


class SpecError(SimserveError):
    """A study, hardware or model description, or a flag, cannot be read as asked."""

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        value: object | None = None,
        nearest: str | None = None,
    ) -> None:
        self.problem, self.file, self.line = problem, file, line
        self.key, self.value, self.nearest = key, value, nearest
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        where = self.file or ""
        if self.file and self.line is not None:
            where = f"{self.file}:{self.line}"
        parts = [p for p in (where, self.key) if p]
        text = ": ".join([*parts, self.problem])
        if self.value is not None:
            text += f" (got {self.value!r})"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


class UnknownName(SpecError):
    """A name is not registered; carries the nearest one that is, or the several that it may be short for."""

    def __init__(
        self,
        kind: str,
        name: str,
        known: Iterable[str],
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
        choices: Iterable[str] = (),
    ) -> None:
        names = sorted(known)
        self.kind, self.known, self.choices = kind, names, sorted(choices)
        close = None if self.choices else nearest_name(name, names)
        problem = f"unknown {kind} {name!r}"
        if self.choices:
            problem += f"; it may be {' or '.join(self.choices)}"
        elif close is None:
            problem += f"; known: {', '.join(names) or 'none'}"
        super().__init__(problem, file=file, line=line, key=key, nearest=close)


class Infeasible(SimserveError):
    """The deployment cannot exist on this hardware; the message names the byte count or divisor."""


class OutOfRange(SimserveError):
    """A query lies outside what a table may answer."""


class MissingData(SimserveError):
    """A data file, kernel table or optional package is not there; the message says how to get it."""


class LawBroken(SimserveError):
    """The simulation broke one of its own laws: a bug in simserve, never the user's fault."""

    def __init__(self, law: str, detail: str, *, time_ns: int | None = None, request: int | None = None) -> None:
        self.law, self.detail, self.time_ns, self.request = law, detail, time_ns, request
        at = f" at {time_ns} ns" if time_ns is not None else ""
        who = f", request {request}" if request is not None else ""
        super().__init__(f"law broken: {law}{at}{who}: {detail}")


def _rebuilt(kind: type[SimserveError], arguments: tuple[object, ...]) -> SimserveError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name` (case ignored), or None when nothing is close."""
    by_folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), list(by_folded), n=1, cutoff=0.5)
    return by_folded[close[0]] if close else None
