"""From a deployment and a workload to a trace and its metrics: the one place that builds a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from simserve import colocated, diffusion, multimodal, pd_systems, stages
from simserve.build import build_router
from simserve.engines import Engine, add_engine, engines_of
from simserve.errors import Infeasible
from simserve.metrics import Metrics, compute
from simserve.perf.host import EngineProfile
from simserve.perf.uncertainty import Residual, residuals
from simserve.pooled import build_system, resolve_pools
from simserve.sim.cluster import Cluster
from simserve.sim.confidence import Confidence
from simserve.sim.front import FrontEnd
from simserve.sim.plan import Role
from simserve.sim.request import Outcome, Request
from simserve.sim.trace import Trace
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.hardware import load_gpu
from simserve.spec.model import ModelSpec
from simserve.spec.slo import SloSpec
from simserve.units import NS_PER_MS
from simserve.workload.requests import RequestSet

KV_LINK = "kv_link_bandwidth"  # of `simulate(factors)`: of the link over which pools hand KV over


@dataclass(frozen=True)
class RunResult:
    """One simulated deployment: what happened, what it means, and what the numbers rest on."""

    trace: Trace
    metrics: Metrics
    num_gpus: int
    engines: tuple[Engine, ...]

    @cached_property
    def cost_provenance(self) -> dict[str, Any]:
        """Tables behind the numbers of each pool, and the share of the busy time by source over all of them."""
        return _provenance(self.engines, self.trace)

    @property
    def num_gpu_blocks(self) -> int:
        """KV blocks of a replica of the first pool."""
        return self.engines[0].num_gpu_blocks

    @property
    def memory_bytes(self) -> dict[str, int]:
        """Bytes by name on a GPU of the first pool."""
        return self.engines[0].memory_bytes


def simulate(
    model: ModelSpec, deployment: DeploymentSpec, workload: RequestSet, *,
    slo: SloSpec | None = None, leap: bool = True, until_ns: int | None = None, cost_factor: float = 1.0,
    client_side: bool = False, profile: EngineProfile | None = None, factors: Mapping[str, float] | None = None,
    watch: Callable[[Request, Outcome], None] | None = None,
) -> RunResult:  # fmt: skip
    """Play `workload` on `deployment`; Infeasible if it does not fit. cost_factor: every step takes so many times.

    client_side: times are those of a client of the API server, with HTTP and tokenizer (`EngineProfile.api_ns`);
    profile: instead of the deployment's own engine profile; factors: numbers of the profile, or KV_LINK, which are so
    many times what they are; watch: see `Cluster`.
    """
    deployment = resolve_pools(deployment)
    diffusion.check(model, deployment, workload.confidence is not None)
    _check_lengths(model, deployment, workload)
    own = dict(factors or {})
    link_factor = own.pop(KV_LINK, 1.0)
    engines = engines_of(model, deployment, profile, own)
    if workload.shown is not None:
        engines = _with_encoders(model, deployment, engines)
    if deployment.system is None:
        cluster = Cluster(build_router(deployment), snapshot_interval_ns=_snapshot_ns(deployment), leap=leap)
        add_engine(cluster, model, engines[0], cost_factor, _confidence(workload))
    elif deployment.stages is not None:
        cluster = stages.build(model, deployment, engines, cost_factor, link_factor, leap)
    elif colocated.workers(deployment) > 1:
        shown = workload.shown is not None
        cluster = colocated.cluster(deployment, engines[0].cost.inner, cost_factor, images=shown)
        add_engine(cluster, model, engines[0], cost_factor)
    else:
        cluster = pd_systems.build(model, deployment, engines, leap, cost_factor, link_factor)
    if client_side:
        cluster.front = _front_end(engines)
    cluster.watch = watch
    trace = cluster.play(workload, until_ns=until_ns)
    return RunResult(
        trace=trace,
        metrics=compute(
            trace, num_gpus=deployment.num_gpus, slo=slo, classes=workload.classes, class_id=workload.class_id
        ),
        num_gpus=deployment.num_gpus,
        engines=engines,
    )


def _check_lengths(model: ModelSpec, deployment: DeploymentSpec, workload: RequestSet) -> None:
    """Infeasible if max_model_len refuses every request: prompts that leave no token to generate, whole canvases."""
    asked = [own.max_model_len for _, own in deployment.engines() if own.max_model_len is not None]
    if not asked or not len(workload):
        return
    output = workload.output_tokens if model.diffusion else 1  # longer outputs of others are cut
    shortest = int((workload.prompt_tokens + output).min())
    if shortest > min(asked):
        what = "prompt and canvas" if model.diffusion else "prompt and one output token"
        raise Infeasible(f"every request is longer than max_model_len {min(asked)}; the shortest has {shortest} tokens "
                         f"of {what}")  # fmt: skip


def _front_end(engines: Sequence[Engine]) -> FrontEnd:
    profile = engines[0].cost.inner.profile
    between = profile.handover_ns if len(engines) > 1 else 0
    streams = profile.api_ns_per_output_token
    return FrontEnd(profile.api_ns + between, profile.api_ns_per_token, profile.api_ns_per_request, streams)


def _confidence(workload: RequestSet) -> Confidence | None:
    """How sure a diffusion model is of the tokens of its requests; None for other workloads."""
    return None if workload.confidence is None else Confidence(workload.confidence, workload.confidence_seed)


def _with_encoders(
    model: ModelSpec, deployment: DeploymentSpec, engines: Sequence[Engine]
) -> tuple[Engine, ...]:  # fmt: skip
    """The same, with encoders where prompts are computed; Infeasible for what is not modelled with images."""
    multimodal.check(deployment)
    if deployment.stages is not None:
        stages.check(model, deployment)
        return tuple(
            replace(e, encoder=stages.encoder_of(model, e.deployment, e.cost.inner.profile)) for e in engines
        )
    roles = {} if deployment.system is None else {p.name: p.role for p in build_system(deployment).pools()}
    return tuple(
        engine if roles.get(engine.name) is Role.DECODE else replace(engine, encoder=multimodal.encoder(
            model, load_gpu(engine.deployment.gpu), engine.deployment, engine.cost.inner.profile
        ))
        for engine in engines
    )  # fmt: skip


def _snapshot_ns(deployment: DeploymentSpec) -> int:
    return round(deployment.snapshot_interval_ms * NS_PER_MS)


def half_width(run: RunResult) -> float:
    """Relative half-width of the 90 % interval of the run's step times: of each pool, by its share of busy time."""
    busy = [_busy_ns(engine, run.trace) for engine in run.engines]
    parts = [(engine.cost.half_width(), part) for engine, part in zip(run.engines, busy, strict=True) if part]
    return sum(width * part for width, part in parts) / max(sum(busy), 1)


