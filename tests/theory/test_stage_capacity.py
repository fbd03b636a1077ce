"""What EPD-Serve's table 5 implies of an overloaded stage: its capacity from makespan, and from mean TTFT [B2.2].

512 requests at 10 a second on a server with capacity c < 10: they end 512 / c s after the first came, and wait
s0 + (512 / c - 512 / 10) / 2 on average. Two columns of the table agree on c = 8.2 (EP-D) and 9.2 (its E and P side by
side).
"""

from collections.abc import Sequence
from functools import partial

import pytest

from simserve.build import deployment_cost
from simserve.policies.routers import LeastLoaded, RoundRobin
from simserve.sim.handover import Stages
from simserve.sim.images import FeatureStore, Image
from simserve.sim.multimodal_instance import MultimodalInstance
from simserve.sim.staged import StagedCluster
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.spec.stages import Stage
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load
from simserve.testing.toy import ToyCost
from simserve.units import NS_PER_MS, NS_PER_S

REQUESTS, RATE = 512, 10
TOKENS = 677  # an image of 802 x 652 and its question
# (deployment, attainment %, tokens/s per NPU, NPUs, mean TTFT ms) of table 5 [known]
TABLE_5 = {"EP-D": (8.20, 21.54, 2, 5523.82), "(E-P)-D": (26.17, 77.36, 2, 2386.85)}


@pytest.mark.parametrize(("layout", "capacity"), [("EP-D", 8.2), ("(E-P)-D", 9.2)])
def test_two_columns_of_the_table_agree_on_the_capacity(layout: str, capacity: float) -> None:
    """Makespan = good requests x 64 tokens / throughput; TTFT as above with s0 of a quarter of a second."""
    attained, throughput, npus, ttft_ms = TABLE_5[layout]
    makespan_s = attained / 100 * REQUESTS * 64 / (throughput * npus)
    by_ttft_s = 2 * (ttft_ms / 1000 - 0.25) + REQUESTS / RATE

    assert REQUESTS / makespan_s == pytest.approx(capacity, rel=0.01)
    assert REQUESTS / by_ttft_s == pytest.approx(capacity, rel=0.02)


@pytest.mark.parametrize(("tokens", "table_4"), [(1024, 9914), (2048, 9191)])
def test_the_rate_of_prompts_that_table_4_implies(tokens: int, table_4: int) -> None:
    """Tokens/s of Qwen3-VL-8B's prompts in steps of 8,192, without the host; transferred tables, nothing fitted."""
    count = 8192 // tokens
    rates = {}
    for gpu in ("ascend_910b1", "ascend_910b3", "ascend_910b4"):
        deployment = DeploymentSpec(gpu=gpu, engine="vllm_ascend")
        cost = deployment_cost(load_model("Qwen/Qwen3-VL-8B-Instruct"), deployment, load_gpu(gpu))
        kernels_ns = cost.step_ns([(tokens, 0)] * count, 0, 0, count) - cost.profile.host_ns_per_step
        rates[gpu] = 8192 * NS_PER_S / kernels_ns

    assert rates["ascend_910b3"] == pytest.approx(table_4, rel=0.06)
    assert min(rates, key=lambda gpu: abs(rates[gpu] - table_4)) == "ascend_910b3"


@pytest.mark.parametrize("service_ms", [122, 108])
def test_an_overloaded_process_has_that_makespan_and_that_wait(service_ms: int) -> None:
    """60 ms of encoding, and a prompt that takes the rest, in one process: c is 1 / service."""
    encode_ms = 60
    cost = ToyCost(base_ns=(service_ms - encode_ms) * NS_PER_MS)
    cluster = StagedCluster(RoundRobin(), RoundRobin(), LeastLoaded(), stages=Stages(), store=FeatureStore())

    def encode_ns(images: Sequence[Image]) -> int:
        return len(images) * encode_ms * NS_PER_MS

    make = partial(MultimodalInstance, encodes=cluster.encodes_here(encode_ns, always=True), fetches=lambda r: 0)
    scheduler = Vllm(max_num_batched_tokens=TOKENS, max_num_seqs=1)
    instance = cluster.add(scheduler, cost, num_gpu_blocks=10_000, block_size=16, make=make)
    cluster.takes(instance, Stage.PREFILL, Stage.DECODE)
    rows = [(i * NS_PER_S // RATE, TOKENS, 1) for i in range(REQUESTS)]
    trace = cluster.play(load(rows, images=[(Image(i, (1,), TOKENS, 0),) for i in range(REQUESTS)]))

    service_s = service_ms / 1000
    r = trace.requests
    makespan_s = int(r["finish_ns"].max()) / NS_PER_S
    mean_ttft_s = float((r["first_token_ns"] - r["arrival_ns"]).mean()) / NS_PER_S
    assert makespan_s == pytest.approx(REQUESTS * service_s, rel=1e-3)
    assert mean_ttft_s == pytest.approx(service_s + (REQUESTS * service_s - REQUESTS / RATE) / 2, rel=0.02)
