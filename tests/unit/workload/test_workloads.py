"""Arrivals, lengths and traces: laws of the distributions, and errors that name file and row."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from simserve.errors import MissingData, SimserveError, SpecError
from simserve.sim.rng import stream
from simserve.spec.lengths import LengthSpec
from simserve.spec.workload import ArrivalSpec, WorkloadSpec
from simserve.workload.arrivals import arrival_times_ns
from simserve.workload.azure import read_azure
from simserve.workload.build import build_workload
from simserve.workload.lengths import lengths
from simserve.workload.requests import RequestSet

COUNT = 40_000
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def gaps_s(spec: ArrivalSpec) -> np.ndarray:
    """Gaps between arrivals in seconds."""
    return np.diff(arrival_times_ns(spec, COUNT, stream(1, "arrivals"))) / 1e9


@pytest.mark.parametrize(
    ("spec", "cv"),
    [(ArrivalSpec(kind="poisson", rate_rps=4), 1.0), (ArrivalSpec(kind="gamma", rate_rps=4, cv=3), 3.0),
     (ArrivalSpec(kind="gamma", rate_rps=4, cv=0.5), 0.5), (ArrivalSpec(kind="constant", rate_rps=4), 0.0)],
)  # fmt: skip
def test_arrivals_have_their_rate_and_burstiness(spec: ArrivalSpec, cv: float) -> None:
    """Mean gap 0.25 s and the coefficient of variation asked for, within sampling error."""
    gaps = gaps_s(spec)

    assert gaps.mean() == pytest.approx(0.25, rel=4 * max(cv, 1e-6) / np.sqrt(COUNT))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.08, abs=1e-6)


def test_lognormal_has_its_mean_and_std_before_clipping() -> None:
    """Mean and std are those of the lengths, not of their logarithm; clipping keeps the bounds."""
    drawn = lengths(LengthSpec(kind="lognormal", mean=1000, std=900), 200_000, stream(1, "l"), None)
    narrow = LengthSpec(kind="lognormal", mean=1000, std=900, min=200, max=2000)
    clipped = lengths(narrow, 9999, stream(1, "l"), None)

    assert (drawn.mean(), drawn.std()) == pytest.approx((1000, 900), rel=0.03)
    assert (200, 2000) == (clipped.min(), clipped.max())


def test_other_lengths() -> None:
    """Fixed is fixed, uniform covers both ends, empirical draws its values only."""
    rng = stream(2, "l")

    assert {7} == set(lengths(LengthSpec(kind="fixed", value=7), 50, rng, None))
    assert {3, 4, 5} == set(lengths(LengthSpec(kind="uniform", low=3, high=5), 200, rng, None))
    assert {18, 19, 20, 21, 22} == set(lengths(LengthSpec(kind="uniform", value=20, spread=0.14), 200, rng, None))
    with pytest.raises(ValueError, match="uniform needs value"):
        LengthSpec(kind="uniform", low=3, high=5, spread=0.1)
    assert {2, 9} == set(lengths(LengthSpec(kind="empirical", values=(2, 9)), 200, rng, None))


def test_empirical_lengths_from_a_file(tmp_path: Path) -> None:
    """A column of a CSV; a bad entry is named with its row."""
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("n\n5\n6\n")
    bad.write_text("n\n5\n0\n")

    spec = LengthSpec(kind="empirical", path="good.csv", column="n")

    assert {5, 6} == set(lengths(spec, 99, stream(0, "l"), tmp_path))
    with pytest.raises(SpecError, match=r"bad.csv, row 3: n: a length below 1 token \(got 0\)"):
        lengths(LengthSpec(kind="empirical", path=str(bad), column="n"), 9, stream(0, "l"), None)


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [("n.json", "[5, 6]", None), ("n.json.gz", '[{"in": 1, "out": 5}, {"in": 1, "out": 6}]', "out")],
)
def test_empirical_lengths_from_json(tmp_path: Path, name: str, text: str, column: str | None) -> None:
    """A list of numbers, or of objects with the key that is asked for; gzip or not."""
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    spec = LengthSpec(kind="empirical", path=name, column=column)

    assert {5, 6} == set(lengths(spec, 99, stream(0, "l"), tmp_path))


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [("[]", None, "the file has no rows"), ("{}", None, "must be a list of lengths"), ("[1", None, "not a JSON file"),
     ("[5, 0]", None, r"row 2: not a whole number from 1 to 1073741824 \(got 0\)"), ("[5, true]", None, "row 2: not a"),
     ('[{"out": 5}]', None, "row 1: an object, not a number; say which key as `column`: out"),
     ('[{"out": 5}]', "outt", "row 1: outt: the key is missing; the row has out; did you mean 'out'?"),
     ("[5]", "out", "row 1: out: not an object")],
)  # fmt: skip
def test_broken_json_lengths_name_file_and_row(tmp_path: Path, text: str, column: str | None, message: str) -> None:
    """One clear line."""
    path = tmp_path / "n.json"
    path.write_text(text)

    with pytest.raises(SpecError, match=f"n.json.*{message}"):
        lengths(LengthSpec(kind="empirical", path=str(path), column=column), 9, stream(0, "l"), None)


@pytest.mark.parametrize("kind", ["poisson", "constant", "gamma"])
@pytest.mark.parametrize("rate", [5e-324, 1e-9])
def test_times_beyond_the_clock_are_refused(kind: str, rate: float) -> None:
    """int64 nanoseconds end after 292 years; a wrapped time would be negative."""
    spec = ArrivalSpec.model_validate({"kind": kind, "rate_rps": rate, "cv": 1.0 if kind == "gamma" else None})

    with pytest.raises(SpecError, match="rate_rps: so low that the last request would come after more than 146 years"):
        arrival_times_ns(spec, 20, stream(1, "arrivals"))


@pytest.mark.parametrize("scale", [5e-324, 1e-15])
def test_a_trace_slowed_beyond_the_clock_is_refused(tmp_path: Path, scale: float) -> None:
    """The same for the gaps of a trace."""
    path = tmp_path / "trace.csv"
    path.write_text(f"{HEADER}2023-01-01,1,1\n2023-01-02,1,1\n")

    with pytest.raises(SpecError, match="rate_scale: so low"):
        read_azure(path, rate_scale=scale)


def test_azure_trace_is_read_scaled_and_limited(tmp_path: Path) -> None:
    """Nanoseconds since the first request, divided by the rate scale; gzip or not."""
    day = "2023-11-16 18:00"
    text = f"{HEADER}{day}:00.0000000,10,2\n{day}:03.5000001,20,3\n{day}:03.6,5,1\n"
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))

    trace = read_azure(path, rate_scale=2, limit=2)

    assert [0, 1_750_000_050] == trace.arrival_ns.tolist()
    assert ([10, 20], [2, 3]) == (trace.prompt_tokens.tolist(), trace.output_tokens.tolist())


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no rows"), (HEADER, "has no rows"),
     (HEADER.replace("Context", "Contxt") + "2023-01-01,1,1\n", "ContextTokens: the column is missing"),
     (HEADER + "2023-01-01,1,1\n2023-01-01,-4,1\n", r"row 3: ContextTokens: every .* \(got -4\)"),
     (HEADER + "2023-01-01,1,1\n2023-01-01,many,1\n", r"row 3: ContextTokens: not a whole number \(got 'many'\)"),
     (HEADER + "2023-01-01,1,1\n2023-01-01,1.5,1\n", "row 3: ContextTokens: not a whole number"),
     (HEADER + "2023-01-01,1e30,1\n", r"row 2: ContextTokens: larger than 1073741824 \(got '1e30'\)"),
     (HEADER + "2023-01-01,inf,1\n", "row 2: ContextTokens: larger than"),
     (HEADER + "2023-01-01 00:00:00,1,1\n2023-01-01 00:00:00+00:00,1,1\n", "TIMESTAMP: times with and without"),
     (HEADER + "noon,1,1\n", r"row 2: TIMESTAMP: not a time \(got 'noon'\)"),
     (HEADER + "2023-01-02,1,1\n2023-01-01,1,1\n", "row 3: TIMESTAMP: times go backwards")],
)  # fmt: skip
def test_a_broken_trace_names_file_and_row(tmp_path: Path, text: str, message: str) -> None:
    """One clear line."""
    path = tmp_path / "trace.csv"
    path.write_text(text)

    with pytest.raises(SpecError, match=f"trace.csv.*{message}") as caught:
        read_azure(path)
    assert "\n" not in str(caught.value)


def drawn(seed: int) -> RequestSet:
    """A small drawn workload."""
    spec = WorkloadSpec.model_validate({
        "arrivals": {"kind": "poisson", "rate_rps": 3}, "requests": 50,
        "prompt_tokens": {"kind": "uniform", "low": 1, "high": 99},
        "output_tokens": {"kind": "uniform", "low": 1, "high": 9},
    })  # fmt: skip
    return build_workload(spec, seed=seed)


def test_the_same_seed_gives_the_same_requests() -> None:
    """And another seed gives others."""
    first, again, other = drawn(3), drawn(3), drawn(4)

    assert first.prompt_tokens.tolist() == again.prompt_tokens.tolist() != other.prompt_tokens.tolist()
    assert first.arrival_ns.tolist() == again.arrival_ns.tolist() != other.arrival_ns.tolist()


def test_a_missing_trace_says_where_it_looked(tmp_path: Path) -> None:
    """The study's folder first, then the current one."""
    spec = WorkloadSpec.model_validate({"trace": {"path": "none.csv"}})

    with pytest.raises(MissingData, match=f"none.csv: no such file .looked in {tmp_path}"):
        build_workload(spec, seed=0, base_dir=tmp_path)


def test_request_sets_refuse_what_cannot_be() -> None:
    """Unequal columns, no request, times that decrease, a request without tokens."""
    one = np.ones(2, dtype=np.int64)
    for columns in (
        (one, one, one, one[:1]), (one[:0], one[:0], one[:0], one[:0]),
        (np.array([2, 1]), one, one, one), (one, np.array([1, 0]), one, one),
    ):  # fmt: skip
        with pytest.raises(SimserveError):
            RequestSet(*columns, concurrency=None, provenance={})


def test_head_and_rate() -> None:
    """The first requests, and requests per second over the span of arrivals."""
    one = np.ones(3, dtype=np.int64)
    requests = RequestSet(np.array([0, 10**9, 4 * 10**9]), one, one, one, None, {})

    assert (2, 0.5, 1.0) == (len(requests.head(2)), requests.offered_rate_rps, requests.head(2).offered_rate_rps)
