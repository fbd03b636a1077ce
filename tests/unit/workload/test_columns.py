"""Columns of CSV traces by other names, and times in other units."""

from pathlib import Path

import pytest

from simserve.errors import SpecError
from simserve.workload.azure import read_azure
from simserve.workload.columns import NAMES, SHOWN, TraceColumns, trace_columns
from simserve.workload.requests import RequestSet

S = 1_000_000_000


def read(tmp_path: Path, text: str) -> RequestSet:
    """A trace of this text."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    return read_azure(path)


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", ("TIMESTAMP", "time", "ContextTokens", "GeneratedTokens")),
        ("arrival,input_tokens,output_tokens", ("arrival", "time", "input_tokens", "output_tokens")),
        ("arrived_at,num_prefill_tokens,num_decode_tokens",
         ("arrived_at", "time", "num_prefill_tokens", "num_decode_tokens")),
        ("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
         ("Timestamp", "time", "Request tokens", "Response tokens")),
        ("id,Arrival Time (ms),prompt_tokens,completion_tokens",
         ("Arrival Time (ms)", "ms", "prompt_tokens", "completion_tokens")),
        ("arrival_s,isl,osl", ("arrival_s", "s", "isl", "osl")),
        ("timestamp_seconds,isl,osl", ("timestamp_seconds", "s", "isl", "osl")),
        ("time_ns,isl,osl", ("time_ns", "ns", "isl", "osl")),
    ],
)  # fmt: skip
def test_columns_are_recognised(header: str, names: tuple[str, ...], tmp_path: Path) -> None:
    """Whatever else the file has, and in whatever order."""
    path = tmp_path / "t.csv"
    path.write_text(header + "\n")

    assert trace_columns(path) == TraceColumns(*names)


@pytest.mark.parametrize(
    ("column", "first", "second", "expected"),
    [
        ("arrival", "0.25", "1.75", 3 * S // 2),
        ("arrival", "1700000000.5", "1700000002.0", 3 * S // 2),
        ("arrival_ms", "1700000000000", "1700000001500", 3 * S // 2),
        ("arrival_us", "0", "1500000", 3 * S // 2),
        ("arrival_ns", "7", "1500000007", 3 * S // 2),
        ("arrival", "2024-01-01T00:00:00Z", "2024-01-01T00:00:01.5Z", 3 * S // 2),
        ("TIMESTAMP", "2023", "2024", 365 * 86_400 * S),
    ],
)
def test_units_of_time(column: str, first: str, second: str, expected: int, tmp_path: Path) -> None:
    """Seconds if nothing else is said; what looks like a date is one."""
    found = read(tmp_path, f"{column},isl,osl\n{first},10,1\n{second},20,2\n")

    assert found.arrival_ns.tolist() == [0, expected]
    assert found.prompt_tokens.tolist() == [10, 20]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("when,isl,osl\n1,1,1\n", "TIMESTAMP: the column is missing; the file has when, isl, osl; it may also be"),
        ("time,isl,input_tokens,osl\n1,1,1,1\n", "columns isl and input_tokens may both be it; call one of them"),
        ("time,isl,osl\n1700000000000,1,1\n", "too large for seconds; say the unit in the column's name: time_ms"),
        ("time,isl,osl\n1,1,1\nnoon,1,1\n", r"row 3: time: not a number \(got 'noon'\)"),
        ("time,isl,osl\n2,1,1\n1,1,1\n", "row 3: time: times go backwards"),
        ("time_ms,isl,osl\n,1,1\n", "row 2: time_ms: not a number"),
        ("time,isl,osl\n1,0,1\n", "row 2: isl: every request needs at least 1 token"),
    ],
)
def test_what_is_wrong_names_the_file_s_own_column(text: str, message: str, tmp_path: Path) -> None:
    """One line."""
    with pytest.raises(SpecError, match=message):
        read(tmp_path, text)


def test_messages_show_names_that_are_understood(tmp_path: Path) -> None:
    """And no name means two columns."""
    for wanted, shown in SHOWN.items():
        others = {"TIMESTAMP": "time", "ContextTokens": "isl", "GeneratedTokens": "osl"}
        for name in shown.split(", "):
            path = tmp_path / "t.csv"
            path.write_text(",".join({**others, wanted: name}.values()) + "\n")
            assert name in trace_columns(path).names
    everything = [name for names in NAMES.values() for name in names]
    assert len(everything) == len(set(everything))


def test_only_the_public_trace_has_its_licence(tmp_path: Path) -> None:
    """Another file is not Azure's."""
    azure = read(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-01-01,1,1\n").provenance
    own = read(tmp_path, "time,isl,osl\n1,1,1\n").provenance

    assert ("licence" in azure, azure["format"]) == (True, "azure")
    assert ("licence" in own, own["format"], own["columns"]) == (False, "csv", ["time", "isl", "osl"])
