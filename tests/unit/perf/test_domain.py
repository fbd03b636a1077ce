"""GPUs of an NVL72 rack: collectives over several nodes of it stay on NVLink."""

import numpy as np

from simserve.perf.collective import measured_all_reduce
from simserve.run import simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import load_model
from simserve.testing.builders import load


def test_a_rack_is_one_domain_and_a_node_of_h100_another() -> None:
    """72 and 8 GPUs."""
    assert [load_gpu(name).domain_gpus for name in ("gb200", "gb300", "h100_sxm")] == [72, 72, 8]


def test_eight_ranks_of_a_rack_are_priced_as_measured_inside_it() -> None:
    """Decoding on two trays is no slower than on one: the all-reduce of 8 ranks is the rack's own table."""
    model, requests = load_model("Qwen/Qwen3-32B"), load([(0, 100, 50)])
    four, eight = (
        simulate(model, DeploymentSpec(gpu="gb300", tensor_parallel_size=tp, async_scheduling=True), requests)
        for tp in (4, 8)
    )
    assert eight.trace.end_ns < 1.05 * four.trace.end_ns
    gpu, size = load_gpu("gb300"), np.array([10_240.0])
    assert measured_all_reduce(gpu, gpu, 8, size).source_at(10_240) != "modelled"
