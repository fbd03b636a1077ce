"""Engine settings of those measured points that come from InferenceX, by its public benchmark scripts.

Source: https://github.com/SemiAnalysisAI/InferenceX (Apache-2.0), `benchmarks/**/*.sh`, late 2025 to spring 2026:
limits, memory shares, KV formats, polling and speculation by model, GPU, framework and load [known]. They changed
between runs; what is here is what they said about the time of the measurements, not checked row by row. A point is
InferenceX's if its source names a database dump or a dated export [derived].
Speculation: the exports hold both the plain and the MTP runs without saying which. Told apart by image and date:
TensorRT-LLM 1.2.0rc6.post3, and 1.1.0rc2.post2 from 2026 on, were MTP images (plain runs of that time:
1.2.0rc6.post2); exports of SGLang 0.5.9 in fp8 on eight B200 that the dump, whose runs of SGLang are plain, does not
hold, too; and Qwen3.5 in fp8 on four Blackwell GPUs without expert parallelism, under the image v0.5.9-cu130 where
plain runs had v0.5.9-cu130-amd64 [derived].
Launching: under vLLM 0.17 on B200 until March 2026, and of MiniMax-M2.5 on eight H200, steps with prompts took the time
that Python needs to launch them: Kimi-K2.5 in nvfp4 had its first token of 1,024 tokens after 170 to 180 ms where the
same row took 74 to 91 in April, and of 8,192 after as long; MiniMax had it later on four ranks than on two [derived
from calibration scenarios; what changed in the scripts is not known]. TensorRT-LLM 1.2's scripts for DeepSeek on B200
capture steps with prompts piecewise at some loads (`_captures`) [known]; TPOT of 1,024 and of 8,192 output tokens is
then the same. Those for gpt-oss on H200 ask for Triton's experts [known].
"""

from __future__ import annotations

import re
from dataclasses import replace

from simserve.accuracy.points import Point
from simserve.perf.host import is_older

# Random prompts without a chat template draft badly: on the calibration scenarios the TPOT of MTP runs is 1.5 times
# what 0.7 gives. With a template (the TensorRT-LLM scripts) 0.7 leaves a bias of -2 % [derived].
RAW_ACCEPTANCE = 0.35
TEMPLATE_ACCEPTANCE = 0.6  # under SGLang, with a template: TPOT of Qwen3.5 +-0 %, of DeepSeek-R1 -12 % [derived]
ONE_DRAFT_ACCEPTANCE = 0.85  # of the second token, DeepSeek-V3's report: 85 to 90 % [known]
ADP_TIMEOUT = 60  # timeout_iters of the DeepSeek scripts' attention_dp_config [known]; its default is 50 [recalled]
# TTFT of gpt-oss under vLLM 0.11.2 is that of ten rounds through 64 seats on 2, 4 and 8 H100: 4.2 to 4.5 times the time
# of an output, all sent at once; TPOT is that of 64 clients, not 512 [derived, calibration scenarios].
OLD_SEATS = 64
# Clients from which TensorRT-LLM 1.2's scripts for DeepSeek in fp8 set enable_piecewise_cuda_graph, by lengths [known].
_CAPTURED = {(1024, 1024): 64, (1024, 8192): 128, (8192, 1024): 64}
_CAPTURED_DRAFTS = {(1024, 1024): 5, (1024, 8192): 9, (8192, 1024): 17}
_MEASURED = re.compile(r"measured=(20\d\d-\d\d)")
_EXPORT = re.compile(r"db-dump|source_file=(20\d\d-\d\d-\d\d|[\w.-]*gap-analysis)\.csv")


def is_inferencex(source: str) -> bool:
    """Whether a row of this `silicon_data_source` was measured by InferenceX."""
    return _EXPORT.match(source) is not None


def with_recipe(point: Point, source: str, *, dumped: bool = False) -> Point:
    """The point with the settings of its script; as it is where none is known. dumped: the dump holds it, too."""
    if point.framework == "sglang":
        return _in_one_round(_sglang(point, exported=source.startswith("source_file") and not dumped))
    recipe = {"trtllm": _trtllm, "vllm": _vllm}.get(point.framework)
    return recipe(point, source) if recipe else point


