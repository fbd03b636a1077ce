"""A user's own kernel tables: what is read, and what is refused in one line that names the row."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simserve.errors import SimserveError, SpecError
from simserve.perf import own_tables, store
from simserve.perf.query import query

HEADER = "dtype,n,k,m,latency_ns"
ROWS = ["bf16,4096,4096,1,14200", "bf16,4096,4096,16,14300", "bf16,4096,4096,4096,228000"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of H100 tables."""
    folder = tmp_path / "perfdb" / "h100_sxm"
    folder.mkdir(parents=True)
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    return folder


def write(own: Path, *rows: str, header: str = HEADER, family: str = "gemm") -> Path:
    """A CSV table."""
    path = own / f"{family}.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_a_csv_table_is_read_and_priced(own: Path) -> None:
    """Columns in any order, a kernel column, blank lines; the price is the row; it hides the shipped table."""
    rows = ["14200,cublas,bf16,4096,4096,1", "", "14300.0,cublas,bf16,4096,4096,16", "228000,x,bf16,4096,4096,4096"]
    write(own, *rows, header="latency_ns, kernel,dtype,n,k,m")
    assert store.read_table("h100_sxm", "gemm")["m"].tolist() == [1, 16, 4096]
    assert store.read_table("h100_sxm", "gemm", {"m": 16})["latency_ns"].tolist() == [14300]
    assert query("h100_sxm", "gemm", {"n": 4096, "k": 4096, "m": 16}).ns == pytest.approx(14300)
    listed = next(t for t in store.list_tables() if (t.device, t.family) == ("h100_sxm", "gemm"))
    assert (listed.rows, listed.path.suffix, listed.provenance) == (3, ".csv", {})


def test_a_changed_file_is_read_again(own: Path) -> None:
    """The check is done once per version of the file."""
    write(own, *ROWS)
    assert store.read_table("h100_sxm", "gemm")["latency_ns"].tolist() == [14200, 14300, 228000]
    write(own, *ROWS[:2])
    assert store.read_table("h100_sxm", "gemm")["latency_ns"].tolist() == [14200, 14300]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["bf16,4096,4096,1,14200", "bf16,4096,4096,1,14900"], r":3: has the same keys as row 2 \(dtype=bf16, n=4096"),
        (["bf16,4096,4096,1,-14200"], r":2: latency_ns: must be at least 1 \(got -14200\)"),
        (["bf16,4096,-4096,1,14200"], r":2: k: must be at least 1 \(got -4096\)"),
        ([*ROWS, "bf16,0,4096,1,14200"], r":5: n: must be at least 1 \(got 0\)"),
        (["bf16,4096,4096,1,14.2"], r":2: latency_ns: must be a whole number of nanoseconds \(got '14.2'\)"),
        (["bf16,4096,4096,one,14200"], r":2: m: must be a whole number \(got 'one'\)"),
        (["bf16,4096,4096,1,inf"], r":2: latency_ns: must be a whole number of nanoseconds \(got 'inf'\)"),
        ([",4096,4096,1,14200"], r":2: dtype: must be a word"),
        ([ROWS[0], "bf16,4096,4096,16"], r":3: needs 5 values, one per column \(got 4\)"),
        (["bf16,4096,4096,4096,228"], r":2: latency_ns: faster than h100_sxm can be at these keys, 138\d\d\d ns"),
        ([ROWS[0], "bf16,64,64,1,140"], r":3: latency_ns: faster than h100_sxm can be at these keys, 300 ns"),
        ([ROWS[0], "bf16,4096,4096,16,14"], r":3: latency_ns: faster than h100_sxm can be at these keys, 543 ns"),
        (["bf16,4096,4096,4096,228000000"], r":2: latency_ns: rows take \d+ times what h100_sxm needs at best"),
        (["int3,4096,4096,1,14200"], r"gemm.csv: dtype: h100_sxm does not compute in int3"),
        ([], r"gemm.csv: holds no rows"),
    ],
)
def test_wrong_rows_are_refused_by_line(own: Path, rows: list[str], message: str) -> None:
    """Repeats, negatives, fractions, words, missing values, and latencies in other units."""
    path = write(own, *rows)
    with pytest.raises(SpecError, match=message) as caught:
        store.read_table("h100_sxm", "gemm")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("dtype,n,k,tokens,latency_ns", "gemm.csv: m: this column is missing"),
        ("dtype,n,k,m,latency_us", "gemm.csv: latency_ns: this column is missing; did you mean 'latency_us'?"),
        ("dtype,n,k,m,latency_ns,gpu", "gemm.csv: gpu: unknown column; the columns are dtype, n, k, m, latency_ns"),
        ("dtype,n,k,m,latency_ns,m", "gemm.csv: m: this column stands here twice"),
        ("", "gemm.csv: dtype: this column is missing"),
    ],
)
def test_wrong_headers_are_refused(own: Path, header: str, message: str) -> None:
    """A missing column by its name, with the nearest of the others."""
    write(own, *ROWS, header=header)
    with pytest.raises(SpecError) as caught:
        store.read_table("h100_sxm", "gemm")
    assert message in str(caught.value)


