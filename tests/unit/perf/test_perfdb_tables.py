"""The shipped tables: physical, complete, compact, and with their origin."""

from pathlib import Path

import numpy as np
import pytest

from simserve.errors import MissingData, UnknownName
from simserve.paths import data_dirs
from simserve.perf import checks, store
from simserve.spec.hardware import load_gpu, load_link

DEVICES = (
    "a100_sxm", "b200_sxm", "b300_sxm", "gb200", "gb300", "h100_sxm", "h200_sxm", "l40s", "rtx_pro_6000",
)  # fmt: skip
EVERY = [(device, family) for device in DEVICES for family in store.FAMILIES if store.has_table(device, family)]
HOSTS = ("epyc_2c", *(f"pcie{n}_x16" for n in (3, 4, 5)))
OTHERS = [
    (device, family)
    for device in store.devices()
    for family in store.FAMILIES
    if device not in (*DEVICES, *HOSTS) and store.has_table(device, family)
]


def test_every_device_has_the_four_basic_families() -> None:
    """What a dense model needs."""
    basic = ("gemm", "prefill_attention", "decode_attention", "all_reduce")
    assert [] == [(d, f) for d in DEVICES for f in basic if (d, f) not in EVERY]


@pytest.mark.parametrize(("device", "family"), [*EVERY, *OTHERS])
def test_no_entry_beats_the_roofline(device: str, family: str) -> None:
    """Every shipped row takes at least max(FLOP / peak, bytes / bandwidth), caches granted to passes that are warm."""
    gpu = load_gpu(device)
    columns = store.read_table(device, family)
    clock = checks.ABOVE_RATED.get(gpu.name, 1.0)
    gpu = gpu.model_copy(update={"peak_flops": {name: round(v * clock) for name, v in gpu.peak_flops.items()}})
    granted = checks.l2_bytes(gpu) if family in checks.WARM else 0
    bound = checks.bound_ns(family, columns, gpu, load_link(gpu.interconnect), granted)
    assert int((columns["latency_ns"] < bound).sum()) == 0


@pytest.mark.parametrize(("device", "family"), OTHERS)
def test_archives_name_their_origin(device: str, family: str) -> None:
    """Package, licence, command, files; and as many rows as the note says."""
    entry = store.provenance(device, family)
    assert all(entry[name] for name in ("package", "licence", "built", "built_by", "sources"))
    assert entry["rows_kept"] == len(store.read_table(device, family)["latency_ns"])


@pytest.mark.parametrize(("device", "family"), EVERY)
def test_rows_add_up_and_name_their_origin(device: str, family: str) -> None:
    """Source rows = kept + left out + merged + dropped; package, licence and framework version are there."""
    entry = store.provenance(device, family)
    dropped = sum(d["rows"] for d in entry["rows_dropped"])
    counted = entry["rows_kept"] + sum(entry["rows_left_out"].values()) + entry["rows_merged_repeats"] + dropped
    assert entry["rows_source"] == counted
    assert entry["rows_kept"] == len(store.read_table(device, family)["latency_ns"])
    origin = (entry["package"], entry["package_version"], entry["licence"])
    assert origin == ("aiconfigurator-core", "0.12.0", "Apache-2.0, NVIDIA")
    assert all(source["version"] and source["device"].startswith("NVIDIA") for source in entry["sources"])


@pytest.mark.parametrize("device", DEVICES)
def test_keys_are_unique(device: str) -> None:
    """One row per key, so that 'measured' means one number."""
    for family in (f for f in store.FAMILIES if store.has_table(device, f)):
        columns = store.read_table(device, family)
        codes = [np.unique(columns[k].astype(str), return_inverse=True)[1] for k in store.KEYS[family]]
        keys = np.stack(codes, axis=1)
        assert len(keys) == len(np.unique(keys, axis=0))


def test_formats_follow_the_silicon() -> None:
    """A100 multiplies in bf16 only, Ada and Hopper in fp8 too, Blackwell in nvfp4."""
    blackwell = ("b200_sxm", "b300_sxm", "gb200", "gb300", "rtx_pro_6000")
    for device in DEVICES:
        found = set(store.read_table(device, "gemm")["dtype"].astype(str))
        wanted = {"bf16"} if device == "a100_sxm" else {"bf16", "fp8", "fp8_block"}
        assert found == (wanted | {"nvfp4"} if device in blackwell else wanted), device


def test_every_device_has_experts_mla_and_collectives() -> None:
    """What mixture-of-experts and MLA models need."""
    wanted = ("moe", "mla_prefill", "mla_decode", "mla_bmm", "collective")
    assert [] == [(d, f) for d in DEVICES for f in wanted if (d, f) not in EVERY]
    for device in DEVICES:
        assert {2, 4} <= set(store.read_table(device, "collective")["ranks"].tolist())