def _sglang(point: Point, *, exported: bool) -> Point:
    tokens, share, seqs, kv, interval = 32768, 0.82, 128, "fp8", 30 if point.concurrency >= 16 else 10
    hopper = point.gpu == "h200_sxm"
    drafts, acceptance = 0, RAW_ACCEPTANCE
    if "Qwen3.5" in point.model:
        if hopper:
            tokens, share, interval = 16384, 0.8, 1
        elif _is_qwen_mtp(point):
            share, drafts, acceptance = 0.8, 3, TEMPLATE_ACCEPTANCE
        elif point.dtype == "nvfp4":
            share, interval = (0.85, 30) if point.gpu == "b200_sxm" else (0.8, interval)
        elif point.gpu == "b300_sxm" and point.dtype != "bf16" and "0.5.9" not in point.version:
            tokens, share, seqs, interval = 16384, 0.8, point.concurrency, 10
    elif "GLM" in point.model:
        tokens, share, interval = 8192, 0.85, 1
        kv = "auto" if hopper else kv
        drafts = 0 if hopper else 3
        if point.dtype == "nvfp4":
            tokens, share, interval, drafts = 32768, 0.9, 10, 0
    elif hopper:
        seqs, kv, interval = 512 if point.output_tokens == point.prompt_tokens else 256, "auto", 1
    elif point.dtype == "nvfp4":
        tokens, share, seqs = 16384, 0.85, 256
    elif point.tensor_parallel_size == 4:
        tokens, share, seqs, interval = 8192, 0.95, 32, 10
    elif point.gpu == "b200_sxm" and "0.5.9" in point.version and exported:
        seqs, drafts, acceptance = 256, 2, TEMPLATE_ACCEPTANCE
    options = f"max_prefill_tokens={tokens}; scheduler_recv_interval={interval}"
    # Loads above the limit ran all their clients: on the calibration scenarios they waited 2 to 8 s, not 40 [derived].
    seqs = max(seqs, point.concurrency)
    return replace(
        point, max_num_batched_tokens=tokens, gpu_memory_utilization=share, max_num_seqs=seqs, kv_cache_dtype=kv,
        scheduler_options=options, num_speculative_tokens=drafts, acceptance_rate=acceptance,
    )  # fmt: skip


def _in_one_round(point: Point) -> Point:
    """DeepSeek on B300 was sent a request per client, as all of B300's scripts of April 2026 say [known].

    Other models' runs do not look like it; of DeepSeek predicted TTFT is 0.96 to 0.42 of the measured from 4 to 128
    clients with ten requests each, 1.13 to 1.35 with one [derived, calibration scenarios].
    """
    once = point.gpu == "b300_sxm" and "DeepSeek" in point.model
    return replace(point, requests=point.concurrency) if once else point


def _is_qwen_mtp(point: Point) -> bool:
    """Nightly images, which count as 0.5.9, ran Qwen3.5 in other formats alone."""
    four = point.tensor_parallel_size == 4 and not point.enable_expert_parallel
    return point.version == "0.5.9" and point.dtype == "fp8_block" and four


