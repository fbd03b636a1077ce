"""The importer on a small package written by the test: units, filters, versions, errors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simserve.errors import MissingData, UnknownName
from simserve.perf import store
from simserve.perf.importers import aiconfigurator as source
from simserve.perf.importers import aiconfigurator_engines as engines
from simserve.perf.importers import aiconfigurator_moe as experts
from simserve.perf.importers import importer, importer_names
from simserve.spec.hardware import load_gpu

HEAD = {"framework": "VLLM", "version": "x", "device": "NVIDIA H100"}


def write(root: Path, where: str, rows: list[dict[str, Any]]) -> None:
    """One parquet file of the package."""
    path = root / "systems" / "data" / "h100_sxm" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{**HEAD, **row} for row in rows]), path)


def attention(**changes: Any) -> dict[str, Any]:
    """An attention row of the source."""
    row = {"kernel_source": "vllm_flash_attn_fa3", "batch_size": 2, "isl": 1024, "num_heads": 8, "head_dim": 128}
    row |= {"num_key_value_heads": 8, "kv_cache_dtype": "bfloat16", "step": 0, "window_size": 0, "latency": 0.5}
    return row | changes


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one device and two versions of GEMM."""
    root = tmp_path / "aiconfigurator_core"
    gemm = {"kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16", "m": 1, "n": 4096, "k": 4096}
    old = {**gemm, "n": 8192, "latency": 0.03}
    write(root, "gemm/vllm/0.9.0/gemm_perf.parquet", [{**gemm, "latency": 9.0}, old])
    fp8 = {**gemm, "kernel_source": "DeepGemmFp8BlockScaledMMKernel", "gemm_dtype": "fp8_block", "latency": 0.009}
    fast = {**gemm, "m": 4096, "latency": 0.001}
    write(root, "gemm/vllm/0.24.0/gemm_perf.parquet", [{**gemm, "latency": 0.015}, fp8, fast])
    write(root, "gemm/sglang/0.5.1/gemm_perf.parquet", [fp8, {**fp8, "gemm_dtype": "fp8"}])
    repeats = [attention(latency=t) for t in (0.5, 0.7, 0.9)]
    others = [attention(window_size=128), attention(kernel_source="vllm_triton_attn"), attention(head_dim=192)]
    write(root, "attention/vllm/0.24.0/context_attention_perf.parquet", repeats + others)
    decode = [attention(isl=1, step=1023)]
    write(root, "attention/vllm/0.24.0/generation_attention_perf.parquet", decode)
    custom = {"kernel_source": "vLLM_custom_graph", "num_gpus": 2, "message_size": 512, "latency": 0.004}
    eager = {**custom, "kernel_source": "vLLM_custom_eager"}
    write(root, "comm/vllm/0.24.0/custom_allreduce_perf.parquet", [custom, eager])
    nccl = {"op_name": "all_reduce", "nccl_dtype": "half", "num_gpus": 2, "message_size": 512, "latency": 0.006}
    write(root, "comm/nccl/2.9.1/nccl_perf.parquet", [{**nccl, "latency": 1.0}])
    write(root, "comm/nccl/2.29.2/nccl_perf.parquet", [nccl, {**nccl, "op_name": "all_gather"}])
    moe = {"kernel_source": "fused", "moe_dtype": "bfloat16", "num_tokens": 8, "hidden_size": 2048, "inter_size": 768}
    moe |= {"topk": 8, "num_experts": 128, "moe_tp_size": 1, "moe_ep_size": 2, "latency": 0.2}
    spread = [{**moe, "distribution": name} for name in ("balanced", "power_law_1.2")]
    write(root, "moe/vllm/0.24.0/moe_perf.parquet", spread)
    mla = {"kernel_source": "k", "mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "num_heads": 16}
    mla |= {"batch_size": 1, "isl": 1, "step": 512, "latency": 0.1}
    module = {**mla, "architecture": "DeepseekV3ForCausalLM", "gemm_type": "fp8_block"}
    others = [{**module, "architecture": "Other"}, {**module, "mla_dtype": "fp8"}]
    write(root, "mla/vllm/0.24.0/mla_generation_module_perf.parquet", [module, *others])
    write(root, "mla/trtllm/1.3.0rc2/generation_mla_perf.parquet", [{**mla, "step": 511, "framework": "TRTLLM"}])
    write(root, "mla/sglang/0.5.1/generation_mla_perf.parquet", [{**mla, "step": 511, "framework": "SGLang"}])
    quant = {"kernel_source": "q", "m": 8, "k": 4096, "quant_dtype": "fp8"}
    trtllm = {**gemm, "kernel_source": "torch_flow", "framework": "TRTLLM"}
    odd = [{**trtllm, "gemm_dtype": name, "latency": 0.1} for name in ("int8_wo", "fp8")]
    odd.append({**trtllm, "latency": 0.012})
    write(root, "gemm/trtllm/1.3.0rc2/gemm_perf.parquet", odd)
    over_fp8 = [
        attention(kv_cache_dtype="fp8", attn_dtype=dtype, latency=t) for dtype, t in (("fp8", 0.3), ("bfloat16", 0.4))
    ]
    write(root, "attention/trtllm/1.3.0rc2/context_attention_perf.parquet", over_fp8)
    write(root, "comm/trtllm/1.3.0rc2/custom_allreduce_perf.parquet", [{**custom, "kernel_source": "TRTLLM"}])
    layers = [
        {**spread[0], "kernel_source": f"moe_torch_flow_{kind}", "num_tokens": tokens}
        for kind, tokens in (("cutlass", 8), ("nongated", 16))
    ]
    write(root, "moe/trtllm/1.3.0rc2/moe_perf.parquet", layers)
    write(root, "quantize/vllm/0.24.0/scale_matrix_perf.parquet", [{**quant, "latency": 0.005}])
    write(root, "quantize/vllm/0.24.0/computescale_perf.parquet", [{**quant, "latency": -0.001}])
    return root


@pytest.fixture
def built(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """perfdb built from it, and made the user's own."""
    out = tmp_path / "data" / "perfdb"
    importer("aiconfigurator")(["h100_sxm"], out, package)
    monkeypatch.setenv("SIMSERVE_DATA", str(out.parent))
    return out


@pytest.mark.usefixtures("built")
def test_gemm_newest_version_in_ns_without_the_impossible_row() -> None:
    """0.24.0 beats 0.9.0 where it has the curve, which fills the one it lacks; ms become ns; the impossible goes."""
    columns = store.read_table("h100_sxm", "gemm")
    rows = list(zip(*(columns[c].tolist() for c in ("dtype", "n", "latency_ns")), strict=True))
    assert rows == [("bf16", 4096, 15_000), ("bf16", 8192, 30_000), ("fp8_block", 4096, 9_000)]
    entry = store.provenance("h100_sxm", "gemm")
    assert [(d["reason"].split(": ")[-1], d["rows"]) for d in entry["rows_dropped"]] == [("impossible", 1)]
    assert entry["rows_left_out"] == {
        "a newer version has the curve": 1,
        "fp8_block with the host's time": 1,
        "other framework, other format than fp8_block": 1,
    }
    assert [source["version"] for source in entry["sources"]] == ["0.24.0", "0.9.0", "0.5.1"]


@pytest.mark.usefixtures("built")
def test_attention_filters_and_median() -> None:
    """Triton of a usual head size goes; windows are a key; repeats become their median; step s is context s + 1."""
    prefill = store.read_table("h100_sxm", "prefill_attention")
    rows = sorted(zip(*(prefill[c].tolist() for c in ("head_dim", "window", "latency_ns")), strict=True))
    assert rows == [(128, 0, 700_000), (128, 128, 500_000), (192, 0, 500_000)]
    assert set(prefill["past"].tolist()) == {0}
    entry = store.provenance("h100_sxm", "prefill_attention")
    assert entry["rows_merged_repeats"] == 2
    assert entry["rows_left_out"] == {"triton backend": 1}
    assert store.read_table("h100_sxm", "decode_attention")["context"].tolist() == [1024]


def test_moe_and_mla_rows(built: Path) -> None:
    """Power laws are a key; module rows of other models and fp8 queries go; kernels come from other frameworks."""
    moe = store.read_table("h100_sxm", "moe")
    rows = list(zip(*(moe[c].tolist() for c in ("distribution", "ep", "tokens")), strict=True))
    assert rows == [("balanced", 2, 8), ("power_law_1.2", 2, 8)]
    decode = store.read_table("h100_sxm", "mla_decode")
    rows = list(zip(*(decode[c].tolist() for c in ("part", "dtype", "context")), strict=True))
    assert rows == [("kernel", "bf16", 512), ("module", "fp8_block", 512)]
    entry = store.provenance("h100_sxm", "mla_decode")
    assert [source["framework"] for source in entry["sources"]] == ["VLLM", "SGLang"]
    assert entry["rows_left_out"] == {"other models": 1, "fp8 query": 1}
    assert not (built / "h100_sxm" / "mla_prefill.parquet").exists()


@pytest.mark.parametrize(("kernel", "framework"), [("trtllm_mla", "SGLang"), ("triton", "SGLang"),
                                                   ("flash_attention", "TRTLLM")])  # fmt: skip
def test_mla_decode_is_sglangs_where_vllm_runs_the_same(
    kernel: str, framework: str, package: Path, tmp_path: Path
) -> None:
    """Not on Hopper, whose own kernel of SGLang's stays beside for its deployments."""
    mla = {"kernel_source": kernel, "mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "num_heads": 16,
           "batch_size": 1, "isl": 1, "step": 511, "latency": 0.1, "framework": "SGLang"}  # fmt: skip
    write(package, "mla/sglang/0.5.2/generation_mla_perf.parquet", [mla])
    importer("aiconfigurator")(["h100_sxm"], tmp_path / "out", package)
    made = tmp_path / "out" / "h100_sxm"
    entry = json.loads((made / "provenance.json").read_text())["tables"]["mla_decode"]

    assert [source["framework"] for source in entry["sources"]] == ["VLLM", framework]
    assert [path.name for path in sorted((made / "sglang").glob("*.parquet"))] == ["mla_decode.parquet"]


@pytest.mark.usefixtures("built")
def test_kernels_of_tensorrt_llm_lie_beside() -> None:
    """Its GEMMs in formats that are known, fp8 attention over fp8 KV, its all-reduce, experts with a gate on Hopper."""
    gemm, prefill, moe, reduce = (
        store.read_table("h100_sxm/trtllm", family) for family in ("gemm", "prefill_attention", "moe", "all_reduce")
    )

    assert (gemm["dtype"].tolist(), gemm["latency_ns"].tolist()) == (["bf16"], [12000])
    without = store.provenance("h100_sxm/trtllm", "gemm")["rows_left_out"]
    assert without == {"other formats, and fp8 with the quantisation of the input": 2}
    assert (prefill["kv_dtype"].tolist(), prefill["latency_ns"].tolist()) == (["fp8"], [300_000])
    assert moe["tokens"].tolist() == [8]
    assert (reduce["method"].tolist(), reduce["latency_ns"].tolist()) == (["trtllm"], [4000])
    left_out = store.provenance("h100_sxm/trtllm", "prefill_attention")["rows_left_out"]
    assert left_out["16-bit attention over fp8 KV"] == 1


def test_gpt_oss_with_activations_in_mxfp8_is_sglangs(package: Path) -> None:
    """A format of a model that vLLM's rows lack; the same of another model, or in another format, stays out."""
    moe = {"kernel_source": "trtllm_gen", "num_tokens": 8, "topk": 4, "inter_size": 2880, "num_experts": 128,
           "moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced", "latency": 0.05}  # fmt: skip
    kinds = [("w4a8_mxfp4_mxfp8", 2880), ("w4a8_mxfp4_mxfp8", 4096), ("w4a16_mxfp4", 2880)]
    rows = [{**moe, "framework": "SGLang", "moe_dtype": name, "hidden_size": hidden} for name, hidden in kinds]
    write(package, "moe/sglang/0.5.2/moe_perf.parquet", rows)
    read = experts.moe(package / "systems" / "data" / "h100_sxm")
    assert read is not None
    made = read.columns
    assert list(zip(made["dtype"].tolist(), made["hidden"].tolist(), strict=True)) == [
        ("bf16", 2048), ("bf16", 2048), ("w4a8_mxfp4_mxfp8", 2880),
    ]  # fmt: skip
    assert [raw.framework for raw in read.raws] == ["VLLM", "SGLang"]
    write(package, "moe/sglang/0.5.2/moe_perf.parquet", rows[2:])
    without = experts.moe(package / "systems" / "data" / "h100_sxm")
    assert without is not None
    assert len(without.raws) == 1


def test_experts_of_older_versions_lie_beside(package: Path) -> None:
    """On Hopper SGLang 0.5.10's, whatever is newer; on B200 Triton's of two models, where it was measured."""
    moe = {"kernel_source": "triton", "moe_dtype": "fp8_block", "num_tokens": 8, "hidden_size": 4096, "topk": 10}
    moe |= {"inter_size": 1024, "num_experts": 512, "moe_tp_size": 1, "moe_ep_size": 2, "latency": 0.2}
    moe |= {"distribution": "power_law_1.2"}
    others = [{**moe, "moe_dtype": "nvfp4"}, {**moe, "num_experts": 256}]
    write(package, "moe/sglang/0.5.10/moe_perf.parquet", [moe, *others])
    write(package, "moe/sglang/0.5.14/moe_perf.parquet", [{**moe, "latency": 0.1}])
    write(package, "moe/vllm/0.22.0/moe_perf.parquet", [{**moe, "latency": 0.3}, *others])
    folder = package / "systems" / "data" / "h100_sxm"
    hopper, blackwell = (engines.reads(folder, load_gpu(gpu)) for gpu in ("h100_sxm", "b200_sxm"))

    older, triton = hopper["sglang_0.5.10"]["moe"], blackwell["triton"]["moe"]
    assert older is not None
    assert triton is not None
    assert sorted(older.columns["experts"].tolist()) == [256, 512]
    assert (triton.columns["experts"].tolist(), triton.columns["latency_ns"].tolist()) == ([512], [300_000])
    assert (older.left_out, triton.left_out) == (
        {"other formats and models": 1}, {"other formats and models": 2},
    )  # fmt: skip
    (folder / "moe" / "vllm" / "0.22.0" / "moe_perf.parquet").unlink()
    assert "triton" not in engines.reads(folder, load_gpu("b200_sxm"))


@pytest.mark.usefixtures("built")
def test_collectives_and_dynamic_quantisation() -> None:
    """All-gather rows without all-reduce; dynamic quantisation is static plus the difference, never less."""
    gather = store.read_table("h100_sxm", "collective")
    assert [gather[c].tolist() for c in ("op", "bytes", "latency_ns")] == [["all_gather"], [1024], [6000]]
    passes = store.read_table("h100_sxm", "elementwise")
    assert dict(zip(passes["op"], passes["latency_ns"], strict=True)) == {
        "fp8_quant_dynamic": 5000, "fp8_quant_static": 5000,
    }  # fmt: skip


@pytest.mark.usefixtures("built")
def test_all_reduce_counts_bytes_of_two_byte_elements() -> None:
    """message_size 512 elements is 1024 bytes; eager mode and other operations go; newest NCCL."""
    columns = store.read_table("h100_sxm", "all_reduce")
    rows = list(zip(*(columns[c].tolist() for c in ("method", "bytes", "latency_ns")), strict=True))
    assert rows == [("nccl", 1024, 6000), ("vllm_custom", 1024, 4000)]


def test_provenance_file(built: Path) -> None:
    """One JSON per device with the source file of every table."""
    about = json.loads((built / "h100_sxm" / "provenance.json").read_text())
    assert about["tables"]["gemm"]["sources"][0] == {
        "file": "data/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet",
        "framework": "VLLM",
        "version": "0.24.0",
        "device": "NVIDIA H100",
    }


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: one line with the pip command."""
    monkeypatch.setattr(source, "IMPORT_NAME", "no_such_package_at_all")
    with pytest.raises(MissingData, match=r"pip install 'simserve\[aiconfigurator\]'"):
        source.find_package()


def test_wrong_folder_and_unknown_device(package: Path, tmp_path: Path) -> None:
    """A folder without tables, and a device that the package lacks, are said in one line."""
    with pytest.raises(MissingData, match="holds no aiconfigurator_core tables"):
        source.find_package(tmp_path)
    with pytest.raises(MissingData, match="no tables for t4; it has h100_sxm"):
        source.build(["t4"], tmp_path, package)


def test_unknown_source_is_named() -> None:
    """The registry lists its names and suggests the nearest."""
    assert "aiconfigurator" in importer_names()
    with pytest.raises(UnknownName, match="did you mean 'aiconfigurator'"):
        importer("aiconfigurater")
