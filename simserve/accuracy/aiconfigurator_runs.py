"""Settings of the measured points that AIConfigurator's authors ran themselves: by their scripts, and by decision.

Sources: the evaluation of `aiconfigurator` 0.2 to 0.6 (Apache-2.0, eval/benchmarks/genai_perf_runner.py) sent ten
requests a client, after a warm-up of two, all of one length; prompts were whole, free_gpu_memory_fraction 0.8
(generator/backends/trtllm.py). From 0.7 on, March 2026, it was 50 requests a client
(generator/config/backend_templates/benchmark/bench_run.sh.j2) [known; that these runs used them as they were is
derived: TTFT of Qwen3-32B under TensorRT-LLM 1.0 does not depend on the output, and is 1.5 to 3 times what random
lengths give; of DeepSeek in March it does not rise with the load].
max_num_tokens: max_batch_size + prompt + 500, in blocks of 32, as the default rules of 0.8 and 0.10 to 0.12 write it
for TensorRT-LLM (generator/rule_plugin/trtllm.rule); those for benchmarks, and all before, have 1,500 [known]. That
these runs had 500 is decided on the calibration scenarios: one prompt of 1,024 tokens fits a step then, two do with
1,500; TTFT of Qwen3-32B at that length is 1.18 instead of 1.39 of the measured, and the time to launch an operation
comes out as SGLang's, 58 instead of 66 us. max_batch_size is taken to be the clients of a server [derived].
All of it holds for TensorRT-LLM; of other engines what follows, the rest is default. Decided on the calibration
scenarios, with the constants of the time:

- TensorRT-LLM before 1.1 held one of max_batch_size seats back on Llama-3.1-8B: its TTFT exceeds the model's by one
  mean inter-departure time at all loads from 8 to 64 clients (11 against 24 % off with all seats).
- SGLang's lengths are equal (median error of TTFT on Qwen3-32B 13 against 84 %), Llama-3.1-8B's are not, on a
  mem_fraction_static of 0.8 (Qwen3-32B on one H100 held 5 of 16 clients, 6,000 tokens, by Little's law).
- vLLM 0.12's lengths were equal on Qwen3-32B, and the budget as above, though no release writes that for vLLM (the
  rules of 0.5 to 0.12 have 1,500, which 0.5 does not pass on): of its 30 points of 1,024 tokens TTFT is 5 % off in the
  median; with 1,500 it is 11, and a quarter too long on two GPUs, with the engine's default of 8,192 twice the
  measured. API time comes out at 14 ms (5 with 1,500; 3 under TensorRT-LLM).
  Of Llama-3.1-8B and Qwen3-235B lengths were not equal (TTFT of the latter 12 against 73 % off) and the budget was
  the default; their prompts came back, and their prefixes were cached: one H200 took 85,000 prompt tokens a second,
  the 1.2 PFLOP/s that its fp8 GEMMs reach at best, and attended and decoded besides. 100 different prompts are
  assumed, the clients' default [recalled]: TPOT of the 13 calibration points of Llama was off by 14 instead of 48 %
  in the median, of the 7 with 15 clients or more of Qwen3-235B on four GPUs by 4 instead of 21 %.
"""

from __future__ import annotations

import re
from dataclasses import replace

from simserve.accuracy.points import Point
from simserve.perf.host import is_older

ROOM, BLOCK = 500, 32  # tokens beside a prompt and a full batch, and what their sum is a multiple of
LATE_ROUNDS = 50  # requests a client
_LATE = re.compile(r"measured=2026-(0[3-9]|1)")


def as_evaluated(point: Point, source: str) -> Point:
    """The point with what is known, or was decided, of the settings of its run."""
    if point.framework == "sglang":
        fixed = 0.8 if "Llama" in point.model else 1.0
        return replace(point, least_share=fixed, gpu_memory_utilization=0.8)
    clients = -(-point.concurrency // point.replicas)
    tokens = -(-(clients + point.prompt_tokens + ROOM) // BLOCK) * BLOCK
    if (point.framework, point.version) == ("vllm", "0.12.0"):
        if not point.model.startswith("Qwen/Qwen3-32B"):
            return replace(point, distinct_prompts=100)
        return replace(point, least_share=1.0, max_num_batched_tokens=tokens)
    if point.framework != "trtllm":
        return point
    old = is_older(point.version, "1.1")
    requests = LATE_ROUNDS * point.concurrency if _LATE.search(source) else 0
    return replace(
        point, least_share=1.0, requests=requests, gpu_memory_utilization=0.8, max_num_batched_tokens=tokens,
        max_num_seqs=max(1, clients - 1) if old and "Llama" in point.model else clients,
    )  # fmt: skip