def test_parquet_is_checked_too(own: Path) -> None:
    """Rows count from 1; a float column of whole numbers passes, a missing value does not; no parquet is said so."""
    table = {"dtype": ["bf16", "bf16"], "n": [4096.0, 4096.0], "k": [4096, 4096], "m": [1, 2], "latency_ns": [14200, 9]}
    path = own / "gemm.parquet"
    pq.write_table(pa.table(table), path)
    with pytest.raises(SpecError, match=r"gemm\.parquet:2: latency_ns: faster than h100_sxm can be"):
        store.read_table("h100_sxm", "gemm")
    pq.write_table(pa.table({**table, "latency_ns": [14200, None]}), path)
    with pytest.raises(SpecError, match=r"gemm\.parquet:2: latency_ns: must be a whole number"):
        store.read_table("h100_sxm", "gemm")
    pq.write_table(pa.table({**table, "latency_ns": [14200, 14300]}), path)
    assert store.read_table("h100_sxm", "gemm")["n"].tolist() == [4096, 4096]
    path.write_text("not parquet at all, only text")
    with pytest.raises(SpecError, match="is no parquet file"):
        own_tables.load(path, "h100_sxm", "gemm")


def test_windows_and_pasts_may_be_zero_and_unknown_devices_have_no_physics(own: Path) -> None:
    """`past` and `window` 0; a device without a description is checked for form alone."""
    header = "kv_dtype,head_dim,heads,kv_heads,window,past,batch,tokens,latency_ns"
    write(own, "bf16,128,32,8,0,0,1,1024,60000", header=header, family="prefill_attention")
    assert store.read_table("h100_sxm", "prefill_attention")["past"].tolist() == [0]
    other = own.parent / "my_chip"
    other.mkdir()
    write(other, "bf16,4096,4096,1,5")
    assert store.read_table("my_chip", "gemm")["latency_ns"].tolist() == [5]
    assert "my_chip" in store.devices()


@pytest.mark.parametrize("family", ["gemm", "moe", "mla_decode", "collective"])
def test_shipped_tables_pass_the_checks_of_own_ones(family: str) -> None:
    """No false alarm on tables that are known to be good."""
    for device in ("a100_sxm", "l40s", "gb200"):
        path = store.table_path(device, family)
        assert path is not None
        assert len(own_tables.load(path, device, family)["latency_ns"]) == store.provenance(device, family)["rows_kept"]


def test_every_refusal_is_an_error_of_simserve(own: Path) -> None:
    """Bytes that are no text at all end in one line as well."""
    (own / "gemm.csv").write_bytes(b"\xff\xfe\x00dtype\x00\n\x00\x01")
    with pytest.raises(SimserveError) as caught:
        store.read_table("h100_sxm", "gemm")
    assert "\n" not in str(caught.value)
