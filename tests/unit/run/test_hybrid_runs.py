"""Whole runs on APEX's boxes: the order of systems, and what a wrong profile may and may not change."""

from typing import Any

import numpy as np
import pytest

from simserve.run import RunResult, simulate
from simserve.sim import laws
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.testing.builders import load

BOXES: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "a10": ("meta-llama--Llama-3.1-8B", {"dtype": "bf16", "num_gpu_blocks": 2000, "max_num_batched_tokens": 4096},
            (1000, 200)),
    "t4": ("meta-llama--Llama-2-7b-hf", {"dtype": "fp16", "num_gpu_blocks": 145, "max_num_batched_tokens": 2048},
           (373, 100)),
}  # fmt: skip
HOSTS = {"a10": ("xeon_gold_6342_x2", 50_000_000_000), "t4": ("xeon_gold_6130_x2", 22_000_000_000)}


def played(gpu: str, scheduler: str, requests: int, options: dict[str, Any] | None = None, **hybrid: Any) -> RunResult:
    """So many requests at once, lengths within 20 %."""
    model, fields, (prompt, output) = BOXES[gpu]
    host, rate = HOSTS[gpu]
    own = {"host": host, "kv_gib": 60, "cpu_attention_bytes_per_s": rate, **hybrid}
    deployment = parse(DeploymentSpec, {
        "gpu": gpu, "scheduler": scheduler, "max_num_seqs": 1024, "engine": "vllm", "hybrid": own,
        "scheduler_options": options or {}, **fields,
    })  # fmt: skip
    spread = np.random.default_rng(0).uniform(0.8, 1.2, (requests, 2))
    rows = [(0, int(a * prompt), int(b * output)) for a, b in spread]
    run = simulate(load_model(model), deployment, load(rows))
    laws.check(run.trace)
    return run


@pytest.mark.parametrize("gpu", BOXES)
def test_systems_come_in_the_published_order(gpu: str) -> None:
    """APEX before NEO before its base mode; all attention on the CPU is slowest (NEO, figure 8, on its GPUs)."""
    runs = {
        "apex": played(gpu, "apex", 300), "neo": played(gpu, "neo", 300),
        "base": played(gpu, "neo", 300, {"always_gpu": True}), "fastdecode": played(gpu, "fastdecode", 300),
    }  # fmt: skip
    ends = {name: run.trace.end_ns for name, run in runs.items()}

    assert sorted(ends, key=lambda name: ends[name]) == ["apex", "neo", "base", "fastdecode"]


def test_a_wrong_profile_changes_decisions_and_not_prices() -> None:
    """The CPU's share changes with the error; a scheduler that asks for no prediction takes as long as before."""
    exact, wrong = (played("a10", "neo", 150, prediction_error=error) for error in (0.0, 0.5))
    unasked = [played("a10", "fastdecode", 60, prediction_error=error).trace.end_ns for error in (0.0, 0.5)]

    assert exact.trace.end_ns != wrong.trace.end_ns
    assert unasked[0] == unasked[1]
