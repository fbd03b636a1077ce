"""The simulator against queueing theory: one server, formulas and bounds written out."""

import numpy as np
import pytest

from simserve.policies.routers import RoundRobin
from simserve.sim.rng import stream
from simserve.systems.vllm import Vllm
from simserve.testing.builders import load, play
from simserve.testing.toy import ToyCost

SERVICE_NS = 1_000_000
COUNT = 40_000


def waits(utilisation: float, prompts: np.ndarray, cost: ToyCost) -> np.ndarray:
    """Waiting times in ns of Poisson arrivals at a server that takes one request at a time."""
    gaps = stream(11, "arrivals").exponential(SERVICE_NS / utilisation, COUNT)
    rows = [(int(t), int(p), 1) for t, p in zip(np.cumsum(gaps), prompts, strict=True)]
    trace, _ = play(
        load(rows), [Vllm(max_num_batched_tokens=1 << 30, max_num_seqs=1)], RoundRobin(), cost,
        num_gpu_blocks=1 << 22, block_size=1024,
    )  # fmt: skip
    return trace.requests["first_scheduled_ns"] - trace.requests["arrival_ns"]


def half_width(values: np.ndarray) -> float:
    """99 % half width of the mean from 40 batch means (t = 2.708 with 39 degrees of freedom)."""
    means = values[: len(values) // 40 * 40].reshape(40, -1).mean(axis=1)
    return float(2.708 * means.std(ddof=1) / np.sqrt(40))


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_m_d_1_waiting_time(utilisation: float) -> None:
    """Wq = rho S / (2 (1 - rho)) for constant service S."""
    found = waits(utilisation, np.ones(COUNT), ToyCost(base_ns=SERVICE_NS))

    expected = utilisation * SERVICE_NS / (2 * (1 - utilisation))
    assert abs(found.mean() - expected) < half_width(found)


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_m_m_1_waiting_time(utilisation: float) -> None:
    """Wq = rho S / (1 - rho) for exponential service of mean S, made of prompts of that many ns."""
    prompts = np.maximum(1, stream(11, "lengths").exponential(SERVICE_NS, COUNT)).astype(np.int64)
    found = waits(utilisation, prompts, ToyCost(base_ns=0, per_token_ns=1))

    expected = utilisation * SERVICE_NS / (1 - utilisation)
    assert abs(found.mean() - expected) < half_width(found)


def test_the_bound_can_fail() -> None:
    """The M/D/1 wait is not the M/M/1 wait."""
    found = waits(0.6, np.ones(COUNT), ToyCost(base_ns=SERVICE_NS))

    assert abs(found.mean() - 0.6 * SERVICE_NS / 0.4) > half_width(found)


def test_littles_law() -> None:
    """L = lambda W, with L integrated over time from arrivals and finishes."""
    gaps = stream(5, "arrivals").exponential(3_000_000, 3000)
    rows = [(int(t), 200, 20) for t in np.cumsum(gaps)]
    trace, _ = play(load(rows), [Vllm()], RoundRobin(), ToyCost(1_000_000, 2_000, 1), num_gpu_blocks=9000)
    r = trace.requests
    begin, end = int(r["arrival_ns"][0]), int(r["finish_ns"].max())

    times = np.concatenate([r["arrival_ns"], r["finish_ns"]])
    change = np.concatenate([np.ones(3000), -np.ones(3000)])
    order = np.argsort(times, kind="stable")
    present = np.cumsum(change[order])[:-1]
    mean_present = float((present * np.diff(times[order])).sum() / (end - begin))
    rate, time_in_system = 3000 / (end - begin), float((r["finish_ns"] - r["arrival_ns"]).mean())

    assert mean_present == pytest.approx(rate * time_in_system, rel=1e-9)
