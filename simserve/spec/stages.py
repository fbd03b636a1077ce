"""Where encode, prefill and decode run, in the notation of EPD-Serve (arXiv 2601.11590) [known].

    E-P-D      a device for each stage           EP-D       one process that encodes and prefills, one device to decode
    (E-P)-D    two processes on one device       (E-PD)     two processes on one device, one of which does two stages
    (E-PD)x2   two such devices                  2E-P-3D    counts in front
    6E1P1D     counts without dashes (EPD)       TP2        one process for all stages over two devices

Letters glued together are one process, whose stages exclude one another; "-" parts devices, within parentheses
processes that share a device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache


class Stage(Enum):
    """A stage of a multimodal request."""

    ENCODE = "E"
    PREFILL = "P"
    DECODE = "D"


Process = frozenset[Stage]


@dataclass(frozen=True)
class Place:
    """`count` equal places, each of `tensor_parallel_size` devices that `processes` share."""

    processes: tuple[Process, ...]
    count: int = 1
    tensor_parallel_size: int = 1

    @property
    def devices(self) -> int:
        """Of all these places."""
        return self.count * self.tensor_parallel_size


@dataclass(frozen=True)
class Placed:
    """A process of a layout: `name` is its letters, with a number from the second of its kind on ("P", "P2"); `place`:
    an index."""

    name: str
    process: Process
    place: int

    @property
    def has_model(self) -> bool:
        """Whether it runs the language model, with KV and a scheduler; else it encodes only."""
        return self.process != {Stage.ENCODE}


def processes_of(places: Sequence[Place]) -> list[Placed]:
    """Every process of a layout, in order."""
    found: list[Placed] = []
    for index, place in enumerate(places):
        for process in place.processes:
            letters = "".join(stage.value for stage in Stage if stage in process)
            same = sum(placed.process == process for placed in found)
            found.append(Placed(f"{letters}{same + 1}" if same else letters, process, index))
    return found


def text_of(places: Sequence[Place]) -> str:
    """A layout that is read as these places; of several places with a width of their own there is none."""
    if places[0].tensor_parallel_size > 1:
        (place,) = places
        return f"TP{place.tensor_parallel_size}x{place.count}"
    if len(places) == 1:
        return f"{_text_of(replace(places[0], count=1))}{f'x{places[0].count}' if places[0].count > 1 else ''}"
    return "-".join(_text_of(place) for place in places)


def one_more(text: str) -> list[tuple[str, str]]:
    """(a place, the layout with one more of it) for each place."""
    places = parse_stages(text)
    grown = [(*places[:i], replace(place, count=place.count + 1), *places[i + 1 :]) for i, place in enumerate(places)]
    if (whole := _WHOLE.fullmatch(text)) is not None:
        return [(f"TP{whole[1]}", f"TP{whole[1]}x{places[0].count + 1}")]
    return [(_text_of(replace(place, count=1)), text_of(more)) for place, more in zip(places, grown, strict=True)]


def _text_of(place: Place) -> str:
    processes = "-".join("".join(s.value for s in Stage if s in process) for process in place.processes)
    shared = f"({processes})" if len(place.processes) > 1 else processes
    return f"{place.count if place.count > 1 else ''}{shared}"


_WHOLE = re.compile(r"TP(\d+)(?:x(\d+))?")
_COUNTED = re.compile(r"(?:[1-9]\d*[EPD]+){2,}")
_GROUP = re.compile(r"(\d*)(?:\(([EPD]+(?:-[EPD]+)+)\)|([EPD]+))(?:x(\d+))?")
_MOST = 4096


@lru_cache(maxsize=4096)
def parse_stages(text: str) -> tuple[Place, ...]:
    """The places of a layout, in order; ValueError with what is wrong."""
    if (whole := _WHOLE.fullmatch(text)) is not None:
        size, count = int(whole[1]), int(whole[2] or 1)
        places: tuple[Place, ...] = (Place((frozenset(Stage),), _count(count, text), _count(size, text)),)
    elif _COUNTED.fullmatch(text):
        parts = re.findall(r"(\d+)([EPD]+)", text)
        places = tuple(Place((_process(letters, text),), _count(int(count), text)) for count, letters in parts)
    else:
        places = tuple(_place(part, text) for part in _split(text))
    missing = [s.value for s in Stage if s is not Stage.ENCODE and not any(s in p for x in places for p in x.processes)]
    if missing:
        raise ValueError(f"nobody does {' and '.join(missing)} in {text!r}")
    if any({Stage.ENCODE, Stage.DECODE} == process for place in places for process in place.processes):
        raise ValueError(f"one process that encodes and decodes but does not prefill is not modelled: {text!r}")
    return places


def _split(text: str) -> list[str]:
    """At the dashes outside parentheses."""
    return re.split(r"-(?![^(]*\))", text)


def _place(part: str, text: str) -> Place:
    found = _GROUP.fullmatch(part)
    if found is None:
        problem = f"{part!r} is no place" if part else "a place is missing"
        raise ValueError(f"{problem} in {text!r}; {_instead(text)}")
    before, shared, alone, after = found.groups()
    if before and after:
        raise ValueError(f"{part!r} has two counts in {text!r}")
    processes = tuple(_process(letters, text) for letters in (shared or alone).split("-"))
    if len(set().union(*processes)) < sum(len(process) for process in processes):
        raise ValueError(f"{part!r} has a stage twice on one device in {text!r}")
    return Place(processes, _count(int(before or after or 1), text))


def _instead(text: str) -> str:
    """The layout that was meant where only its case is wrong, else examples."""
    meant, examples = text.replace(" ", "").upper().replace("X", "x"), "write e.g. E-P-D, (E-P)-D, (E-PD)x2, 6E1P1D"
    try:
        return f"did you mean {meant!r}?" if meant != text and parse_stages(meant) else examples
    except ValueError:
        return examples


def _process(letters: str, text: str) -> Process:
    if len(set(letters)) < len(letters):
        raise ValueError(f"{letters!r} has a stage twice in {text!r}")
    return frozenset(Stage(letter) for letter in letters)


def _count(count: int, text: str) -> int:
    if not 1 <= count <= _MOST:
        raise ValueError(f"counts must be 1 to {_MOST} in {text!r}")
    return count
