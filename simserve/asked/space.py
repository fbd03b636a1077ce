"""What a search chooses from where options describe it, for `simserve search` and for the study of `simserve init`."""

from __future__ import annotations

from typing import Any

from simserve.asked.diffusion import diffusion_sections
from simserve.asked.flags import COMMAND_LINE, has, integers, is_diffusion, weights_formats, whole_command, words
from simserve.errors import SpecError

_DEFAULT_TOKENS, _DEFAULT_SEQS = [2048, 8192, 16384], [128, 256]
_DEFAULT_ENGINE = ["vllm"]
MOST_GPUS = 4096  # of one deployment
_BOTH = ["aggregated", "disaggregated"]
SPACE_OPTIONS = (
    "--gpu", "--gpus", "--mode", "--engine", "--tp", "--dp", "--replicas", "--dtype", "--max-num-batched-tokens",
    "--max-num-seqs", "--router", "--scheduler", "--kv-cache-dtype",
)  # fmt: skip


def space_sections(space_flags: dict[str, Any], trials: int | None, model: str | None) -> dict[str, Any]:
    """The `deployment` and `search` sections that the options describe; raises SpecError without a GPU."""
    for name, values in space_flags.items():
        if isinstance(values, list):
            words(values, name)
    gpu = words(space_flags["--gpu"])
    if not gpu:
        raise SpecError(f"give at least one GPU type; try: {whole_command('search', model)}", file=COMMAND_LINE,
                        key="--gpu")  # fmt: skip
    if space_flags["--engine"] and space_flags["--scheduler"]:
        raise SpecError("--engine has a scheduler of its own; leave one out", file=COMMAND_LINE, key="--scheduler")
    most = _most(space_flags["--gpus"])
    if is_diffusion(model):
        sections = diffusion_sections(space_flags, gpu, most, _replica_counts(most))
        return sections if trials is None else {**sections, "search": {**sections["search"], "trials": trials}}
    dtype, moe_dtype = weights_formats(model)
    space = {
        "mode": _BOTH if (modes := words(space_flags["--mode"])) in ([], ["both"]) else modes,
        "engine": words(space_flags["--engine"]) or (None if space_flags["--scheduler"] else _DEFAULT_ENGINE),
        "gpu": gpu,
        "dtype": words(space_flags["--dtype"]) or [dtype],
        **_sizes(space_flags, model, most),
        "replicas": integers(space_flags["--replicas"], "--replicas") or _replica_counts(most),
        "router": words(space_flags["--router"]) or ["round_robin", "least_loaded"],
    }
    tokens = integers(space_flags["--max-num-batched-tokens"], "--max-num-batched-tokens") or _DEFAULT_TOKENS
    seqs = integers(space_flags["--max-num-seqs"], "--max-num-seqs") or _DEFAULT_SEQS
    space |= {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}
    if "disaggregated" in space["mode"]:
        space |= _pools(tokens, seqs, words(space_flags["--router"]) or ["least_loaded"])
    base = {
        "gpu": gpu[0],
        "scheduler": space_flags["--scheduler"],
        "kv_cache_dtype": space_flags["--kv-cache-dtype"],
        "moe_dtype": moe_dtype,
    }
    asked: dict[str, Any] = {"space": _given(space), "max_gpus": most, "prune": True}
    if trials is not None:
        asked["trials"] = trials
    return {"deployment": _given(base), "search": asked}


def _most(gpus: int | None) -> int:
    """GPUs at most."""
    if gpus is not None and not 1 <= gpus <= MOST_GPUS:
        raise SpecError(f"must be 1 to {MOST_GPUS:,}", file=COMMAND_LINE, key="--gpus", value=gpus)
    return 8 if gpus is None else gpus


def _pools(tokens: list[int], seqs: list[int], routers: list[str]) -> dict[str, Any]:
    """Who only prefills has few requests at a time, who only decodes few tokens."""
    enough = min((n for n in tokens if n >= max(seqs)), default=max(tokens))
    return {
        "prefill": {"max_num_seqs": max(seqs), "router": routers},
        "decode": {"max_num_batched_tokens": enough, "router": routers},
    }


def _sizes(space_flags: dict[str, Any], model: str | None, most: int) -> dict[str, Any]:
    """Powers of two up to a node of GPUs for each parallelism; experts may be spread over more."""
    tp = integers(space_flags["--tp"], "--tp") or [size for size in (1, 2, 4, 8) if size <= most]
    dp = integers(space_flags["--dp"], "--dp")
    if not has(model, "experts"):
        return {"tensor_parallel_size": tp, "data_parallel_size": dp or None}
    groups = [size for size in (1, 2, 4, 8, 16, 32) if size <= most]
    return {"tensor_parallel_size": tp, "data_parallel_size": dp or groups, "enable_expert_parallel": [False, True]}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _replica_counts(most: int) -> list[int]:
    """Every count up to 8, then in steps that keep the space small."""
    return [n for n in range(1, most + 1) if n <= 8 or (n <= 32 and n % 4 == 0) or n % 16 == 0]
