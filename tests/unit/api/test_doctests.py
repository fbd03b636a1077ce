"""The examples in docstrings run and say what is true."""

import doctest
import importlib
from pathlib import Path

import pytest

import simserve

ROOT = Path(simserve.__file__).parent
MODULES = sorted(
    ".".join(("simserve", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py") if ">>>" in path.read_text(encoding="utf-8")
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    """Every example of a module."""
    found = doctest.testmod(importlib.import_module(name))

    assert found.attempted > 0
    assert found.failed == 0


def test_every_public_function_has_an_example() -> None:
    """What a reader of `help(simserve.search)` can type."""
    functions = [getattr(simserve, name) for name in simserve.__all__ if name[0].islower()]

    assert [] == [function.__name__ for function in functions if ">>>" not in (function.__doc__ or "")]
