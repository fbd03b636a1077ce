"""Integer nanoseconds and integer bytes, and the only places where other units become them.

    >>> parse_duration_ns("30 ms")
    30000000
    >>> format_bytes(80 * GIB)
    '80.0 GiB'
"""

from __future__ import annotations

import re

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
MS_PER_S = 1_000
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GB = 1_000_000_000

_DURATION_NS = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S}
_NUMBER = r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"^\s*({_NUMBER})\s*([A-Za-z]+)\s*$")
DURATION = rf"^\s*{_NUMBER}\s*(?:{'|'.join(_DURATION_NS)})\s*$"  # what parse_duration_ns reads


def seconds_to_ns(seconds: float) -> int:
    """Nearest integer nanosecond."""
    return round(seconds * NS_PER_S)


def ms_to_ns(milliseconds: float) -> int:
    """Nearest integer nanosecond."""
    return round(milliseconds * NS_PER_MS)


def parse_duration_ns(text: str) -> int:
    """'30 ms', '1.5s', '250us' -> integer nanoseconds. ValueError names the known units."""
    match = _QUANTITY.match(text)
    if match is None or match.group(2) not in _DURATION_NS:
        raise ValueError(f"{text!r} is not a duration; write a number and one of {', '.join(_DURATION_NS)}")
    return round(float(match.group(1)) * _DURATION_NS[match.group(2)])


def format_duration(duration_ns: float) -> str:
    """Three significant figures in the unit that reads best."""
    for unit in ("s", "ms", "us"):
        if abs(duration_ns) >= _DURATION_NS[unit]:
            return f"{duration_ns / _DURATION_NS[unit]:.3g} {unit}"
    return f"{duration_ns:.3g} ns"


def format_bytes(size_bytes: float) -> str:
    """One decimal in binary units."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= size:
            return f"{size_bytes / size:.1f} {unit}"
    return f"{size_bytes:.0f} B"
