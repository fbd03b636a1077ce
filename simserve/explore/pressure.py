"""What a run came near to: the bounds of its SLO, and the limits of its replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from simserve.explore.objective import Outcome, steady_window_ns

if TYPE_CHECKING:
    from simserve.engines import Engine
    from simserve.run import RunResult

FULL = 0.95  # of a limit counts as being at it
SLO, RESOURCE, SHARE = "slo", "resource", "share"


@dataclass(frozen=True)
class Gauge:
    """What a run reached, beside the bound that it may run into.

    kind: SLO (a bound in ms), RESOURCE (a limit of a replica: its peak against it) or SHARE (of time, of 1); time_at:
    the share of the busy time spent at it, 95 % of it counting, None for what is no resource.
    """

    name: str
    kind: str
    reached: float
    bound: float
    time_at: float | None = None

    @property
    def nearness(self) -> float:
        """1 at the limit, above it beyond."""
        return self.reached / self.bound


def slo_gauges(outcome: Outcome) -> list[Gauge]:
    """The bounds of the SLO with what the run reached, the nearest first."""
    found = [
        Gauge(f"{s.name.upper()} P{s.percentile:g}", SLO, s.value_ms, s.bound_ms)
        for s in outcome.slo if s.value_ms is not None
    ]  # fmt: skip
    return sorted(found, key=lambda gauge: -gauge.nearness)


def gauges(run: RunResult) -> list[Gauge]:
    """Resources and shares of time of every pool, in the steady part of the run."""
    return [gauge for engine in run.engines for gauge in _of_engine(run, engine)]


def _of_engine(run: RunResult, engine: Engine) -> list[Gauge]:
    s, d = _steps(run, engine), engine.deployment
    at = f" of {engine.name}" if engine.name else ""
    busy = float(s["ns"].sum())
    if not busy:
        return []
    first, last = _window(run)
    depth = run.trace.depths[engine.instances.start] if run.trace.depths else 1
    total, seqs, budget = _sizes(run, engine)
    full = {name: float(s["ns"][there].sum()) / busy for name, there in _full(run, engine, s).items()}
    share = busy / ((last - first) * len(engine.instances) * depth)
    return [
        Gauge(f"KV blocks{at}", RESOURCE, float(s["last_used_blocks"].max()), total, full["KV blocks"]),
        Gauge(f"max_num_seqs{at}", RESOURCE, float(s["running"].max()), seqs, full["max_num_seqs"]),
        Gauge(f"token budget{at}", RESOURCE, float(s["tokens"].max()), budget, full["token budget"]),
        Gauge(f"time in steps{at}", SHARE, min(1.0, share), 1.0),
        _prompts(run, at, float(s["ns"][s["tokens"] > s["running"]].sum()) / busy),
        Gauge(f"of it with requests waiting{at}", SHARE, float(s["ns"][s["waiting"] > 0].sum()) / busy, 1.0),
        Gauge(f"share of {d.max_num_seqs} seqs in use, mean{at}", SHARE,
              float((s["running"] * s["ns"]).sum()) / busy / seqs, 1.0),
    ]  # fmt: skip


def _prompts(run: RunResult, at: str, share: float) -> Gauge:
    """Share of the time in steps with prompts; of a diffusion model, of the query tokens in refreshes."""
    if run.metrics.diffusion is not None:
        return Gauge(f"query tokens that are refreshes{at}", SHARE, run.metrics.diffusion.refresh_tokens, 1.0)
    return Gauge(f"of it in steps with prompts{at}", SHARE, share, 1.0)


def _sizes(run: RunResult, engine: Engine) -> tuple[float, float, float]:
    """KV blocks, running requests and tokens of a step of one replica."""
    ranks = engine.deployment.data_parallel_size
    seqs, budget = engine.deployment.max_num_seqs * ranks, engine.deployment.max_num_batched_tokens * ranks
    return float(engine.num_gpu_blocks), float(seqs), float(budget)


def _full(run: RunResult, engine: Engine, s: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.bool_]]:
    total, seqs, budget = _sizes(run, engine)
    return {"KV blocks": s["last_used_blocks"] >= FULL * total, "max_num_seqs": s["running"] >= seqs,
            "token budget": s["tokens"] >= FULL * budget}  # fmt: skip


def _steps(run: RunResult, engine: Engine) -> dict[str, NDArray[np.int64]]:
    """The steps of one pool, with `ns`: the part of each that lies in the steady window."""
    steps, (first, last) = run.trace.steps, _window(run)
    own = (steps["instance"] >= engine.instances.start) & (steps["instance"] < engine.instances.stop)
    found = {name: column[own] for name, column in steps.items()}
    found["ns"] = np.clip(np.minimum(found["end_ns"], last) - np.maximum(found["start_ns"], first), 0, None)
    inside = found["ns"] > 0
    return {name: column[inside] for name, column in found.items()}


def _window(run: RunResult) -> tuple[int, int]:
    return steady_window_ns(run.trace) or (int(run.trace.requests["arrival_ns"].min()), max(run.trace.end_ns, 1))
