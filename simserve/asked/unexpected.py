"""Words for errors that no part of simserve raises on purpose."""

from __future__ import annotations

import os
import traceback

DEBUG = "SIMSERVE_DEBUG"
_TOO_MUCH = {
    MemoryError: "out of memory; ask for fewer requests or a smaller space",
    RecursionError: "the input is nested too deeply",
    OverflowError: "a number is too large to compute with",
}


def in_words(error: BaseException) -> tuple[str, bool]:
    """(what happened, whether it is a bug of simserve's own); the traceback on stderr only on demand."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    for kind, problem in _TOO_MUCH.items():
        if isinstance(error, kind):
            return f"{problem} ({_named(error)})", False
    return f"{_named(error)}; please report it (set {DEBUG}=1 for the traceback)", True


def _named(error: BaseException) -> str:
    """'KeyError: 'x'', or the class alone for an error without a message."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")
