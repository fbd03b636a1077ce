"""Trace files for viewers and the picture: every step, request and span is there, in the right place."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simserve.cli.main import main
from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.report.events import Track, kind, phases, tracks
from simserve.report.perfetto import trace_bytes
from simserve.report.timeline import timeline_bytes
from simserve.sim.pools import DisaggregatedCluster
from simserve.sim.trace import Trace
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost

COST = ToyCost(base_ns=100, per_token_ns=10)


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Two requests of 20 and one that is too long: prefill on 0, hand-over on a shared link, decode on 1."""
    cluster = DisaggregatedCluster(RoundRobin(), LeastLoaded(), kv_bytes_per_token=10)
    prefill, decode = (cluster.add(Vllm(), COST, num_gpu_blocks=101, block_size=16) for _ in range(2))
    cluster.prefills(prefill, cluster.link("kv link", bandwidth_bytes_per_s=10**9, latency_ns=5))
    cluster.decodes(decode)
    return cluster.play(load([(0, 20, 3), (0, 20, 3), (7, 5000, 2)]))


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, integer or bytes) of one protobuf message, by the published wire format."""

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                return value, at

    at = 0
    while at < len(data):
        key, at = number(at)
        value, at = number(at)
        if key & 7 == 2:
            yield key >> 3, data[at : at + value]
            at += value
        else:
            assert key & 7 == 0
            yield key >> 3, value


def decoded(data: bytes) -> tuple[dict[int, str], list[tuple[int, int, int, str | int | None]]]:
    """({track uuid: name}, [(ns, type, track uuid, name or counter value)])."""
    names, events = {}, []
    for number, packet in fields(data):
        assert number == 1
        parts = dict(fields(packet))
        if 60 in parts:
            about = dict(fields(parts[60]))
            names[about[1]] = (about[2] if 2 in about else dict(fields(about[3]))[6]).decode()
        else:
            event = dict(fields(parts[11]))
            label = event[23].decode() if 23 in event else event.get(30)
            events.append((parts[8], event[9], event[11], label))
    return names, events


def lane(found: list[Track], name: str) -> list[tuple[str, int, int]]:
    """(name, start, end) of a track's slices."""
    (track,) = [t for t in found if t.name == name and not t.counter]
    return [(s.name, s.start_ns, s.end_ns) for s in track.slices]


def test_lanes_by_hand(trace: Trace) -> None:
    """Prefill of 40 tokens to 500; two transfers of 200 bytes share the link to 905; two decode steps of 120."""
    found = tracks(trace)

    assert [("prefill 40", 0, 500)] == lane(found, "instance 0")
    # the first token of a hand-over is no regular one, so the two steps are two rows
    assert [("decode 2", 905, 1025), ("decode 2", 1025, 1145)] == lane(found, "instance 1")
    assert [("request 0", 500, 905)] == lane(found, "kv link")
    assert [("request 1", 500, 905)] == lane(found, "kv link #2")
    assert [("prefill", 0, 500), ("KV transfer", 500, 905), ("decode", 905, 1145)] == lane(found, "request 0")
    assert [("rejected", 7, 7)] == lane(found, "request 2")


def test_counters_start_with_each_step(trace: Trace) -> None:
    """Running, waiting and used blocks of each instance."""
    found = {t.name: t.counter for t in tracks(trace) if t.counter}

    assert [(0, 2)] == found["instance 0 running"]
    assert [(905, 2), (1025, 2)] == found["instance 1 running"]
    assert [(905, 4), (1025, 4)] == found["instance 1 used blocks"]


