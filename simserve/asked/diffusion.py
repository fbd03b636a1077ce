"""What a search over deployments of a diffusion model chooses from where options alone describe it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simserve.asked.flags import COMMAND_LINE, integers, words
from simserve.errors import SpecError

SCHEDULERS = ("dllm_serve", "fast_dllm", "sangam")
# All commit one position a step: a threshold above 0 changes the answers, so that systems with and without one are not
# alike. Of Fast-dLLM both caches.
OPTIONS = {"fast_dllm": {"cache": ["prefix", "dual"], "threshold": [0.0]}, "sangam": {"threshold": [0.0]}}
TOKENS, SEQS = (2048, 4096, 8192, 16384), (256,)
_ONE_POOL = ("--mode", "--engine", "--tp", "--dp", "--kv-cache-dtype")


def diffusion_sections(flags: Mapping[str, Any], gpu: list[str], most: int, counts: list[int]) -> dict[str, Any]:
    """The `deployment` and `search` sections: one GPU a replica, schedulers with their limits, replicas."""
    for name in _ONE_POOL:
        if given := flags[name]:
            raise SpecError("diffusion models are served by one pool, on one GPU a replica", file=COMMAND_LINE,
                            key=name, value=",".join(given) if isinstance(given, list) else given)  # fmt: skip
    names = [flags["--scheduler"]] if flags["--scheduler"] else list(SCHEDULERS)
    space = {
        "gpu": gpu,
        "scheduler": names,
        "scheduler_options": {name: chosen for name, chosen in OPTIONS.items() if name in names},
        "replicas": integers(flags["--replicas"], "--replicas") or counts,
        "router": words(flags["--router"]) or ["least_loaded"],
        "max_num_batched_tokens": integers(flags["--max-num-batched-tokens"], "--max-num-batched-tokens")
        or list(TOKENS),
        "max_num_seqs": integers(flags["--max-num-seqs"], "--max-num-seqs") or list(SEQS),
    }
    if words(flags["--dtype"]):
        space["dtype"] = words(flags["--dtype"])
    return {"deployment": {"gpu": gpu[0], "scheduler": names[0]}, "search": {"space": space, "max_gpus": most,
            "prune": True}}  # fmt: skip
