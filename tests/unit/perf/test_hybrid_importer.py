"""Rows of gated delta nets and sparse attention out of a small package written by the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simserve.perf import store
from simserve.perf.importers import importer

NET: dict[str, Any] = {
    "framework": "VLLM", "version": "x", "device": "NVIDIA H100", "op_name": "gdn", "phase": "context", "batch_size": 1,
    "seq_len": 64, "num_tokens": 64, "d_model": 4096, "d_conv": 4, "num_k_heads": 4, "head_k_dim": 128,
    "num_v_heads": 16, "head_v_dim": 128, "model_name": "m", "kernel_source": "chunk_gated_delta_rule", "latency": 0.05,
}  # fmt: skip
BLOCK: dict[str, Any] = {
    "framework": "SGLang", "version": "x", "device": "NVIDIA H100", "op_name": "dsa_generation_module", "tp_size": 1,
    "kernel_source": "k", "model": "zai-org/GLM-5", "architecture": "GlmMoeDsaForCausalLM", "mla_dtype": "bfloat16",
    "kv_cache_dtype": "bfloat16", "gemm_type": "fp8_block", "num_heads": 8, "batch_size": 64, "isl": 1, "step": 1024,
    "latency": 0.1,
}  # fmt: skip


def write(root: Path, where: str, rows: list[dict[str, Any]]) -> None:
    """One parquet file of the package."""
    path = root / "systems" / "data" / "h100_sxm" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds perfdb from files by place, and makes it the user's own."""

    def built(files: dict[str, list[dict[str, Any]]]) -> None:
        root, out = tmp_path / "aiconfigurator_core", tmp_path / "data" / "perfdb"
        for where, rows in files.items():
            write(root, where, rows)
        importer("aiconfigurator")(["h100_sxm"], out, root)
        monkeypatch.setenv("SIMSERVE_DATA", str(out.parent))

    return built


def rows(family: str, *names: str) -> list[tuple[Any, ...]]:
    columns = store.read_table("h100_sxm", family)
    return list(zip(*(np.asarray(columns[name]).tolist() for name in (*names, "latency_ns")), strict=True))


def test_kernels_become_operations_and_models_repeats(build: Any) -> None:
    """Every backend's scan is `scan`; hidden sizes do not matter: the median; other kernels and head sizes go."""
    vllm = [
        NET,
        {**NET, "d_model": 5120, "latency": 0.07},
        {**NET, "kernel_source": "causal_conv1d_fn", "latency": 0.01},
        {**NET, "kernel_source": "causal_conv1d_update", "phase": "generation", "seq_len": 1, "latency": 0.002},
        {**NET, "kernel_source": "fused_recurrent_gated_delta_rule_packed_decode", "phase": "generation", "seq_len": 1},
        {**NET, "kernel_source": "mamba_chunk_scan_combined"},
        {**NET, "head_k_dim": 64},
    ]
    build({
        "linear_attention/vllm/0.24.0/gdn_perf.parquet": vllm,
        "linear_attention/sglang/0.5.14/gdn_perf.parquet": [{**NET, "batch_size": 8}],
    })  # fmt: skip
    assert rows("gdn", "op", "tokens") == [
        ("conv", 64, 10_000), ("conv_update", 1, 2_000), ("recurrence", 1, 50_000), ("scan", 64, 60_000),
    ]  # fmt: skip
    entry = store.provenance("h100_sxm", "gdn")
    assert entry["rows_left_out"] == {"other kernels or head sizes": 2}
    assert entry["rows_merged_repeats"] == 1
    assert [s["framework"] for s in entry["sources"]] == ["VLLM"]


def test_a_version_fills_whole_curves_and_sglang_stands_in(build: Any) -> None:
    """An older vLLM gives heads that the newest lacks, no length of heads that it has."""
    older = [{**NET, "seq_len": 128}, {**NET, "num_v_heads": 8}]
    build({
        "linear_attention/vllm/0.24.0/gdn_perf.parquet": [NET],
        "linear_attention/vllm/0.22.0/gdn_perf.parquet": older,
    })  # fmt: skip
    assert rows("gdn", "v_heads", "tokens") == [(8, 64, 50_000), (16, 64, 50_000)]


def test_sglang_where_vllm_has_none(build: Any) -> None:
    """As on A100: decode alone."""
    update = {**NET, "framework": "SGLang", "kernel_source": "causal_conv1d_update", "seq_len": 1}
    prompts = {**update, "kernel_source": "causal_conv1d_fn"}
    build({"linear_attention/sglang/0.5.10/gdn_perf.parquet": [update, prompts]})
    assert rows("gdn", "op") == [("conv_update", 50_000)]
    assert store.provenance("h100_sxm", "gdn")["rows_left_out"]["prompts"] == 1
    assert store.provenance("h100_sxm", "gdn")["sources"][0]["framework"] == "SGLang"


def test_decode_of_blocks_without_shared_indexes_and_eager_batches(build: Any) -> None:
    """Three times the time of half the batch: that batch and all above it were not captured."""
    times = {64: 0.1, 128: 0.15, 256: 1.3, 512: 1.31}
    captured = [{**BLOCK, "batch_size": batch, "latency": ms} for batch, ms in times.items()]
    others = [
        {**BLOCK, "op_name": "dsa_generation_module_skip_indexer", "latency": 0.05},
        {**BLOCK, "architecture": "DeepseekV32ForCausalLM"},
        {**BLOCK, "architecture": "Other"},
    ]
    build({"sparse_attention/sglang/0.5.14/dsa_generation_module_perf.parquet": captured + others})
    assert rows("dsa_decode", "hidden", "batch", "context") == [
        (6144, 64, 1024, 100_000), (6144, 128, 1024, 150_000), (7168, 64, 1024, 100_000),
    ]  # fmt: skip
    left_out = store.provenance("h100_sxm", "dsa_decode")["rows_left_out"]
    assert left_out == {"an index of another layer": 1, "other models": 1, "launched eagerly": 2}


def test_prompts_of_blocks_keep_fresh_ones_and_single_ones_after_doublings(build: Any) -> None:
    """Several prompts after cached context, and odd lengths of it, go."""
    prompt = {**BLOCK, "op_name": "dsa_context_module", "isl": 512, "step": 0, "batch_size": 4, "latency": 0.8}
    kept = [prompt, {**prompt, "step": 2048, "batch_size": 1}]
    gone = [{**prompt, "step": 2048}, {**prompt, "step": 1536, "batch_size": 1}]
    build({"sparse_attention/sglang/0.5.14/dsa_context_module_perf.parquet": kept + gone})
    assert rows("dsa_prefill", "past", "batch", "tokens") == [(0, 4, 512, 800_000), (2048, 1, 512, 800_000)]
    left_out = store.provenance("h100_sxm", "dsa_prefill")["rows_left_out"]
    assert left_out["other lengths of cached context, or of several prompts"] == 2
