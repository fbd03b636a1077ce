"""With measured kernel times, whose decode cost bends with the context, leaps are exact too."""

import numpy as np

from simserve.metrics import compute
from simserve.perf.model import build_cost
from simserve.policies.routers import RoundRobin
from simserve.run import simulate
from simserve.sim import laws
from simserve.sim.rng import stream
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play


def test_leap_is_exact_on_table_costs() -> None:
    """Same requests to the ns; the same steps and ITL percentiles up to the rounding of a stored line."""
    rng = stream(4, "lengths")
    rows = [(i * 400_000_000, int(rng.integers(20, 3000)), int(rng.integers(1, 400))) for i in range(300)]
    cost = build_cost(load_model("meta-llama/Llama-3.1-8B"), load_gpu("h100_sxm"))
    traces = [
        play(load(rows), [Vllm()], RoundRobin(), cost, num_gpu_blocks=9000, leap=leap)[0] for leap in (True, False)
    ]
    steps = [laws.expanded(t.steps) for t in traces]
    itl = [compute(t, num_gpus=1).itl_ms for t in traces]

    laws.check(traces[0])
    assert len(traces[0].steps["steps"]) < len(traces[1].steps["steps"]) / 3
    assert all(np.array_equal(traces[0].requests[k], traces[1].requests[k]) for k in traces[0].requests)
    assert np.abs(steps[0]["duration_ns"] - steps[1]["duration_ns"]).max() <= 4
    assert np.abs(steps[0]["start_ns"] - steps[1]["start_ns"]).max() <= 400
    assert max(abs(getattr(itl[0], p) - getattr(itl[1], p)) for p in ("mean", "p50", "p90", "p99")) < 1e-5


def test_leap_is_exact_on_offline_costs() -> None:
    """Blocks of FlexGen and batches of InstInfer over tiers: the same requests, laws kept, fewer steps stored."""
    rows = [(i * 1_000_000, 20 + 7 * (i % 5), 1 + (i * 13) % 90) for i in range(60)]
    base = {"gpu": "t4", "dtype": "fp16", "max_num_seqs": 8}
    tiers = {"prompt_tokens": 64, "output_tokens": 90}
    model = load_model("facebook/opt-6.7b")
    for own in (
        {"scheduler": "flexgen", "tiers": {**tiers, "host_memory_gib": 64, "disk_gib": 100}},
        {"scheduler": "instinfer", "tiers": {**tiers, "csd": {"count": 2, "sparf": {}}}},
    ):
        deployment = DeploymentSpec.model_validate({**base, **own})
        traces = [simulate(model, deployment, load(rows), leap=leap).trace for leap in (True, False)]

        laws.check(traces[0])
        laws.check(traces[1])
        assert len(traces[0].steps["steps"]) < len(traces[1].steps["steps"]) / 3
        assert all(np.array_equal(traces[0].requests[k], traces[1].requests[k]) for k in traces[0].requests)
