"""A trace as a file that https://ui.perfetto.dev opens: Perfetto's protobuf, or Chrome's trace event JSON.

Field numbers are those of Perfetto's `trace_packet.proto`, `track_descriptor.proto`, `track_event.proto`,
`debug_annotation.proto` and `counter_descriptor.proto`, which never change their meaning. Times in ns (JSON: us).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from simserve.report.events import Track, Value, tracks
from simserve.sim.trace import Trace

SLICE_BEGIN, SLICE_END, INSTANT, COUNTER = 1, 2, 3, 4
_SEQUENCE = 1
_NS_PER_US = 1000


def trace_bytes(trace: Trace, path: Path) -> bytes:
    """The content of a trace file: JSON if `path` ends in .json or .json.gz, else protobuf."""
    found = tracks(trace)
    if path.name.endswith((".json", ".json.gz")):
        text = json.dumps({"traceEvents": list(_chrome(found)), "displayTimeUnit": "ms"}).encode()
        return gzip.compress(text, mtime=0) if path.suffix == ".gz" else text
    return b"".join(_packets(found))


def _chrome(found: list[Track]) -> Iterator[dict[str, object]]:
    """Trace events: a process per group, a thread per track."""
    groups = list(dict.fromkeys(track.group for track in found))
    for pid, group in enumerate(groups, 1):
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": group}}
        yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}}
    for tid, track in enumerate(found, 1):
        place = {"pid": groups.index(track.group) + 1, "tid": tid}
        if not track.counter:
            yield {"ph": "M", "name": "thread_name", **place, "args": {"name": track.name}}
        for s in track.slices:
            length: dict[str, object] = {"ph": "X", "dur": (s.end_ns - s.start_ns) / _NS_PER_US}
            if s.end_ns == s.start_ns:
                length = {"ph": "i", "s": "t"}
            yield {"name": s.name, "cat": track.group, "ts": s.start_ns / _NS_PER_US, **length, **place, "args": s.args}
        for at, value in track.counter:
            yield {"ph": "C", "name": track.name, "ts": at / _NS_PER_US, **place, "args": {"value": value}}


def _packets(found: list[Track]) -> Iterator[bytes]:
    """Trace packets: descriptors of groups and tracks, then their events."""
    groups = {group: index for index, group in enumerate(dict.fromkeys(t.group for t in found), 1)}
    for group, uuid in groups.items():
        process = _varint(1, uuid) + _text(6, group)
        yield _packet(_bytes(60, _varint(1, uuid) + _bytes(3, process)))
    for uuid, track in enumerate(found, len(groups) + 1):
        about = _varint(1, uuid) + _text(2, track.name) + _varint(5, groups[track.group])
        yield _packet(_bytes(60, about + (_bytes(8, b"") if track.counter else b"")))
        for s in track.slices:
            begin = SLICE_BEGIN if s.end_ns > s.start_ns else INSTANT
            notes = b"".join(_bytes(4, _text(10, name) + _value(value)) for name, value in s.args.items())
            yield _event(s.start_ns, begin, uuid, _text(23, s.name) + notes)
            if s.end_ns > s.start_ns:
                yield _event(s.end_ns, SLICE_END, uuid)
        for at, value in track.counter:
            yield _event(at, COUNTER, uuid, _varint(30, value))


def _event(time_ns: int, kind: int, track: int, rest: bytes = b"") -> bytes:
    return _packet(_varint(8, time_ns) + _bytes(11, _varint(9, kind) + _varint(11, track) + rest))


def _packet(content: bytes) -> bytes:
    return _bytes(1, _varint(10, _SEQUENCE) + content)


def _value(value: Value) -> bytes:
    """The value of a debug annotation; its floats are written with six digits, as text would be read."""
    if isinstance(value, int):
        return _varint(4, value)
    return _text(6, value if isinstance(value, str) else f"{value:.6g}")


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _varint(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(value & (1 << 64) - 1)


def _number(value: int) -> bytes:
    """Base 128, the lowest seven bits first."""
    if value < 0x80:
        return bytes((value,))
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
