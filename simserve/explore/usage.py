"""How a run used its GPUs: how busy they were, what who waited was waiting for, where the time went.

One dict per pool, JSON-safe; shares are of 0 to 1:

    pool           its name, "" where there is only one
    busy           share of the time from the first arrival to the last finish in which an instance computes
    denoises       of a diffusion model alone, True: steps with prompts are those with refreshes, passes over a whole
                   request, and decode steps are reuses alone
    prompt_steps   share of the busy time in steps with prompt tokens
    running        requests in a step, mean over the busy time
    waits          {seqs|tokens|kv|policy: share of the busy time in which requests wait at the start of a step because
                   max_num_seqs of them run, the step has max_num_batched_tokens, the KV cache is full, or for none of
                   these: the scheduler holds them back, or their KV is on its way}
    kv_full        share of the busy time in which the KV cache is full: at least 90 % of the blocks are taken, or fewer
                   are free than the mean prompt needs
    time           {prompts|decode: {kind: share of the busy time}}, steps with prompts and without; kinds as in
                   `simserve.perf.breakdown.KINDS`; all of them add up to 1
    resources      {resource: share of the busy time} by the roofline, as in `simserve.perf.breakdown.RESOURCES`
    ridge_tokens   tokens of a step below which reading the weights takes longer than computing with them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from simserve.diffusion import denoises, static_batches
from simserve.perf.breakdown import kind_of, resource_of, ridge_tokens

if TYPE_CHECKING:
    from simserve.engines import Engine
    from simserve.run import RunResult
    from simserve.sim.trace import Columns, Trace
    from simserve.spec.deployment import DeploymentSpec
    from simserve.spec.model import ModelSpec

KV_FULL = 0.9


def usage(run: RunResult, model: ModelSpec) -> tuple[dict[str, Any], ...]:
    """The use of each pool; see the module docstring."""
    return tuple(_of_pool(engine, run.trace, model) for engine in run.engines)


def _of_pool(engine: Engine, trace: Trace, model: ModelSpec) -> dict[str, Any]:
    own = (trace.steps["instance"] >= engine.instances.start) & (trace.steps["instance"] < engine.instances.stop)
    steps = {name: column[own] for name, column in trace.steps.items()}
    took = (steps["end_ns"] - steps["start_ns"]).astype(np.float64)
    whole = max(float(took.sum()), 1.0)
    depth = sum(trace.depths[i] if trace.depths else 1 for i in engine.instances)
    arrived = trace.requests["arrival_ns"]
    span = max(trace.end_ns - (int(arrived.min()) if len(arrived) else 0), 1)
    blocks = np.array(trace.total_blocks)[steps["instance"]]
    prompt = _admitted_blocks(engine.deployment, trace) if len(arrived) else 0.0
    full = (steps["used_blocks"] >= KV_FULL * blocks) | (steps["used_blocks"] > blocks - prompt)
    waits = _waits(engine, steps, full, _refresh_tokens(engine.deployment, trace) if len(arrived) else 0.0)
    time, resources, ridge = _where(engine, model)
    return {
        "pool": engine.name,
        **({"denoises": True} if denoises(engine.deployment.scheduler) else {}),
        "busy": round(min(whole / span / depth, 1.0), 4),
        "prompt_steps": round(sum(time["prompts"].values()), 4),
        "running": round(float((steps["running"] * took).sum()) / whole, 2),
        "waits": {name: round(float(took[which].sum()) / whole, 4) for name, which in waits},
        "kv_full": round(float(took[full].sum()) / whole, 4),
        "time": {phase: {kind: round(part, 4) for kind, part in parts.items()} for phase, parts in time.items()},
        "resources": {name: round(part, 4) for name, part in resources.items()},
        "ridge_tokens": round(ridge),
    }


def _admitted_blocks(deployment: DeploymentSpec, trace: Trace) -> float:
    """KV blocks that the mean request needs to be admitted: of its prompt; of a diffusion model all that it holds."""
    prompts, outputs = trace.requests["prompt_tokens"].mean(), trace.requests["output_tokens"].mean()
    if not denoises(deployment.scheduler):
        return float(prompts / deployment.kv_block_tokens)
    from simserve.build import build_scheduler
    from simserve.sim.plan import Denoiser

    scheduler = cast(Denoiser, build_scheduler(deployment))
    return scheduler.slots(round(prompts + outputs)) / scheduler.traits.page_tokens


def _refresh_tokens(deployment: DeploymentSpec, trace: Trace) -> float:
    """Query tokens, less one, of the mean request's refresh, without room for which a step is full; prompts come in
    chunks, and who waits for a static batch waits for its end."""
    if not denoises(deployment.scheduler) or static_batches(deployment.scheduler):
        return 0.0
    return float((trace.requests["prompt_tokens"] + trace.requests["output_tokens"]).mean()) - 1


def _waits(engine: Engine, steps: Columns, full: Any, refresh: float) -> list[tuple[str, Any]]:
    """(reason, which steps), each step with a queue under one reason; refresh: tokens that are not split."""
    own = engine.deployment
    left = steps["waiting"] > 0
    found = []
    for name, which in (
        ("seqs", steps["running"] >= own.max_num_seqs * own.data_parallel_size),
        ("tokens", steps["tokens"] >= own.max_num_batched_tokens * own.data_parallel_size - refresh),
        ("kv", full),
        ("policy", left),
    ):
        found.append((name, left & which))
        left = left & ~which
    return found


def _where(engine: Engine, model: ModelSpec) -> tuple[dict[str, dict[str, float]], dict[str, float], float]:
    """(time by phase and kind, by resource, ridge in tokens of a step) from the sampled steps of a pool."""
    own, inner = engine.deployment, engine.cost.inner
    diffusion = denoises(own.scheduler)
    ranks = own.data_parallel_size * own.prefill_context_parallel_size
    dtypes = {"gemm": own.dtype, "experts": own.moe_dtype or own.dtype}
    ridges = {kind: ridge_tokens(inner.gpu, dtype) for kind, dtype in dtypes.items()}
    of_expert = model.experts.num_experts_per_tok / model.experts.num_experts if model.experts else 1.0
    time: dict[str, dict[str, float]] = {"prompts": {}, "decode": {}}
    resources: dict[str, float] = {}
    for (prefill, decodes, _, sampled), name, price, ns in engine.cost.sampled():
        kind, phase = kind_of(name, price), time["prompts" if _has_prompts(prefill, diffusion) else "decode"]
        tokens = sampled if "lm_head" in name else decodes + sum(chunk for chunk, _ in prefill)
        rows = tokens * of_expert if kind == "experts" else tokens / ranks
        resource = resource_of(kind, rows, ridges.get(kind, 0.0))
        phase[kind] = phase.get(kind, 0.0) + ns
        resources[resource] = resources.get(resource, 0.0) + ns
    whole = sum(resources.values()) or 1.0
    shares = {phase: {kind: ns / whole for kind, ns in sorted(parts.items())} for phase, parts in time.items()}
    return shares, {name: ns / whole for name, ns in sorted(resources.items())}, ridges["gemm"] * ranks


def _has_prompts(prefill: Sequence[tuple[int, int]], diffusion: bool) -> bool:
    """Whether a step has prompt tokens; of a diffusion model, passes that read no cache."""
    return any(cached == 0 for _, cached in prefill) if diffusion else bool(prefill)