def test_a_window_bounds_the_work() -> None:
    """Four tokens, window 2: 1 + 2 + 2 + 2 pairs; with 3 cached before them, two each; without a window 10."""
    from simserve.perf.bounds import _pairs

    tokens, past, window = (np.array(x, dtype=float) for x in ([4, 4, 4], [0, 3, 0], [2, 2, 0]))
    assert _pairs(tokens, past, window).tolist() == [7.0, 8.0, 10.0]


def test_perfdb_stays_compact() -> None:
    """All of perfdb is under 40 MB."""
    folder = data_dirs("perfdb")[-1]
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 40_000_000


def test_cached_rows_are_told_from_impossible_ones() -> None:
    """A time below bytes / bandwidth but within the L2's reach is 'cached'; below FLOP / peak, 'impossible'."""
    gpu = load_gpu("h100_sxm")
    columns: store.Columns = {
        "dtype": np.array(["bf16"] * 4, dtype=object),
        "n": np.array([4096, 4096, 8192, 4096]),
        "k": np.array([4096, 4096, 8192, 4096]),
        "m": np.array([1, 1, 8192, 1]),
        "latency_ns": np.array([15_000, 5_000, 1_000, 0]),
    }
    kept, dropped = checks.drop_unphysical("gemm", columns, gpu, load_link("nvlink4"))
    assert kept["latency_ns"].tolist() == [15_000]
    assert [d.rows for d in dropped] == [1, 1, 1]
    assert [d.reason.split(":")[0] for d in dropped] == [
        "not positive",
        "faster than the roofline, caches granted",
        "faster than the roofline",
    ]
    assert dropped[1].examples[0].startswith("dtype=bf16, n=8192, k=8192, m=8192: 1000 ns measured")


def test_a_row_that_something_held_up_goes() -> None:
    """2.2 ms for a context of 4 where 4,096 take 14 us; twice as long is noise, and another batch another curve."""
    columns: store.Columns = {
        "part": np.array(["kernel"] * 5, dtype=object), "dtype": np.array(["bf16"] * 5, dtype=object),
        "kv_dtype": np.array(["bf16"] * 5, dtype=object), "heads": np.array([16] * 5),
        "batch": np.array([1, 1, 1, 1, 64]), "context": np.array([4, 64, 1024, 4096, 4096]),
        "latency_ns": np.array([2_222_000, 24_000, 12_000, 14_000, 300_000]),
    }  # fmt: skip
    kept, dropped = checks.drop_unphysical("mla_decode", columns, load_gpu("h200_sxm"), load_link("nvlink4"))
    assert kept["latency_ns"].tolist() == [24_000, 12_000, 14_000, 300_000]
    assert [(d.rows, d.reason.split(":")[0]) for d in dropped] == [(1, "more than 3 times as long as a longer context")]


def test_no_shipped_curve_of_decode_attention_has_such_a_row() -> None:
    """Tables of all devices, engines' own among them."""
    for info in store.list_tables():
        if info.family in ("decode_attention", "mla_decode"):
            columns = store.read_table(info.device, info.family)
            for rows in store.groups(columns, store.KEYS[info.family][:-1]):
                time = columns["latency_ns"][rows[np.argsort(columns["context"][rows])]].astype(float)
                assert (time <= checks.HELD_UP * np.minimum.accumulate(time[::-1])[::-1]).all(), info.device


def test_list_and_show() -> None:
    """Listing names each device and family; show gives rows and ranges."""
    listed = [(info.device, info.family) for info in store.list_tables() if info.device in DEVICES]
    assert listed == EVERY
    shown = store.show("h100_sxm", "all_reduce")
    assert shown["columns"]["ranks"] == {"values": [2, 4, 8]}
    with pytest.raises(UnknownName, match="did you mean 'gemm'"):
        store.show("h100_sxm", "gem")


def test_missing_table_says_how_to_build_it() -> None:
    """No table: one line with the command and the extra."""
    with pytest.raises(MissingData, match=r"simserve perfdb build .*pip install 'simserve\[aiconfigurator\]'"):
        store.read_table("t4", "gemm")


def test_users_table_hides_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIMSERVE_DATA comes first."""
    columns: store.Columns = {
        "method": np.array(["nccl"], dtype=object),
        "ranks": np.array([2]),
        "bytes": np.array([1024]),
        "latency_ns": np.array([7_000]),
    }
    store.write_table(tmp_path / "perfdb" / "h100_sxm" / "all_reduce.parquet", "all_reduce", columns)
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path))
    assert store.read_table("h100_sxm", "all_reduce")["latency_ns"].tolist() == [7_000]


def test_a_text_filter_takes_only_its_rows() -> None:
    """Text and number filters together; an unknown word gives no row; all columns have the same length."""
    whole = store.read_table("l40s", "prefill_attention")
    part = store.read_table("l40s", "prefill_attention", {"kv_dtype": "fp8", "window": 128})
    mask = (whole["kv_dtype"] == "fp8") & (whole["window"] == 128)
    assert 0 < mask.sum() < len(mask)
    for name, values in part.items():
        assert values.tolist() == whole[name][mask].tolist()
    assert {len(v) for v in store.read_table("l40s", "gemm", {"dtype": "int3"}).values()} == {0}
