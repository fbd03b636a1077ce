"""Electrical power of the GPUs of a run: board power alone, without host, network and cooling.

    watts = idle + (TDP - idle) x (FLOOR + (1 - FLOOR) x u) in a step,    idle between steps

u = min(1, tokens / ridge) is the share of the peak FLOP/s that a step of so many tokens can use: GEMMs over 16-bit
weights do one FLOP per byte and token, so that the ridge is peak FLOP/s over bandwidth, in tokens, and the same for
8-bit weights at twice the peak. What processes that share a GPU draw above idle adds up, on average to at most its TDP.
[derived]

FLOOR = 0.31: a decode step of one request draws 300 W on an H100 SXM (ML.ENERGY benchmark 3.0, as quoted by the power
model of vLLM semantic-router's fleet-sim), 120 W of it idle, of 580 W [derived]. Idle is what the card draws with an
engine loaded: `idle_watts` of its description, else IDLE_SHARE of the TDP, the median of those that have one [derived].

How far off: the same source says 600 W for 128 requests on H100, where this says 473 (-21 %); 517 W is published for
128 requests on H200 (this: 550, +6 %), 593 to 662 W at full load (this: 700, +6 to +18 %); small models at small
batches were measured at 137 to 300 W on H200 (arXiv:2605.11999), below what this says. Nothing here was fitted to
those; ERROR is the half-width, relative to what is said, of an interval that holds those of large batches [derived].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simserve.sim.trace import Trace
    from simserve.spec.hardware import GpuSpec

FLOOR = 0.31
IDLE_SHARE = 0.18
ERROR = 0.3
_SIXTEEN_BIT = ("bf16", "fp16")


def idle_watts(gpu: GpuSpec) -> float:
    """Watts of a card whose engine waits for requests."""
    return float(gpu.idle_watts) if gpu.idle_watts is not None else IDLE_SHARE * gpu.tdp_watts


def ridge_tokens(gpu: GpuSpec) -> float:
    """Tokens of a step from which on its GEMMs are bound by FLOP/s, not by reading weights."""
    peak = next((gpu.peak_flops[name] for name in _SIXTEEN_BIT if name in gpu.peak_flops), None)
    return float(peak or max(gpu.peak_flops.values())) / gpu.memory_bandwidth_bytes_per_s


def step_watts(gpu: GpuSpec, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Watts of one GPU during steps of so many tokens per rank."""
    idle, used = idle_watts(gpu), np.minimum(1.0, tokens / ridge_tokens(gpu))
    return np.asarray(idle + (gpu.tdp_watts - idle) * (FLOOR + (1.0 - FLOOR) * used), dtype=np.float64)


def mean_watts(
    trace: Trace, gpu: GpuSpec, instances: range, window_ns: tuple[int, int], *, data_parallel_size: int = 1
) -> float:
    """Watts of one GPU of these instances, on average over the window.

    Of a pipeline's steps in flight each keeps one of as many stages busy.
    """
    begin, end = window_ns
    s = trace.steps
    own = (s["instance"] >= instances.start) & (s["instance"] < instances.stop)
    inside = np.clip(np.minimum(s["end_ns"], end) - np.maximum(s["start_ns"], begin), 0, None)[own].astype(np.float64)
    depths = np.array(trace.depths or [1] * len(trace.total_blocks), dtype=np.float64)[s["instance"][own]]
    idle = idle_watts(gpu)
    above = step_watts(gpu, s["tokens"][own] / data_parallel_size) - idle
    return float(idle + (above * inside / depths).sum() / (max(end - begin, 1) * max(len(instances), 1)))


def encoder_watts(trace: Trace, gpu: GpuSpec, encoders: range, window_ns: tuple[int, int]) -> float:
    """Watts above idle of one GPU of each of these encoders together, whose passes are bound by compute."""
    begin, end = window_ns
    names = {f"encoder {index}" for index in encoders}
    which = [index for index, name in enumerate(trace.resources) if name in names]
    own = np.isin(trace.spans["resource"], which)
    start, stop = trace.spans["start_ns"][own], trace.spans["end_ns"][own]
    inside = np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0, None).sum()
    above = step_watts(gpu, np.array([np.inf]))[0] - idle_watts(gpu)
    return float(above * inside / max(end - begin, 1))
