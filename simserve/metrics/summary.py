"""The metrics of one run; definitions in `simserve.metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simserve.errors import SpecError
from simserve.metrics.diffusion import DiffusionMetrics, diffusion_metrics
from simserve.metrics.hybrid import HybridMetrics, hybrid_metrics
from simserve.metrics.stages import StageMetrics, stage_metrics
from simserve.metrics.stats import Stats, stats, weighted_stats
from simserve.sim.laws import step_durations_ns
from simserve.sim.request import Outcome
from simserve.sim.trace import Trace
from simserve.spec.slo import SloSpec
from simserve.spec.workload import ClassSpec
from simserve.units import NS_PER_MS, NS_PER_S

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class of requests, against its own SLO, or the common one if it has none."""

    requests: int
    finished: int
    ttft_ms: Stats
    tpot_ms: Stats
    e2e_ms: Stats
    goodput_rps: float | None
    slo_attainment: float | None


@dataclass(frozen=True)
class Metrics:
    """All metrics of one run; see the package docstring. `*_ms` are Stats, counts are requests.

    classes: the same by class of request, None for a workload without classes; hybrid: None without a host; diffusion:
    None for models that decode token by token; stages: None without `DeploymentSpec.stages`.
    """

    duration_s: float
    num_gpus: int
    requests: int
    finished: int
    rejected: int
    unfinished: int
    truncated: int
    request_throughput_rps: float
    middle_throughput_rps: float | None
    output_tokens_per_s: float
    total_tokens_per_s: float
    output_tokens_per_s_per_gpu: float
    total_tokens_per_s_per_gpu: float
    ttft_ms: Stats
    tpot_ms: Stats
    itl_ms: Stats
    e2e_ms: Stats
    normalized_latency_ms: Stats
    queueing_ms: Stats
    goodput_rps: float | None
    slo_attainment: float | None
    slo_met: dict[str, bool] | None
    kv_occupancy_mean: float
    kv_occupancy_peak: float
    preemptions: int
    prefix_hit_rate: float
    classes: dict[str, ClassMetrics] | None = None
    hybrid: HybridMetrics | None = None
    diffusion: DiffusionMetrics | None = None
    stages: StageMetrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, None where there is no value; the last four only if there are any."""
        values = asdict(self)
        for name in ("classes", "hybrid", "diffusion", "stages"):
            if values[name] is None:
                del values[name]
        return values


def compute(
    trace: Trace, *, num_gpus: int, slo: SloSpec | None = None, warmup_fraction: float = 0.0,
    classes: Sequence[ClassSpec] | None = None, class_id: NDArray[np.int64] | None = None,
) -> Metrics:  # fmt: skip
    """Metrics of a trace; class_id: for each request of the workload the index of its class.

    warmup_fraction: the first so many of the requests, in order of id, are left out of latencies, attainment and
    slo_met; they still count for throughput, goodput and ITL, whose gaps have no owner. SpecError outside [0, 1).
    """
    if not 0 <= warmup_fraction < 1:
        raise SpecError("must be at least 0 and below 1", key="warmup_fraction", value=warmup_fraction)
    r = trace.requests
    finished = r["outcome"] == Outcome.FINISHED
    counted = np.arange(len(finished)) >= int(warmup_fraction * len(finished))
    late = latencies_ms(trace)
    done = finished & counted
    many = done & (r["output_tokens"] > 1)
    duration_s = _duration_s(trace, finished)
    output = int(r["output_tokens"][finished].sum())
    total = output + int(r["prompt_tokens"][finished].sum())
    good = None if slo is None else _meets(late, r["output_tokens"], slo) & finished
    mean, peak = _kv_occupancy(trace)
    e2e_ms = stats(late["e2e"][done])
    return Metrics(
        duration_s=duration_s, num_gpus=num_gpus, requests=len(finished), finished=int(finished.sum()),
        rejected=int((r["outcome"] == Outcome.REJECTED).sum()),
        unfinished=int((r["outcome"] == Outcome.UNFINISHED).sum()), truncated=trace.truncated,
        request_throughput_rps=int(finished.sum()) / duration_s,
        middle_throughput_rps=_middle_rps(r["finish_ns"][finished]),
        output_tokens_per_s=output / duration_s, total_tokens_per_s=total / duration_s,
        output_tokens_per_s_per_gpu=output / duration_s / num_gpus,
        total_tokens_per_s_per_gpu=total / duration_s / num_gpus,
        ttft_ms=stats(late["ttft"][done]), tpot_ms=stats(late["tpot"][many]),
        itl_ms=weighted_stats(*token_gaps_ms(trace)), e2e_ms=e2e_ms,
        normalized_latency_ms=stats(late["e2e"][done] / r["output_tokens"][done]),
        queueing_ms=stats(late["queueing"][done]),
        goodput_rps=None if good is None else int(good.sum()) / duration_s,
        slo_attainment=None if good is None else int((good & counted).sum()) / max(int(counted.sum()), 1),
        slo_met=None if slo is None else _slo_met(late, r["output_tokens"], finished, counted, slo),
        kv_occupancy_mean=mean, kv_occupancy_peak=peak, preemptions=int(r["preemptions"].sum()),
        prefix_hit_rate=float(r["cached_tokens"].sum() / max(int(r["prompt_tokens"].sum()), 1)),
        classes=None if classes is None or class_id is None else {
            c.name: _of_class(trace, late, class_id[r["id"]] == i, counted, duration_s, c.slo or slo)
            for i, c in enumerate(classes)
        },
        hybrid=hybrid_metrics(trace.hosts), diffusion=diffusion_metrics(trace.denoising, e2e_ms),
        stages=stage_metrics(trace.transfers),
    )  # fmt: skip


def _of_class(
    trace: Trace, late: dict[str, Floats], mine: Bools, counted: Bools, duration_s: float, slo: SloSpec | None
) -> ClassMetrics:
    """The metrics of the requests `mine`; those that are not `counted` only add to the goodput."""
    output, finished = trace.requests["output_tokens"], trace.requests["outcome"] == Outcome.FINISHED
    good = None if slo is None else _meets(late, output, slo) & mine & finished
    mine = mine & counted
    done = mine & finished
    return ClassMetrics(
        requests=int(mine.sum()), finished=int(done.sum()), ttft_ms=stats(late["ttft"][done]),
        tpot_ms=stats(late["tpot"][done & (output > 1)]), e2e_ms=stats(late["e2e"][done]),
        goodput_rps=None if good is None else int(good.sum()) / duration_s,
        slo_attainment=None if good is None else int((good & mine).sum()) / max(int(mine.sum()), 1),
    )  # fmt: skip


def attainment(trace: Trace, slo: SloSpec, factors: Mapping[str, float]) -> float:
    """SLO attainment were every request's ttft, tpot and e2e so many times as long."""
    r = trace.requests
    late = {name: values * factors.get(name, 1.0) for name, values in latencies_ms(trace).items()}
    good = _meets(late, r["output_tokens"], slo) & (r["outcome"] == Outcome.FINISHED)
    return int(good.sum()) / max(len(good), 1)


