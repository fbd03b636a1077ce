"""Simulate one configuration and reduce the run to an Outcome; the unit of work of a parallel search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simserve.explore.objective import (
    DEFAULT_PERCENTILE,
    NEVER_MS,
    Energy,
    Outcome,
    at_percentile,
    latencies_ms,
    slo_values,
    steady_tokens_per_s,
    steady_window_ns,
)
from simserve.explore.usage import usage

if TYPE_CHECKING:
    from simserve.run import RunResult
    from simserve.sim.trace import Trace
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec
    from simserve.spec.slo import SloSpec
    from simserve.workload.requests import RequestSet

_REJECTED = 1
_SECONDS_PER_HOUR = 3600


def evaluate(
    model: ModelSpec, deployment: DeploymentSpec, workload: RequestSet, slo: SloSpec | None, *, prune: bool = False
) -> Outcome:
    """Play `workload` on `deployment`; Infeasible if it cannot exist, Pruned (with `prune`) if it misses its SLO."""
    from simserve.explore.prune import Watch
    from simserve.run import simulate

    watch = Watch(slo, len(workload)) if prune and slo is not None else None
    return reduce(simulate(model, deployment, workload, slo=slo, watch=watch), model, deployment, slo)


def reduce(result: RunResult, model: ModelSpec, deployment: DeploymentSpec, slo: SloSpec | None) -> Outcome:
    """The numbers of a run that the search compares and the report shows."""
    from simserve.spec.hardware import load_gpu

    metrics = result.metrics.to_dict()
    percentile = float(slo.percentile) if slo is not None else DEFAULT_PERCENTILE
    measured = latencies_ms(result.trace)
    tokens_per_s = steady_tokens_per_s(result.trace) or float(metrics["total_tokens_per_s"])
    usd_per_hour = sum(load_gpu(gpu).price_usd_per_hour * count for gpu, count in deployment.gpus)
    million_per_hour = tokens_per_s * _SECONDS_PER_HOUR / 1e6
    return Outcome(
        deployment=deployment,
        num_gpus=deployment.num_gpus,
        num_gpu_blocks=result.num_gpu_blocks,
        tokens_per_s_per_gpu=tokens_per_s / deployment.num_gpus,
        ttft_ms=at_percentile(measured["ttft"], percentile),
        tpot_ms=at_percentile(measured["tpot"], percentile),
        usd_per_hour=usd_per_hour,
        usd_per_million_tokens=usd_per_hour / million_per_hour if million_per_hour > 0 else NEVER_MS,
        slo=slo_values(result.trace, slo),
        turned_away=_turned_away(result.trace, model),
        metrics=metrics,
        sources=dict(result.cost_provenance.get("share_of_time_by_source", {})),
        memory_bytes=dict(result.memory_bytes),
        pools=_pools(result),
        usage=usage(result, model),
        energy=_energy(result, deployment, tokens_per_s),
    )


def _energy(result: RunResult, deployment: DeploymentSpec, tokens_per_s: float) -> Energy | None:
    """Modelled board power over the same window as the throughput; None for a run without a token."""
    from simserve.metrics.energy import ERROR, idle_watts
    from simserve.spec.hardware import load_gpu

    if tokens_per_s <= 0:
        return None
    window = steady_window_ns(result.trace) or (int(result.trace.requests["arrival_ns"].min()), result.trace.end_ns)
    watts, above = _watts_of_other_stages(result, deployment, window), _watts_above_idle(result, deployment, window)
    for place, (name, count) in enumerate(deployment.gpus):
        gpu = load_gpu(name)
        watts += count * min(idle_watts(gpu) + above.get(place, 0.0), gpu.tdp_watts)
    return Energy(watts / result.num_gpus, watts / tokens_per_s, ERROR)


def _watts_above_idle(result: RunResult, deployment: DeploymentSpec, window: tuple[int, int]) -> dict[int, float]:
    """Index in `deployment.gpus` -> watts above idle of one GPU, of all that share it together."""
    from simserve.metrics.energy import encoder_watts, idle_watts, mean_watts
    from simserve.spec.hardware import load_gpu

    found, staged = dict[int, float](), deployment.stages is not None
    for index, engine in enumerate(result.engines):
        gpu, d = engine.cost.inner.gpu, engine.deployment
        place = deployment.process(engine.name).place if staged else index
        busy = mean_watts(result.trace, gpu, engine.instances, window, data_parallel_size=d.data_parallel_size)
        found[place] = found.get(place, 0.0) + (busy - idle_watts(gpu)) * len(engine.instances) / d.replicas
    first = 0
    for placed, d in deployment.encoders() if staged else ():
        above = encoder_watts(result.trace, load_gpu(d.gpu), range(first, first + d.replicas), window)
        found[placed.place] = found.get(placed.place, 0.0) + above / d.replicas
        first += d.replicas
    return found


def _watts_of_other_stages(result: RunResult, deployment: DeploymentSpec, window: tuple[int, int]) -> float:
    """Watts above idle of all GPUs while they do a stage that they did not begin with; then all are of one kind."""
    from simserve.metrics.energy import encoder_watts, idle_watts, mean_watts
    from simserve.spec.hardware import load_gpu

    trace, use = result.trace, result.trace.transfers
    if use is None or not use.switches:
        return 0.0
    gpu, width = load_gpu(deployment.gpus[0][0]), result.engines[0].deployment.tensor_parallel_size
    begun = sum(own.replicas for _, own in deployment.encoders())
    instances = range(max(engine.instances.stop for engine in result.engines), len(trace.total_blocks))
    above = (mean_watts(trace, gpu, instances, window) - idle_watts(gpu)) * len(instances)
    return width * (above + encoder_watts(trace, gpu, range(begun, use.encoders), window))


def _pools(result: RunResult) -> tuple[dict[str, Any], ...]:
    """The pools of a system; none where there is only one."""
    if len(result.engines) == 1:
        return ()
    return tuple(
        {
            "name": engine.name, "gpu": engine.deployment.gpu, "num_gpus": engine.deployment.num_gpus,
            "num_gpu_blocks": engine.num_gpu_blocks, "memory_bytes": engine.memory_bytes,
        }
        for engine in result.engines
    )  # fmt: skip


def _turned_away(trace: Trace, model: ModelSpec) -> int:
    """Rejected requests that the model's own context would hold: the deployment's fault, not the user's."""
    rejected = trace.requests["outcome"] == _REJECTED
    return int((rejected & (trace.requests["prompt_tokens"] < model.max_position_embeddings)).sum())
