"""The layouts of stages that so many GPUs can form, in the notation of `simserve.spec.stages`.

Of one kind of process (TPk x n); E, P and D apart, or two of them as one process, in all counts; with an encoder beside
another process on its GPU: (E-PD), (E-P)-D, (E-D)-P. The language model twice on one GPU, (P-D), would need shares of
its memory, which a layout does not say. Where nobody brings images no process encodes only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

from simserve.errors import SpecError
from simserve.spec.stages import Place, Stage, text_of

MOST = 100_000
_E, _P, _D = Stage
_WHOLE = re.compile(r"TP(\d+)(?:x\d+)?")
_Kind = tuple[frozenset[Stage], ...]  # processes of a place


def own_width(text: str) -> int | None:
    """Of a layout such as TP2x4 what it says itself: GPUs of a process; None for others."""
    found = _WHOLE.fullmatch(text)
    return None if found is None else int(found[1])


def every_layout(max_gpus: int, widths: Sequence[int], *, encodes: bool) -> list[str]:
    """Layouts of at most max_gpus GPUs with one of `widths` for processes with the language model, the fewest GPUs
    first; SpecError where there are more than MOST. encodes: there are images or sounds."""
    found: dict[str, int] = {}
    for width in widths:
        for count in range(1, max_gpus // width + 1):
            found[f"TP{width}x{count}"] = width * count
        for kinds in _kinds() if encodes else [_apart("P", "D")]:
            sizes = [1 if kind == (frozenset({_E}),) else width for kind in kinds]
            for counts in _counts(sizes, max_gpus):
                text = text_of([Place(kind, count) for kind, count in zip(kinds, counts, strict=True)])
                used = sum(size * count for size, count in zip(sizes, counts, strict=True))
                found[text] = min(used, found.get(text, used))
                if len(found) > MOST:
                    raise too_many(max_gpus)
    return sorted(found, key=lambda text: (found[text], text))


def too_many(max_gpus: int | None) -> SpecError:
    """The error of a space that is too large to be screened whole."""
    return SpecError(f"the space has more than {MOST:,} layouts with their settings; list fewer, or lower max_gpus",
                     key="search.space.stages", value=f"max_gpus {max_gpus}")  # fmt: skip


def _kinds() -> list[tuple[_Kind, ...]]:
    encode, model = frozenset({_E}), frozenset({_P, _D})
    beside = [((encode, model),), ((encode, frozenset({_P})), (frozenset({_D}),)),
              ((encode, frozenset({_D})), (frozenset({_P}),))]  # fmt: skip
    return [_apart("E", "P", "D"), _apart("EP", "D"), _apart("E", "PD"), *beside]


def _apart(*processes: str) -> tuple[_Kind, ...]:
    return tuple((frozenset(Stage(letter) for letter in letters),) for letters in processes)


def _counts(sizes: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Counts of at least 1 of each size that are at most so many GPUs together."""
    first, rest = [range(1, most // size + 1) for size in sizes[:-1]], sizes[-1]
    for counts in product(*first):
        left = most - sum(size * count for size, count in zip(sizes, counts, strict=False))
        for last in range(1, left // rest + 1):
            yield (*counts, last)