def test_protobuf_holds_all_of_it(trace: Trace, tmp_path: Path) -> None:
    """Decoded by the wire format: the same tracks, begins, ends, instants and counter values."""
    names, events = decoded(trace_bytes(trace, tmp_path / "run.perfetto-trace"))
    found = tracks(trace)

    assert [t.name for t in found] == [names[uuid] for uuid in sorted(names)][3:]
    assert {"instances", "resources", "requests"} == {names[uuid] for uuid in sorted(names)[:3]}
    by_track = {uuid: [e for e in events if e[2] == uuid] for uuid in names}
    for uuid, track in zip(sorted(names)[3:], found, strict=True):
        begun = [(at, label) for at, kind_, _, label in by_track[uuid] if kind_ in (1, 3)]
        ended = [at for at, kind_, _, _ in by_track[uuid] if kind_ == 2]
        assert [(s.start_ns, s.name) for s in track.slices] == begun
        assert [s.end_ns for s in track.slices if s.end_ns > s.start_ns] == ended
        assert track.counter == [(at, label or 0) for at, kind_, _, label in by_track[uuid] if kind_ == 4]


@pytest.mark.parametrize("name", ["run.json", "run.json.gz"])
def test_json_holds_all_of_it(trace: Trace, tmp_path: Path, name: str) -> None:
    """Complete events in microseconds, one per slice; counters; names of processes and threads."""
    data = trace_bytes(trace, tmp_path / name)
    events = json.loads(gzip.decompress(data) if name.endswith("gz") else data)["traceEvents"]
    slices = [s for t in tracks(trace) for s in t.slices]

    assert [(s.name, s.start_ns / 1000) for s in slices] == [(e["name"], e["ts"]) for e in events if e["ph"] in "Xi"]
    assert sum(s.end_ns - s.start_ns for s in slices) == round(1000 * sum(e["dur"] for e in events if e["ph"] == "X"))
    assert sum(len(t.counter) for t in tracks(trace)) == sum(e["ph"] == "C" for e in events)
    assert {"instances", "resources", "requests"} == {
        e["args"]["name"] for e in events if e["name"] == "process_name"
    }


def test_kinds_of_steps() -> None:
    """By tokens, regular decode tokens and running requests."""
    rows = ((5, 5, 5), (5, 3, 5), (40, 0, 2), (40, 1, 2))
    assert ["decode", "decode", "prefill", "mixed"] == [kind(*row) for row in rows]


def test_a_run_that_was_cut_shows_what_was_reached(trace: Trace) -> None:
    """Unfinished: the last phase goes on to the end of the run."""
    row = {name: int(column[0]) for name, column in trace.requests.items()}
    cut = {**row, "finish_ns": -1, "outcome": 2, "prefill_instance": -1, "kv_arrived_ns": -1}

    assert [("prefill", 0, 500), ("decode", 500, 9000)] == [(s.name, s.start_ns, s.end_ns) for s in phases(cut, 9000)]


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_picture_is_drawn(trace: Trace, tmp_path: Path, suffix: str, begins: bytes) -> None:
    """In each format; the SVG holds the lanes' names."""
    data = timeline_bytes(trace, tmp_path / f"run.{suffix}", "a title")

    assert data.startswith(begins)
    if suffix == "svg":
        assert all(name in data for name in (b"instance 1", b"kv link", b"a title", b"KV transfer"))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both files are written beside the tables."""
    out, picture = tmp_path / "run.perfetto-trace", tmp_path / "run.png"
    command = ["simulate", "quickstart", "--requests", "30", "--trace-out", str(out), "--timeline", str(picture)]
    assert 0 == main(command)
    names, events = decoded(out.read_bytes())

    assert 30 == sum(name.startswith("request ") for name in names.values())
    assert 30 <= sum(kind_ == 1 and str(label).startswith("decode") for _, kind_, _, label in events)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [("--timeline", "run.jpg", "its name must end in one of .png, .svg, .pdf"),
     ("--timeline", "nowhere/run.png", "cannot write"), ("--trace-out", "nowhere/run.json", "cannot write")],
)  # fmt: skip
def test_a_bad_target_is_refused_before_the_run(
    option: str, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    assert 2 == main(["simulate", "quickstart", "--requests", "30", option, str(tmp_path / name)])
    shown = capsys.readouterr()

    assert message in shown.err
    assert 1 == len(shown.err.splitlines())
    assert "" == shown.out
