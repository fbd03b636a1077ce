"""Which stage gives a GPU to which, by hand."""

import pytest

from simserve.policies.switching import switch
from simserve.spec.stages import Stage

E, P, D = Stage


@pytest.mark.parametrize(("queues", "engines", "expected"), [
    ((0, 10, 2), (6, 1, 1), (E, P)),  # the stage with most to spare
    ((0, 10, 2), (1, 1, 4), (D, P)),
    ((0, 10, 2), (1, 1, 1), None),  # each keeps one
    ((5, 10, 5), (6, 1, 1), None),  # all at least half as long
    ((4, 10, 9), (6, 1, 3), (E, P)),
    ((9, 10, 4), (2, 2, 2), (E, P)),  # equals: the first
    ((0, 0, 0), (6, 1, 1), None),
])  # fmt: skip
def test_rule(queues: tuple[int, ...], engines: tuple[int, ...], expected: object) -> None:
    assert switch(dict(zip(Stage, queues, strict=True)), dict(zip(Stage, engines, strict=True))) == expected
