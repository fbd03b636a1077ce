"""Importers of archives on small archives written by the test: units, shapes per rank, what is left out, errors."""

import io
import tarfile
from pathlib import Path

import pytest

from simserve.cli.main import main
from simserve.errors import MissingData, SpecError, UnknownName
from simserve.perf import store
from simserve.perf.importers import blis, importer, importer_names, infersim, llmservingsim, llmservingsim_v0, vidur
from simserve.perf.importers.archive import thinned


def pack(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A .tgz with these files; returns the folder."""
    with tarfile.open(folder / name, "w:gz") as tar:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return folder


def built(tmp_path: Path, source: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build `device` from the archives in tmp_path and read from there."""
    importer(source)([device], tmp_path / "data" / "perfdb", tmp_path)
    monkeypatch.setenv("SIMSERVE_DATA", str(tmp_path / "data"))


def listed(device: str, family: str, *names: str) -> list[tuple[object, ...]]:
    """Chosen columns of a table, row by row."""
    columns = store.read_table(device, family)
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


LSS = "x/profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1/"


def test_llmservingsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Microseconds; projections and LM head are GEMMs, mixed launches are left out."""
    files = {
        LSS + "dense.csv": "layer,tokens,time_us\nqkv_proj,8,56.1\ngate_up_proj,8,251.5\nact_fn,8,3.0\n",
        LSS + "per_sequence.csv": "layer,sequences,time_us\nlm_head,4,1106.9\nsampler,4,20\n",
        LSS + "attention.csv": "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n"
        "0,0,2,64,9.5\n16,0,0,0,9.546\n16,4096,0,0,137.0\n16,0,2,64,20.0\n",
    }
    pack(tmp_path, llmservingsim.ARCHIVE, files)
    built(tmp_path, "llmservingsim", "rtx_4090", monkeypatch)

    gemms = listed("rtx_4090", "gemm", "n", "k", "m", "latency_ns")
    assert gemms == [(6144, 4096, 8, 56_100), (28_672, 4096, 8, 251_500), (128_256, 4096, 4, 1_106_900)]
    prefill = listed("rtx_4090", "prefill_attention", "heads", "kv_heads", "past", "batch", "tokens", "latency_ns")
    assert prefill == [(32, 8, 0, 1, 16, 9546), (32, 8, 4096, 1, 16, 137_000)]
    assert listed("rtx_4090", "decode_attention", "batch", "context", "latency_ns") == [(2, 64, 9500)]
    left_out = store.provenance("rtx_4090", "prefill_attention")["rows_left_out"]
    assert left_out == {"other operations, or mixed launches": 2}


def test_a_second_source_gets_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rtx_pro_6000/llmservingsim: the device's own tables stay what they are."""
    path = LSS.replace("RTX4090", "RTXPRO6000").replace("tp1", "tp2") + "dense.csv"
    pack(tmp_path, llmservingsim.ARCHIVE, {path: "layer,tokens,time_us\no_proj,8,14.5\n"})
    importer("llmservingsim")(["rtx_pro_6000"], tmp_path / "out", tmp_path)

    assert (tmp_path / "out" / "rtx_pro_6000" / "llmservingsim" / "gemm.parquet").is_file()
    assert "rtx_pro_6000/llmservingsim" in store.devices()


def test_llmservingsim_v0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nanoseconds; heads per rank; k_proj and v_proj are one shape, whose repeats are merged."""
    head = "layer_name,input,kv_cache,tp_size,latency(ns)\n"
    text = head + "q_proj,16,0,2,30000\nk_proj,16,0,2,20000\nv_proj,16,0,2,22000\nattn,16,0,2,6500\nrope,16,0,2,9\n"
    pack(tmp_path, llmservingsim_v0.ARCHIVE, {"x/perf_models/RTX3090/meta-llama/Llama-3.1-8B/tp2/layers.csv": text})
    built(tmp_path, "llmservingsim_v0", "rtx_3090", monkeypatch)

    assert listed("rtx_3090", "gemm", "n", "k", "latency_ns") == [(512, 4096, 21_000), (2048, 4096, 30_000)]
    assert listed("rtx_3090", "prefill_attention", "heads", "kv_heads", "tokens", "latency_ns") == [(16, 4, 16, 6500)]


def test_vidur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds; sizes from the file; a gated model's up projection is two matrices; one node alone."""
    names = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
    header = ",".join(f"time_stats.{name}.median" for name in names)
    sizes = "n_head,n_kv_head,n_embd,n_expanded_embd,use_gated_mlp,num_tokens,num_tensor_parallel_workers"
    mlp = f"{header},{sizes}\n0.06,0.03,0.11,0.055,32,32,4096,11008,True,16,2\n"
    network = (
        "time_stats.all_reduce.median,rank,num_workers,size,devices_per_node\n"
        "0.037,0,8,2048,8\n0.5,1,8,2048,8\n0.9,0,16,2048,8\n"
    )
    files = {
        "x/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv": mlp,
        "x/network/a100_dgx/all_reduce.csv": network,
        "x/network/a100_pairwise_nvlink/all_reduce.csv": network,
    }
    pack(tmp_path, vidur.ARCHIVE, files)
    built(tmp_path, "vidur", "a100_sxm", monkeypatch)

    assert listed("a100_sxm/vidur", "gemm", "n", "k", "latency_ns") == [
        (4096, 2048, 30_000), (4096, 5504, 55_000), (6144, 4096, 60_000), (11_008, 4096, 110_000),
    ]  # fmt: skip
    assert listed("a100_sxm/vidur", "all_reduce", "ranks", "bytes", "latency_ns") == [(8, 2048, 37_000)]


def test_infersim_without_what_is_no_row_of_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GEMMs are fp8 in blocks; experts: both projections, tokens of the whole group, where its ranks hold all;
    no kernel that reads the cache in one piece."""
    files = {
        "x/bench_data/gemm/h800/data.csv": "m,k,n,latency_us,mfu\n16,2048,6144,10.63,0.1\n",
        "x/bench_data/mha/decode/h20/64-2-128.csv": "bf16,bf16,1,1024,25.5,0.009\nbf16,bf16,16,1024,30.5,0.1\n",
        "x/bench_data/mha/decode/h20/64-4-128.csv": "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu\n"
        "bf16,bf16,1,1024,25.5,0.009\n",
        "x/bench_data/grouped_gemm/decode/h800/data.csv": "num_experts,num_gpus,num_local_experts,topk,hidden_size,"
        "intermediate_size,batch_size_per_gpu,tokens_per_expert,up_proj_us,up_mfu,down_proj_us,down_mfu\n"
        "256,8,32,8,7168,2048,32,8,1297.0,0.1,721.5,0.1\n256,2,256,8,7168,2048,32,8,1297.0,0.1,721.5,0.1\n",
        "x/bench_data/gdn/decode/h800/4-16.csv": "batchsize,conv\n1,2\n",
    }
    pack(tmp_path, infersim.ARCHIVE, files)
    built(tmp_path, "infersim", "h800", monkeypatch)
    built(tmp_path, "infersim", "h20", monkeypatch)

    assert listed("h800", "gemm", "dtype", "n", "k", "m", "latency_ns") == [("fp8_block", 6144, 2048, 16, 10_630)]
    assert listed("h20", "decode_attention", "heads", "batch", "context", "latency_ns") == [(64, 1, 1024, 25_500)]
    assert store.provenance("h20", "decode_attention")["rows_left_out"] == {
        "of a kernel that does not split the cache": 1
    }
    assert listed("h800", "moe", "ep", "tokens", "latency_ns") == [(8, 256, 2_018_500)]


def test_blis_heads_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64-8-128-tp4: 16 query heads and 2 KV heads of a rank."""
    text = "dtype,kv_dtype,batch_size,kv_len,latency_us,mfu\nbf16,bf16,1,1024,39.5,0.0\n"
    pack(tmp_path, blis.ARCHIVE, {"x/bench_data/mha/decode/h100/64-8-128-tp4.csv": text})
    built(tmp_path, "blis", "h100_sxm", monkeypatch)

    assert listed("h100_sxm/blis", "decode_attention", "heads", "kv_heads", "latency_ns") == [(16, 2, 39_500)]


@pytest.mark.parametrize("source", ["blis", "infersim", "llmservingsim", "llmservingsim_v0", "vidur"])
def test_what_is_missing_is_named(source: str, tmp_path: Path) -> None:
    """No folder, an empty folder, an unknown device."""
    assert source in importer_names()
    with pytest.raises(MissingData, match="--package-dir"):
        importer(source)([], tmp_path, None)
    with pytest.raises(MissingData, match="holds neither"):
        importer(source)([], tmp_path, tmp_path)
    with pytest.raises(UnknownName, match="h100_pcie"):
        importer(source)(["h100_pcie"], tmp_path, tmp_path)


def test_an_unpacked_archive_will_do(tmp_path: Path) -> None:
    """The folder it was unpacked to."""
    path = tmp_path / "bench_data" / "gemm" / "h100"
    path.mkdir(parents=True)
    (path / "data.csv").write_text("m,k,n,latency_us,mfu\n16,2048,6144,10.63,0.1\n")
    assert importer("blis")([], tmp_path / "out", tmp_path)[0].name == "gemm.parquet"


@pytest.mark.parametrize("source", ["blis", "infersim", "vidur"])
def test_a_broken_archive_is_named(source: str, tmp_path: Path) -> None:
    """Cut off in the middle; and a folder one level below the one that was unpacked, which reads as nothing."""
    name = {"blis": blis.ARCHIVE, "infersim": infersim.ARCHIVE, "vidur": vidur.ARCHIVE}[source]
    text = "m,k,n,latency_us,mfu\n" + "".join(f"{i},2048,6144,{i * 7919 % 1000},0.1\n" for i in range(4000))
    pack(tmp_path, name, {"x/bench_data/gemm/h100/data.csv": text})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=rf"{name}: cannot be unpacked"):
        importer(source)([], tmp_path / "out", tmp_path)
    below = tmp_path / "bench_data" / "gemm" / "h100"
    below.mkdir(parents=True)
    (below / "data.csv").write_text(text)
    with pytest.raises(MissingData, match="holds neither"):
        importer(source)([], tmp_path / "out", below)


def test_other_columns_than_expected_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So is an output folder that is a file."""
    pack(tmp_path, blis.ARCHIVE, {"x/bench_data/gemm/h100/data.csv": "m,k,n\n16,2048,6144\n"})
    command = ["perfdb", "build", "--from", "blis", "--package-dir", str(tmp_path)]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    assert "its files are not as expected: 'latency_us'" in capsys.readouterr().err
    assert main([*command, "-o", str(tmp_path / blis.ARCHIVE)]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_thinned_keeps_small_numbers_and_the_tile_edges() -> None:
    """1 to 16 all, then multiples of 8, 32, 64, 256."""
    kept = [t for t, keep in zip(range(1, 5000), thinned(range(1, 5000)), strict=True) if keep]
    assert kept[:18] == [*range(1, 17), 24, 32]
    assert {120, 128, 160, 512, 576, 2048, 2304} <= set(kept)
    assert not {17, 130, 530, 2112} & set(kept)
