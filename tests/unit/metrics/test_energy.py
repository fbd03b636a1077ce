"""Board power by hand: 100 W idle, 700 W TDP, a ridge of 200 tokens."""

import numpy as np
import pytest

from simserve.metrics.energy import FLOOR, IDLE_SHARE, idle_watts, mean_watts, ridge_tokens, step_watts
from simserve.sim.trace import Trace
from simserve.spec.hardware import GpuSpec, gpu_names, load_gpu

GPU = load_gpu("h100_sxm").model_copy(
    update={"idle_watts": 100, "tdp_watts": 700, "peak_flops": {"bf16": 200_000}, "memory_bandwidth_bytes_per_s": 1000}
)
S = 1_000_000_000
SECONDS = ("start_ns", "end_ns")


def played(rows: list[tuple[int, int, int, int]], instances: int = 1, depths: list[int] | None = None) -> Trace:
    """A trace of (instance, start s, end s, tokens) steps."""
    table = np.array(rows, dtype=np.int64)
    steps = {name: table[:, i] * (S if name in SECONDS else 1)
             for i, name in enumerate(("instance", "start_ns", "end_ns", "tokens"))}  # fmt: skip
    return Trace({}, steps, np.empty(0, dtype=np.int64), [1] * instances, 10 * S, depths=depths or [])


def test_a_step_by_hand() -> None:
    """Floor 0.31: 286 W reading weights, half the ridge 493 W, the TDP from the ridge on."""
    watts = step_watts(GPU, np.array([0.0, 100.0, 200.0, 8192.0]))

    assert ridge_tokens(GPU) == 200.0
    assert watts.tolist() == pytest.approx([286.0, 493.0, 700.0, 700.0])


def test_a_run_by_hand() -> None:
    """2 s at the TDP and 4 s at 493 W of 10 s: (2 x 600 + 4 x 393) / 10 over 100 W idle."""
    trace = played([(0, 0, 2, 200), (0, 3, 7, 100)])

    assert mean_watts(trace, GPU, range(1), (0, 10 * S)) == pytest.approx(100 + 120 + 157.2)


def test_only_the_window_counts() -> None:
    """From 1 s to 5 s: 1 s at the TDP, 2 s at 493 W, 1 s idle."""
    trace = played([(0, 0, 2, 200), (0, 3, 7, 100)])

    assert mean_watts(trace, GPU, range(1), (1 * S, 5 * S)) == pytest.approx(100 + (600 + 2 * 393) / 4)


def test_an_idle_replica_draws_idle_power() -> None:
    """Of two replicas one works all the time at the TDP: (700 + 100) / 2; alone it is 700, the other 100."""
    trace = played([(0, 0, 10, 500)], instances=2)
    whole = (0, 10 * S)

    assert mean_watts(trace, GPU, range(2), whole) == 400.0
    assert [mean_watts(trace, GPU, range(i, i + 1), whole) for i in (0, 1)] == [700.0, 100.0]


def test_stages_of_a_pipeline_share_the_steps_in_flight() -> None:
    """Two steps in flight in two stages all the time is every stage busy all the time."""
    trace = played([(0, 0, 10, 200), (0, 0, 10, 200)], depths=[2])

    assert mean_watts(trace, GPU, range(1), (0, 10 * S)) == 700.0


def test_ranks_of_data_parallel_attention_share_the_tokens() -> None:
    """200 tokens over two groups are 100 each."""
    trace = played([(0, 0, 10, 200)])

    assert mean_watts(trace, GPU, range(1), (0, 10 * S), data_parallel_size=2) == pytest.approx(493.0)


def test_the_published_points_are_as_far_off_as_the_docstring_says() -> None:
    """H100: 300 W for one request (the anchor), 600 W for 128; H200: 517 W for 128."""
    h100, h200 = load_gpu("h100_sxm"), load_gpu("h200_sxm")

    assert float(step_watts(h100, np.array([1.0]))[0]) == pytest.approx(300, rel=0.01)
    assert float(step_watts(h100, np.array([128.0]))[0]) / 600 == pytest.approx(1 - 0.21, abs=0.005)
    assert float(step_watts(h200, np.array([128.0]))[0]) / 517 == pytest.approx(1 + 0.06, abs=0.005)


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_draws_between_idle_and_tdp(name: str) -> None:
    """Also those without a figure of their own, which take the common share."""
    gpu: GpuSpec = load_gpu(name)
    watts = step_watts(gpu, np.arange(0, 10_000, 7, dtype=np.float64))

    assert 0 < idle_watts(gpu) < watts.min() <= watts.max() <= gpu.tdp_watts
    assert (np.diff(watts) >= 0).all()
    assert gpu.idle_watts is not None or idle_watts(gpu) == IDLE_SHARE * gpu.tdp_watts
    assert 0 < FLOOR < 1
