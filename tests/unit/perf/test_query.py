"""`perfdb query`, `show` and `plot`: one price with its source, one table in words, one in a picture."""

import json
from pathlib import Path

import numpy as np
import pytest

from simserve.cli.main import main
from simserve.errors import SimserveError
from simserve.perf import store
from simserve.perf.query import QUERIES, query
from simserve.report.kernel_plot import chosen
from simserve.spec.hardware import load_gpu


def test_a_row_of_the_table_is_its_own_price() -> None:
    """Every 997th GEMM of the H100 in bf16: the price is the measurement, capped where the cache was warm."""
    columns = store.read_table("h100_sxm", "gemm", {"dtype": "bf16"})
    for i in range(0, len(columns["m"]), 997):
        shape = {name: int(columns[name][i]) for name in ("m", "n", "k")}
        price = query("h100_sxm", "gemm", shape)
        assert price.source == "measured"
        assert price.ns >= 0.999 * columns["latency_ns"][i]


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("prefill_attention", {"heads": 32, "kv_heads": 8, "tokens": 1024}),
        ("decode_attention", {"heads": 32, "kv_heads": 8, "batch": 8, "context": 1024}),
        ("all_reduce", {"ranks": 4, "bytes": 1 << 20}),
        ("mla_prefill", {"heads": 16, "tokens": 2048}),
        ("mla_decode", {"heads": 16, "batch": 32, "context": 4096}),
        ("encoder_attention", {"heads": 16, "head_dim": 64, "tokens": 256}),
        ("collective", {"op": "all_gather", "ranks": 8, "bytes": 1 << 20}),
    ],
)
def test_other_families_answer_from_their_tables(family: str, keys: dict[str, int]) -> None:
    """On grid points: measured, and equal to the row (all-reduce: the faster method's)."""
    price = query("h100_sxm", family, keys)
    columns = store.read_table("h100_sxm", family)
    rows = np.ones(len(columns["latency_ns"]), dtype=bool)
    plain = {"batch": 1, "kv_dtype": "bf16", "head_dim": 128, "window": 0, "past": 0, "part": "kernel", "dtype": "bf16"}
    for name, value in {**plain, **keys}.items():
        if name in columns:
            rows &= columns[name] == value
    assert (price.source, price.table) == ("measured", f"h100_sxm/{family}")
    assert price.ns == pytest.approx(columns["latency_ns"][rows].min(), rel=1e-6)


def test_experts_by_their_split() -> None:
    """Mixtral-8x7B's layer at 512 tokens: the row; with half of each expert per rank it takes less."""
    shape = {"hidden": 4096, "inter": 14336, "experts": 8, "topk": 2, "tokens": 512}
    whole, half = (query("h100_sxm", "moe", {**shape, "tp": tp}) for tp in (1, 2))

    assert ("measured", "h100_sxm/moe") == (whole.source, whole.table)
    assert 0.25 * whole.ns < half.ns < whole.ns


def test_without_a_table_it_says_so() -> None:
    """Neither the device nor a relative: modelled, from the roofline."""
    alone = load_gpu("t4").model_copy(update={"name": "unheard_of"})
    price = QUERIES["gemm"].price(alone, {"m": 16, "n": 4096, "k": 4096, "dtype": "fp16"})

    assert ("modelled", "roofline/gemm") == (price.source, price.table)


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("gemm", {"m": 1, "n": 2}, "k: gemm needs k"),
        ("gemm", {"m": 1, "n": 2, "kk": 3}, "unknown key of gemm 'kk'; did you mean 'k'?"),
        ("gemm", {"m": 0, "n": 2, "k": 3}, "m: must be at least 1 (got 0)"),
        ("gemm", {"m": "many", "n": 2, "k": 3}, "m: must be a whole number (got 'many')"),
        ("gemn", {}, "unknown family that can be queried 'gemn'; did you mean 'gemm'?"),
    ],
)
def test_a_wrong_query_is_one_line(family: str, keys: dict[str, int | str], message: str) -> None:
    """Key, value, nearest name."""
    with pytest.raises(SimserveError) as caught:
        query("h100_sxm", family, keys)
    assert message == str(caught.value)


def test_a_picture_fixes_what_it_cannot_draw() -> None:
    """GEMM: over k and m at the commonest n; with n and k given, a curve over m."""
    columns = store.read_table("h100_sxm", "gemm")
    held, free = chosen(columns, "gemm", {})
    curve = chosen(columns, "gemm", {"n": "4096", "k": "4096"})

    assert (["k", "m"], {"dtype", "n"}) == (free, set(held))
    assert ["m"] == curve[1]
    with pytest.raises(SimserveError, match="n: no rows; there are 1024"):
        chosen(columns, "gemm", {"n": "7"})


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three commands, with JSON where it is asked for."""
    picture = tmp_path / "gemm.png"
    assert 0 == main(["perfdb", "query", "h100_sxm", "gemm", "m=512", "n=4096", "k=4096"])
    assert 0 == main(["perfdb", "plot", "h100_sxm", "gemm", "k=4096", "-o", str(picture)])
    assert 0 == main(["perfdb", "show", "h100_sxm", "gemm"])
    shown = capsys.readouterr().out
    assert 0 == main(["perfdb", "query", "h100_sxm", "gemm", "m=500", "n=4096", "k=4096", "--json"])
    price = json.loads(capsys.readouterr().out)

    assert "24.125 us  measured from h100_sxm/gemm" in shown
    assert "licence: Apache-2.0, NVIDIA" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ("interpolated", "h100_sxm/gemm") == (price["source"], price["table"])
    assert 2 == main(["perfdb", "query", "h100_sxm", "gemm", "m"])
    assert "m: must be KEY=VALUE" in capsys.readouterr().err


def test_validation_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of error, the bar and its verdict; the same rows as JSON."""
    out = tmp_path / "errors.json"
    command = ["perfdb", "validate", "--device", "a100_sxm", "--family", "all_reduce,moe", "--json", str(out)]
    assert 0 == main(command)
    shown, rows = capsys.readouterr().out, json.loads(out.read_text())

    assert {"all_reduce", "moe"} == {row["family"] for row in rows}
    assert all(0 < row["error"]["median"] < row["error"]["p90"] and row["error"]["points"] > 50 for row in rows)
    assert f"{sum(row['bar'] is not None for row in rows)} bars met" in shown
    assert 2 == main(["perfdb", "validate", "--device", "a100"])
    assert "did you mean 'a100_sxm'" in capsys.readouterr().err