def latencies_ms(trace: Trace) -> dict[str, Floats]:
    """Per request; meaningless where the request did not get that far."""
    r = trace.requests
    after_first = np.maximum(r["output_tokens"] - 1, 1)
    return {
        "ttft": (r["first_token_ns"] - r["arrival_ns"]) / NS_PER_MS,
        "tpot": (r["finish_ns"] - r["first_token_ns"]) / after_first / NS_PER_MS,
        "e2e": (r["finish_ns"] - r["arrival_ns"]) / NS_PER_MS,
        "queueing": (r["first_scheduled_ns"] - r["arrival_ns"]) / NS_PER_MS,
    }


def _slo_met(
    late: dict[str, Floats], output_tokens: NDArray[np.int64], finished: Bools, counted: Bools, slo: SloSpec
) -> dict[str, bool]:
    """For each bound whether it holds at the SLO's percentile; what never finished is infinitely late."""
    met: dict[str, bool] = {}
    for name, bound in (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms)):
        if bound is not None:
            has_one = counted & ((output_tokens > 1) | ~finished) if name == "tpot" else counted
            values = np.where(finished, late[name], np.inf)[has_one]
            ordered = np.percentile(values, slo.percentile, method="inverted_cdf") if len(values) else 0.0
            met[name] = bool(ordered <= bound)
    return met


def _meets(late: dict[str, Floats], output_tokens: NDArray[np.int64], slo: SloSpec) -> NDArray[np.bool_]:
    """Which requests keep every bound."""
    good = np.ones(len(output_tokens), dtype=np.bool_)
    for name, bound in (("ttft", slo.ttft_ms), ("tpot", slo.tpot_ms), ("e2e", slo.e2e_ms)):
        if bound is not None:
            free = (output_tokens == 1) if name == "tpot" else np.zeros(len(good), dtype=np.bool_)
            good &= free | (late[name] <= bound)
    return good


def _duration_s(trace: Trace, finished: NDArray[np.bool_]) -> float:
    """First arrival to last finish, at least 1 ns; to the end of the trace if nothing finished."""
    arrivals = trace.requests["arrival_ns"]
    begin = int(arrivals.min()) if len(arrivals) else 0
    end = int(trace.requests["finish_ns"].max()) if finished.any() else trace.end_ns
    return max(end - begin, 1) / NS_PER_S


def _middle_rps(finish_ns: NDArray[np.int64]) -> float | None:
    """Requests that finish between 30 and 70 % of all, per second; None where no time lies between."""
    first, last = int(0.3 * len(finish_ns)), int(0.7 * len(finish_ns))
    if last <= first:
        return None
    begin, end = np.partition(finish_ns, (first, last))[[first, last]].tolist()
    return (last - first) / (end - begin) * NS_PER_S if end > begin else None


def token_gaps_ms(trace: Trace) -> tuple[Floats, NDArray[np.int64]]:
    """(gaps between tokens in ms, how many each stands for): steps by their regular tokens, then the others."""
    weights = np.repeat(trace.steps["decode_tokens"], trace.steps["steps"])
    values = np.concatenate([step_durations_ns(trace.steps), trace.itl_gaps_ns]) / NS_PER_MS
    return values, np.concatenate([weights, np.ones(len(trace.itl_gaps_ns), dtype=np.int64)])


def _kv_occupancy(trace: Trace) -> tuple[float, float]:
    """Time-weighted mean over busy time, and peak, of used / total blocks; inside a row they grow on a line."""
    s = trace.steps
    if len(s["start_ns"]) == 0:
        return 0.0, 0.0
    total = np.array(trace.total_blocks, dtype=np.int64)[s["instance"]]
    first, last = s["used_blocks"] / total, s["last_used_blocks"] / total
    busy = (s["end_ns"] - s["start_ns"]).astype(np.float64)
    return float(((first + last) / 2 * busy).sum() / busy.sum()), float(max(first.max(), last.max()))