def run_residuals(run: RunResult, width: float) -> dict[str, Residual]:
    """What the calibration says about the run, the wider of two pools; width: its `half_width`.

    Nothing of diffusion models: all calibrations are of models that decode.
    """
    if run.metrics.diffusion is not None:
        return {}
    what_if = any(load_gpu(engine.deployment.gpu).like is not None for engine in run.engines)
    return residuals([engine.cost.inner.profile for engine in run.engines], width, what_if=what_if)


def families(run: RunResult) -> dict[str, tuple[float, float]]:
    """Family of operations -> (share of the busy time of all pools, relative half-width of its 90 % interval)."""
    busy = {engine.name: _busy_ns(engine, run.trace) for engine in run.engines}
    whole, found = max(sum(busy.values()), 1), dict[str, tuple[float, float]]()
    for engine in run.engines:
        for family, (share, width) in engine.cost.families().items() if busy[engine.name] else ():
            part, (known, wide) = share * busy[engine.name] / whole, found.get(family, (0.0, 0.0))
            found[family] = (known + part, (wide * known + width * part) / (known + part))
    return found


def _provenance(engines: Sequence[Engine], trace: Trace) -> dict[str, Any]:
    tables = {engine.name: engine.cost.inner.provenance() for engine in engines}
    for engine in engines:
        if engine.encoder is not None:
            tables[engine.name]["encoder_tables"] = engine.encoder.provenance()
    busy = [_busy_ns(engine, trace) for engine in engines]
    whole, shares = max(sum(busy), 1), dict[str, float]()
    for engine, part in zip(engines, busy, strict=True):
        for source, share in (engine.cost.shares() if part else {}).items():
            shares[source] = round(shares.get(source, 0.0) + share * part / whole, 4)
    return {**tables.get("", {"pools": tables}), "share_of_time_by_source": shares}


def _busy_ns(engine: Engine, trace: Trace) -> int:
    """Time of all steps of a pool's instances."""
    s = trace.steps
    own = (s["instance"] >= engine.instances.start) & (s["instance"] < engine.instances.stop)
    return int((s["end_ns"] - s["start_ns"])[own].sum())