def _trtllm(point: Point, source: str) -> Point:
    concurrency, prompt = point.concurrency, point.prompt_tokens
    if "gpt-oss" in point.model:
        hopper = point.gpu == "h200_sxm"
        return replace(
            point, max_num_batched_tokens=20_000, gpu_memory_utilization=0.85,
            max_num_seqs=concurrency if hopper else 512, kv_cache_dtype="auto" if hopper else "fp8",
            engine="trtllm_triton" if hopper else "",  # moe_config.backend of the scripts [known]
            scheduler_options="attention_dp_timeout_iters=50" if point.data_parallel_size > 1 else "",
        )  # fmt: skip
    balance = f"attention_dp_timeout_iters={ADP_TIMEOUT}" if point.data_parallel_size > 1 else ""
    if _is_mtp(point, source):
        drafts, parts = (1, 4 if point.dtype == "nvfp4" else 8) if balance else (3, 1)
        seqs = max(1, concurrency // parts)
        tokens = ((drafts + 1) * seqs + prompt + 127) // 64 * 64
        acceptance = ONE_DRAFT_ACCEPTANCE if drafts == 1 else point.acceptance_rate
        return replace(point, max_num_batched_tokens=tokens, max_num_seqs=seqs,
                       gpu_memory_utilization=_memory_share(point, drafts=True), kv_cache_dtype="fp8",
                       num_speculative_tokens=drafts, acceptance_rate=acceptance,
                       engine=_piecewise(point, drafts=True), scheduler_options=balance)  # fmt: skip
    # 8,192 tokens at least, by 1.2's scripts; under 1.1 what TTFT says: one prompt after the other in fp8 (predicted
    # 0.53 to 0.95 of it else, 0.77 to 1.0 so), not in nvfp4 (0.87, and 1.37 so) [derived, calibration scenarios].
    lone = is_older(point.version, "1.2") and point.dtype != "nvfp4"
    tokens = max(0 if lone else 8192, (concurrency + prompt + 127) // 64 * 64)
    waits = point.dtype != "nvfp4" and point.gpu == "b200_sxm" and prompt == point.output_tokens
    holds = "batch_wait_timeout_iters=40; batch_wait_max_tokens_ratio=0.8"
    options = holds if waits and 64 <= concurrency < 256 and not balance else balance
    return replace(point, max_num_batched_tokens=tokens, max_num_seqs=min(2048, tokens),  # no more seats than tokens
                   gpu_memory_utilization=_memory_share(point, drafts=False), kv_cache_dtype="fp8",
                   engine=_piecewise(point, drafts=False), scheduler_options=options)  # fmt: skip


def _memory_share(point: Point, *, drafts: bool) -> float:
    """free_gpu_memory_fraction of DeepSeek's scripts [known]: 0.7 where experts run with DeepGEMM."""
    if point.gpu == "h200_sxm":
        return 0.75
    if point.dtype == "nvfp4":
        return 0.8
    long_answers = (point.prompt_tokens, point.output_tokens) == (1024, 8192)
    deep_gemm = point.data_parallel_size > 1 if drafts else long_answers and point.concurrency >= 256
    four = not drafts and point.tensor_parallel_size == 4 and point.prompt_tokens == 8192
    return 0.7 if deep_gemm else 0.75 if four else 0.8


def _piecewise(point: Point, *, drafts: bool) -> str:
    """The engine of a run of DeepSeek on B200: steps with prompts were captured at some loads, by 1.2's scripts."""
    old = point.gpu != "b200_sxm" or is_older(point.version, "1.2")
    return "" if old or not _captures(point, drafts) else "trtllm_piecewise"


def _captures(point: Point, drafts: bool) -> bool:
    lengths, clients = (point.prompt_tokens, point.output_tokens), point.concurrency
    ranks = point.data_parallel_size
    if point.dtype != "nvfp4":
        least = (_CAPTURED_DRAFTS if drafts else _CAPTURED).get(lengths, clients + 1)
        deep_gemm = lengths == (1024, 8192) and clients >= 256
        return clients >= least and not (ranks > 1 if drafts else deep_gemm)
    even = lengths == (1024, 1024)
    if not drafts:
        return even and point.tensor_parallel_size * ranks == 8 and point.enable_expert_parallel
    return (clients == 64 and lengths[0] == 1024) or (even and (clients == 32 or (clients == 128 and ranks == 1)))


def _is_mtp(point: Point, source: str) -> bool:
    if "DeepSeek" not in point.model:
        return False
    in_2026 = "measured=2026" in source
    return "1.2.0rc6.post3" in point.version or ("1.1.0rc2.post2" in point.version and in_2026)


def _vllm(point: Point, source: str) -> Point:
    point = replace(point, engine="vllm_uncompiled" if _is_uncompiled(point, source) else point.engine)
    if "gpt-oss" in point.model:
        blackwell = point.gpu in ("b200_sxm", "b300_sxm")
        if point.version == "0.11.2" and point.gpu == "h100_sxm" and point.concurrency > OLD_SEATS:
            return replace(point, gpu_memory_utilization=0.9, max_num_seqs=OLD_SEATS, requests=10 * OLD_SEATS)
        return replace(point, gpu_memory_utilization=0.9, max_num_seqs=512 if blackwell else point.concurrency,
                       kv_cache_dtype="fp8" if blackwell else "auto")  # fmt: skip
    if "Kimi" in point.model:
        fp4 = point.dtype == "nvfp4"
        return replace(point, gpu_memory_utilization=0.9 if fp4 else 0.95, max_num_seqs=point.concurrency)
    # Measured queues for memory say 0.9 of it, where later scripts say 0.95, and that KV is 16 bit on Hopper [derived].
    seqs = point.concurrency if point.dtype == "nvfp4" else max(1024, point.concurrency)
    if point.gpu in ("b200_sxm", "b300_sxm") and not is_older(point.version, "0.19"):
        point = replace(point, max_num_batched_tokens=2 * point.prompt_tokens)
    kv = "auto" if point.gpu in ("h100_sxm", "h200_sxm") else point.kv_cache_dtype
    return replace(point, gpu_memory_utilization=0.9, max_num_seqs=seqs, kv_cache_dtype=kv)


def _is_uncompiled(point: Point, source: str) -> bool:
    """Whether prompts were launched from Python: see above."""
    minimax, kimi = "MiniMax" in point.model, "Kimi" in point.model
    if point.gpu == "b200_sxm" and point.version == "0.17.0" and (kimi or minimax):
        measured = _MEASURED.search(source)  # exports without a date repeat the runs of March
        return measured is None or measured[1] < "2026-04"
    return minimax and (point.gpu, point.version, point.tensor_parallel_size) == ("h200_sxm", "0.18.0", 8)
