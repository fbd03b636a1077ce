"""The measured points of aiconfigurator-core 0.12.0, `systems/silicon_sample.csv` (Apache-2.0, NVIDIA), cleaned.

Left out, each with its reason and count:
- repeats: rows that agree in everything but id and source, after the first that needed no repair, else after the
  first; copies that round the times stay;
- inconsistent parallel mappings: expert models whose ranks of attention (tp x pp x dp) are not those of the experts
  (moe_tp x moe_ep x pp), or where both moe_tp and moe_ep are above 1 over more ranks than a node has (the columns were
  filled by the square root of the count); `flags` uses stored verdicts instead, for comparisons on the same rows;
- rows without a version of the framework, set apart; disaggregated rows.
Mappings and clients are read as `mapping` says. Experts in fp8 blocks of 128 cannot be cut finer: MiniMax-M2.5 over
eight ranks, whose columns say moe_tp 8, ran its experts over them, as vLLM's recipe for it says (36 calibration points
on H200: TPOT off by 4 instead of 19 %).
Formats: an empty quantisation is bf16; int4 and mxfp4 are held by experts alone. gpt-oss keeps 16-bit attention. Where
the published checkpoint is fp8 in blocks (DeepSeek, MiniMax, Kimi, Qwen), or the row's own experts are, `fp8` means
that. The file does not say how KV was cached: fp8 is assumed beside quantised weights under TensorRT-LLM and vLLM, 16
bit elsewhere, as decided on the calibration scenarios, where 16 bit lets requests queue for memory that the measured
ones never queued for (mean error of TTFT 50 against 42 % and 53 against 27 %; under SGLang it was not so). Sparse
attention under SGLang is cached in fp8 on Blackwell, its default there [known: server_args]. InferenceX's runs have the
settings of its scripts (`inferencex`), the others those of AIConfigurator's evaluation (`aiconfigurator_runs`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simserve.accuracy.aiconfigurator_runs import as_evaluated
from simserve.accuracy.inferencex import is_inferencex, with_recipe
from simserve.accuracy.mapping import (
    clients,
    consistent,
    measurement,
    number,
    pool,
    ranks,
    repaired,
    stated_clients,
)
from simserve.accuracy.points import Point
from simserve.errors import MissingData, UnknownName
from simserve.perf.importers.aiconfigurator import find_package
from simserve.spec.hardware import load_gpu
from simserve.spec.model import checkpoint_formats, load_model

FILE = Path("systems") / "silicon_sample.csv"
SOURCE, LICENCE = f"aiconfigurator-core 0.12.0, {FILE.as_posix()}", "Apache-2.0, NVIDIA"
WHOLE_CONTEXTS = "enable_chunked_context=false"
_ALIASES = {"meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
            "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B",
            "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B"}  # fmt: skip
_WEIGHT_ONLY = {"int4_wo"}
BLOCK = 128  # of weights that share a scale in fp8_block
_IN_DYNAMO = (("0.5", "1.1.0rc5"), ("0.8", "1.2.0rc6"), ("1.", "1.3.0rc5"))  # [recalled]
_FP8_KV = ("trtllm", "vllm")


@dataclass(frozen=True)
class Sample:
    """Points in the order of the file with their row numbers (from 0), and how many rows were left out, by reason."""

    points: list[tuple[int, Point]]
    left_out: dict[str, int]


def silicon_points(
    package_dir: Path | None = None, flags: Path | None = None, *, modes: tuple[str, ...] = ("agg",)
) -> Sample:
    """The clean, unique, versioned points; MissingData says how to get the package.

    modes: "agg" for aggregated ones, "disagg" for those with pools whose servers are counted; flags: a CSV with columns
    row, bad_par and unique_keep, whose verdicts replace this module's.
    """
    import pandas as pd

    path = find_package(package_dir) / FILE
    if not path.is_file():
        raise MissingData(f"{path}: no such file; it comes with aiconfigurator-core 0.12.0")
    frame = pd.read_csv(path)
    same = [name for name in frame.columns if name not in ("id", "silicon_data_source")]
    written = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    rows = repaired(written)
    as_written = [row is before for row, before in zip(rows, written, strict=True)]
    first = sorted(range(len(rows)), key=lambda line: not as_written[line])
    repeated = pd.DataFrame(rows).iloc[first].duplicated(subset=same).reindex(frame.index)
    mapped = [consistent(row) for row in rows]
    if flags is not None:
        verdicts = pd.read_csv(flags).set_index("row")
        repeated = verdicts["unique_keep"].reindex(frame.index).ne(1)
        mapped = (~verdicts["bad_par"].reindex(frame.index).astype(bool)).tolist()
    dumped = {measurement(row) for row in rows if str(row["silicon_data_source"]).startswith("db-dump")}
    left_out: Counter[str] = Counter()
    points: list[tuple[int, Point]] = []
    for line, row in enumerate(rows):
        reason = _reason(row, modes, bool(repeated[line]), mapped[line])
        if reason:
            left_out[reason] += 1
        elif row["mode"] == "disagg":
            points.append((line, _disaggregated(row)))
        else:
            point = _as_run(_point(row), str(row["silicon_data_source"]), measurement(row) in dumped)
            points.append((line, _with_whole_contexts(point)))
    return Sample(points, dict(left_out))


def _reason(row: dict[str, Any], modes: tuple[str, ...], repeated: bool, mapped: bool) -> str:
    if row["mode"] not in modes:
        return "disaggregated" if row["mode"] == "disagg" else "aggregated"
    if row["mode"] == "disagg" and not (row["prefill_num_workers"] > 0 and row["decode_num_workers"] > 0):
        return "no number of servers"
    if repeated:
        return "repeats another row"
    if not mapped:
        return "inconsistent parallel mapping"
    return "" if isinstance(row["backend_version"], str) else "no framework version"


def _point(row: dict[str, Any]) -> Point:
    gemm, moe = (row[name] if isinstance(row[name], str) else "bf16" for name in ("gemm_quant_mode", "moe_quant_mode"))
    model = str(row["model_path"])
    if "fp8_block" in (checkpoint_formats(model)[0], moe):
        gemm, moe = ("fp8_block" if name == "fp8" else name for name in (gemm, moe))
    tp, dp, moe_tp, moe_ep = ranks(row)
    concurrency, servers = clients(row)
    point = Point(
        model=_ALIASES.get(model, model), gpu=str(row["system"]), concurrency=concurrency, replicas=servers,
        prompt_tokens=int(row["isl"]), output_tokens=int(row["osl"]), ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]), id=str(row["id"]), framework=str(row["backend"]),
        version=_engine_version(row), tensor_parallel_size=tp,
        data_parallel_size=dp, enable_expert_parallel=moe_ep > 1,
        moe_tensor_parallel_size=moe_tp if moe_tp > 1 and moe_ep > 1 else 0,
        dtype="bf16" if gemm in _WEIGHT_ONLY else gemm, moe_dtype=moe if moe != gemm or gemm in _WEIGHT_ONLY else "",
    )  # fmt: skip
    if point.dtype != "bf16" and point.framework in _FP8_KV:
        point = replace(point, kv_cache_dtype="fp8")
    if "gpt-oss" in model:
        mxfp4 = "w4a16_mxfp4" if load_gpu(point.gpu).architecture == "hopper" else "w4a8_mxfp4_mxfp8"
        point = replace(point, dtype="bf16", moe_dtype=mxfp4, kv_cache_dtype="auto")
    if point.framework == "sglang" and _is_sparse(point.model) and load_gpu(point.gpu).architecture == "blackwell":
        point = replace(point, kv_cache_dtype="fp8")
    point = replace(point, enable_expert_parallel=point.enable_expert_parallel or _splits_blocks(point))
    return replace(point, obstacle=_obstacle(point, row))


def _disaggregated(row: dict[str, Any]) -> Point:
    """A point with pools; the file states its concurrency in the notes, else by what each decode rank held."""
    servers, decoders = int(row["decode_num_workers"]), number(row["decode_attention_dp_size"])
    held = servers * decoders * number(row["decode_batch_size"])
    prompts = pool(row, "prefill")
    point = _point({**row, **pool(row, "decode"), "batch_size": 1})
    return replace(
        point, concurrency=stated_clients(row) or held, replicas=servers,
        prefill_replicas=int(row["prefill_num_workers"]),
        prefill_tensor_parallel_size=number(prompts["tp_size"]),
        prefill_data_parallel_size=number(prompts["attention_dp_size"]),
        prefill_enable_expert_parallel=number(prompts["moe_ep_size"]) > 1,
        obstacle=point.obstacle or _obstacle(point, prompts),
    )  # fmt: skip


def _engine_version(row: dict[str, Any]) -> str:
    """The engine's version; an image of Dynamo says its own, of the TensorRT-LLM inside the release notes tell.

    The nightly images of SGLang, and that for GLM-5, were measured before 0.5.10 was (February to April 2026);
    TensorRT-LLM's for gpt-oss is of the time of 1.1 [recalled].
    """
    version = str(row["backend_version"])
    if version == "gpt-oss-dev":
        return "1.1.0rc2"
    if row["backend"] == "sglang" and not re.match(r"v?\d", version):
        return "0.5.9"
    if "ai-dynamo/tensorrtllm-runtime" not in str(row["silicon_data_source"]):
        return version
    return next((inside for start, inside in _IN_DYNAMO if version.startswith(start)), version)


def _as_run(point: Point, source: str, dumped: bool) -> Point:
    """The point with what is known, or was decided, of the settings of its run; dumped: the dump holds it, too."""
    if is_inferencex(source):
        return with_recipe(point, source, dumped=dumped)
    return as_evaluated(point, source)


def _with_whole_contexts(point: Point) -> Point:
    """TensorRT-LLM cuts no prompts unless enable_chunked_prefill asks for it, which no script does [known]."""
    if point.framework != "trtllm":
        return point
    return replace(point, scheduler_options="; ".join(filter(None, (point.scheduler_options, WHOLE_CONTEXTS))))


def _splits_blocks(point: Point) -> bool:
    """Whether a rank's share of an expert would be no whole number of blocks, which vLLM refuses: see above."""
    if point.framework != "vllm" or point.dtype != "fp8_block" or point.moe_dtype or point.data_parallel_size > 1:
        return False
    try:
        experts = load_model(point.model).experts
    except UnknownName:
        return False
    return experts is not None and experts.moe_intermediate_size % (point.tensor_parallel_size * BLOCK) > 0


def _is_sparse(model: str) -> bool:
    try:
        return load_model(model).sparse is not None
    except UnknownName:
        return False


def _obstacle(point: Point, row: dict[str, Any]) -> str:
    """Why the simulator has no answer for this row, '' if it has."""
    try:
        load_model(point.model)
    except UnknownName:
        return f"model {point.model} is not described"
    if number(row["pp_size"]) > 1:
        return "pipeline parallelism"
    return ""
