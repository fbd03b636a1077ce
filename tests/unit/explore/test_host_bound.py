"""What the screen thinks of a host: by hand, never below the simulation, and no reason to leave one out."""

from typing import Any

import numpy as np
import pytest

from simserve.errors import Infeasible, SpecError
from simserve.explore.candidates import Candidates, candidates
from simserve.explore.evaluate import evaluate
from simserve.explore.feasible import check
from simserve.explore.host_bound import HostBound, beside_s
from simserve.explore.load import Load
from simserve.explore.runner import Inputs, prepare
from simserve.explore.screen import Curves, _one_pool
from simserve.explore.space import from_study
from simserve.spec.base import parse
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.spec.study import StudySpec
from simserve.testing.toy import ToyCost, ToyLayers

LOAD = Load(1000, float("inf"), None, 90.0, 20.0, 1.0, 0.0, 110, 110)  # a mean context of 100 tokens
MS = 1_000_000
LAYERS = ToyLayers(layers=10, cpu_base_ns=MS, cpu_context_ns=10_000)  # 1 ms and 1 ms for each request of 100 tokens


def test_the_cpus_rate_by_hand() -> None:
    """64 host blocks of 16 tokens hold 10.24 requests, 10 of them 10 / (10 x 11 ms); one 1 / (10 x 2 ms)."""
    bound = HostBound(LAYERS, [DeploymentSpec()], [64], LOAD)

    assert bound.most.tolist() == [10.24]
    assert bound.tokens_per_s(np.array([0.0, 0.5, 1.0, 10.0])) == pytest.approx([0.0, 25.0, 50.0, 1000 / 11])


@pytest.mark.parametrize(("concurrency", "cpu"), [(None, 1000 / 11), (3, 0.0), (6, 1000 * 6 / 70)])
def test_a_replica_with_a_host_by_hand(concurrency: int | None, cpu: float) -> None:
    """25 blocks hold 4 requests: 4 per 10 ms on the GPU and what the CPU adds; prompts cost no more than their 1 ms per
    100 tokens beside decodes. With three in flight the GPU holds all; with six the CPU may have up to all of them.
    """
    load = Load(1000, float("inf"), concurrency, 90.0, 20.0, 1.0, 0.0, 110, 110)
    engine = DeploymentSpec(max_num_seqs=10)
    cost = ToyCost(base_ns=10 * MS, per_token_ns=10_000)
    curves = Curves(cost, [engine], np.array([25.0]), load, HostBound(LAYERS, [engine], [64], load))
    utilisation, *_, per_gpu = _one_pool(curves, np.array([0]), np.array([1.0]), np.array([1.0]), load)

    gpu = min(concurrency or 4, 4)
    on_gpu = gpu / (0.010 + 0.00001 * gpu)
    seconds = (20 + 0.0009 * on_gpu) / (on_gpu + cpu)
    assert per_gpu[0] == pytest.approx(110 / seconds, rel=0.01)
    assert utilisation.shape == (1,)


def test_what_a_prompt_adds_by_hand() -> None:
    """90 tokens in chunks of 32 less 8 decodes: four chunks, each for its tokens alone; from token 40 on 50 of them."""
    cost = ToyCost(base_ns=10 * MS, per_token_ns=10_000)

    assert beside_s(cost, LOAD, 32, 0, 8) == pytest.approx(90 * 1e-5)
    assert beside_s(cost, LOAD, 32, 40, 8) == pytest.approx(50 * 1e-5)
    assert beside_s(cost, LOAD, 8192, 0, 0) == pytest.approx(10e-3 + 90e-5)


T4: dict[str, Any] = {
    "gpu": "t4", "dtype": "fp16", "num_gpu_blocks": 145, "max_num_seqs": 1024, "max_num_batched_tokens": 2048,
    "engine": "vllm", "hybrid": {"host": "xeon_gold_6130_x2", "kv_gib": 64, "cpu_attention_bytes_per_s": 22e9},
}  # fmt: skip
SPACE = {"scheduler": ["vllm", "apex", "neo", "fastdecode"], "hybrid_kv_gib": [8.0, 64.0]}
LOADS: dict[str, dict[str, Any]] = {
    "closed": {"arrivals": {"kind": "closed_loop", "concurrency": 120}, "requests": 240},
    "overload": {"arrivals": {"kind": "poisson", "rate_rps": 3.0}, "requests": 150},
    "light": {"arrivals": {"kind": "poisson", "rate_rps": 0.2}, "requests": 40},
}  # fmt: skip


def asked(load: str, prompt: int, output: int, **search: Any) -> tuple[Inputs, Candidates]:
    """A space of strategies on a T4, screened."""
    study = parse(StudySpec, {
        "name": "s", "model": "meta-llama/Llama-2-7b-hf", "deployment": T4, "search": {"space": SPACE, **search},
        "workload": {**LOADS[load], "prompt_tokens": {"kind": "fixed", "value": prompt},
                     "output_tokens": {"kind": "fixed", "value": output}},
    })  # fmt: skip
    inputs = prepare(study, base_dir=None)
    return inputs, candidates(from_study(study), inputs.model, inputs.load, study.slo)


@pytest.mark.parametrize(
    ("load", "prompt", "output"),
    [("closed", 373, 50), ("closed", 100, 200), ("closed", 1500, 10), ("overload", 373, 50), ("light", 373, 50)],
)
def test_no_strategy_does_better_than_its_bound(load: str, prompt: int, output: int) -> None:
    """Throughput of whole runs; apex, the nearest, comes within a factor of two and a half."""
    inputs, found = asked(load, prompt, output)
    bounds = zip(found.deployments, found.screen.tokens_per_s_per_gpu.tolist(), strict=True)
    ratios = {
        (d.scheduler, d.hybrid.kv_gib if d.hybrid else 0):
            evaluate(inputs.model, d, inputs.workload, None).metrics["total_tokens_per_s_per_gpu"] / bound
        for d, bound in bounds if d.scheduler != "vllm"
    }  # fmt: skip

    assert len(ratios) == 6
    assert all(ratio <= 1.01 for ratio in ratios.values()), ratios
    assert ratios["apex", 64.0] > 0.4


def test_strategies_are_simulated_before_variants_of_one_of_them() -> None:
    """Under overload those with a host come first; the GPU alone, six of whose requests fit, last."""
    _, found = asked("overload", 373, 50)

    assert found.deployments[0].scheduler == "apex"
    assert found.deployments[-1].scheduler == "vllm"
    assert len(set(found.layouts.tolist())) == 7
    assert found.screen.utilisation[0] < 0.6 * found.screen.utilisation[-1]


def test_a_host_that_cannot_be_is_rejected_with_its_reason() -> None:
    """More KV than the host has memory, sliding windows, and no host: before anything is simulated."""
    model = load_model("meta-llama/Llama-2-7b-hf")

    def checked(**fields: Any) -> int:
        return check(model, parse(DeploymentSpec, {**T4, "scheduler": "apex", **fields}))

    assert checked() == 140
    with pytest.raises(Infeasible, match=r"hybrid\.kv_gib 300 is more than xeon_gold_6130_x2 has"):
        checked(hybrid={**T4["hybrid"], "kv_gib": 300})
    with pytest.raises(Infeasible, match="hybrid KV is modelled for models with one kind of attention"):
        check(load_model("openai/gpt-oss-20b"), parse(DeploymentSpec, {**T4, "scheduler": "apex"}))
    with pytest.raises(SpecError, match="apex keeps KV on a host: name one"):
        checked(hybrid=None)
