"""The text of a study: every key with a comment on what it is and what else it may be."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH = 100
# Of each key that a study may have here.
NOTES: dict[str, str] = {
    "name": "Of the study; results go to simserve-results/NAME.",
    "model": "Hugging Face id (`simserve models list`), or a path to a config.json.",
    "workload": "What arrives: a recorded trace, or arrivals and lengths that are drawn.",
    "workload.kind": "A diffusion language model: output tokens are the masks that it fills in.",
    "workload.trace": "A CSV with times, prompt and output tokens. `rate_scale: 2` plays it twice as fast, `limit: "
    "1000` the first 1,000 requests.",
    "workload.arrivals": "At random. Or in bursts {kind: gamma, rate_rps: 4, cv: 2}, evenly {kind: constant, rate_rps: "
    "4}, or so many requests in flight all the time {kind: closed_loop, concurrency: 32}.",
    "workload.prompt_tokens": "All alike. Real ones vary: {kind: lognormal, mean: 1000, std: 900, max: 8000}, {kind: "
    "uniform, low: 100, high: 2000}, or drawn from a file {kind: empirical, path: lengths.csv, column: tokens}.",
    "workload.output_tokens": "As prompt_tokens.",
    "workload.requests": "More of them make percentiles steadier and simulations longer.",
    "workload.prefixes": "What prompts have in common, computed once.",
    "slo": "What the service promises: so many percent of the requests keep each bound. Bounds are in ms, or have a "
    "unit (0.5 s); e2e_ms bounds the whole request.",
    "deployment": "What `simserve simulate` plays, and what a search leaves as it is. Keys are vLLM's: replicas, "
    "tensor_parallel_size, max_num_seqs, kv_cache_dtype: fp8, enable_prefix_caching: true, ...",
    "deployment.gpu": "By name (`simserve hw list`).",
    "deployment.scheduler": "By name (`simserve explain`).",
    "deployment.moe_dtype": "Format of the experts, that of the published checkpoint.",
    "search": "What a search may choose, and how it goes about it.",
    "search.space": "Lists of values. A key that is not here stays as in `deployment`; further ones: kv_cache_dtype, "
    "enable_prefix_caching, gpu_memory_utilization, pipeline_parallel_size, ...",
    "search.space.mode": "One pool of GPUs, or prefill and decode apart.",
    "search.space.engine": "vllm, sglang, trtllm: scheduler and host times of each.",
    "search.space.gpu": "GPU types; one deployment has one, or one for each pool.",
    "search.space.dtype": "Of the weights: bf16, fp16, fp8, fp8_block, nvfp4.",
    "search.space.tensor_parallel_size": "GPUs that share each layer.",
    "search.space.data_parallel_size": "Groups of GPUs with requests of their own that share the experts.",
    "search.space.enable_expert_parallel": "Whole experts on each GPU, or a part of every one.",
    "search.space.replicas": "Copies of the engine behind one router.",
    "search.space.router": "Which copy gets a request; also prefix_affinity, power_of_two, ... (`simserve explain`).",
    "search.space.scheduler": "By name (`simserve explain`).",
    "search.space.scheduler_options": "Their own knobs (`simserve explain NAME`).",
    "search.space.max_num_batched_tokens": "Tokens of one step: more of them speed prompts up and hold decoding back.",
    "search.space.max_num_seqs": "Requests that run at the same time.",
    "search.space.prefill": "What the prefill pool of a disaggregated deployment chooses for itself.",
    "search.space.decode": "What its decode pool chooses for itself.",
    "search.max_gpus": "Of a deployment, all copies and pools together.",
    "search.objective": "throughput (per GPU), gpus (fewest), cost (per hour), or front (all that nothing beats).",
    "search.trials": "Configurations to simulate at most; all of the space is screened by formulas before.",
    "search.prune": "Stop a simulation once its requests cannot keep the SLO any more.",
}
SECTIONS = ("workload", "slo", "deployment", "search", "search.space")
NO_SLO = "slo: {ttft_ms: 500, tpot_ms: 50, percentile: 90}   # without a promise throughput alone decides"


def study_text(data: Mapping[str, Any], path: Path) -> str:
    """`data` as the file at `path`: the editor's schema line, what to do with it, and the sections."""
    from simserve.spec.schema import comment_line

    name = path.name
    about = f"`simserve search {name}` finds the best deployment, `simserve simulate {name}` plays the one below."
    lines = [comment_line("study", path), *(f"# {line}" for line in textwrap.wrap(about, WIDTH)), ""]
    for key, value in data.items():
        lines += _entry(key, value, "")
        if key == "workload" and "slo" not in data:
            lines += [f"# {NO_SLO}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _entry(place: str, value: Any, indent: str) -> list[str]:
    """A key with its comment; the keys of a section one by one."""
    note, key = NOTES.get(place, ""), place.rpartition(".")[2]
    lines = [f"{indent}# {line}" for line in textwrap.wrap(note, WIDTH - len(indent))]
    if place not in SECTIONS or place == "slo":
        return [*lines, f"{indent}{key}: {_flow(value)}", *([""] if not indent else [])]
    inner = [line for name, own in value.items() for line in _entry(f"{place}.{name}", own, f"{indent}  ")]
    return [*lines, f"{indent}{key}:", *inner, *([""] if not indent else [])]


def _flow(value: Any) -> str:
    """A value on one line; 500.0 as 500."""
    import yaml

    if isinstance(value, dict):
        value = {key: int(own) if isinstance(own, float) and own.is_integer() else own for key, own in value.items()}
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
