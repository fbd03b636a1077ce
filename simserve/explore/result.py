"""What a search or a simulation found, as data; `simserve.report.document` turns it into JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from simserve.diffusion import denoises
from simserve.explore.feasible import Rejected, reasons
from simserve.explore.objective import NEVER_MS, Outcome, ranked, recommend
from simserve.explore.pareto import AXES, TWO, front
from simserve.explore.quality import shown_options
from simserve.explore.space import uses_host
from simserve.explore.staged_words import staged_layout, staged_words

if TYPE_CHECKING:
    from simserve.explore.objective import Interval
    from simserve.spec.deployment import DeploymentSpec


@dataclass(frozen=True)
class SearchResult:
    """The answer to a study.

    kind: 'search' or 'simulate' (one run, nothing recommended); runs: every simulated configuration, the
    best first; rejected: configurations that cannot exist, some of which only their simulation showed to be impossible;
    configurations: size of the feasible space; complete: every feasible one was simulated; objective: what
    `runs` are ranked by, one of `objective.OBJECTIVES`; pruned: those whose simulation was given up because they were
    sure to miss the SLO.
    """

    kind: Literal["search", "simulate"]
    name: str
    runs: list[Outcome]
    rejected: list[Rejected] = field(default_factory=list)
    configurations: int = 1
    provenance: dict[str, Any] = field(default_factory=dict)
    objective: str = "throughput"
    pruned: list[Rejected] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every feasible configuration was simulated, so that the answer is exact for this workload."""
        return len(self.runs) + len(self.pruned) >= self.configurations

    @property
    def recommended(self) -> Outcome | None:
        """The configuration to run; None when none meets the SLO."""
        return recommend(self.runs, self.objective)[0] if self.kind == "search" else None

    def with_interval(self, interval: Interval) -> SearchResult:
        """The same, the recommended configuration with its prediction interval."""
        best = self.recommended
        return replace(self, runs=[replace(run, interval=interval) if run is best else run for run in self.runs])

    @property
    def ties(self) -> list[Outcome]:
        """Configurations that tie with the recommended one in the objective; throughputs by the intervals over
        replications, or within 1 %."""
        return recommend(self.runs, self.objective)[1] if self.kind == "search" else []

    @property
    def front(self) -> list[Outcome]:
        """Among those that meet the SLO: throughput per GPU against TPOT; for a front cost and energy too."""
        return front(self.runs, self.front_axes)

    @property
    def front_axes(self) -> tuple[str, ...]:
        """Names of what the front weighs, of `pareto.AXES`."""
        return tuple(AXES) if self.objective == "front" else TWO

    @property
    def rejected_reasons(self) -> list[tuple[str, int]]:
        """(reason, number of configurations), the commonest first."""
        return reasons(self.rejected)


def nothing_meets(result: SearchResult) -> str:
    """The one line that says that nothing meets the SLO, or serves all, with the best found and what it misses."""
    best = ranked(result.runs, result.objective)[0]
    scope = "possible configurations" if result.complete else f"of {result.configurations} configurations"
    aim = "meets the SLO" if best.slo else "serves every request"
    return (
        f"no configuration {aim} ({len(result.runs) + len(result.pruned)} {scope} simulated); "
        f"the nearest is {describe(best)}: {missed(best)}"
    )


def missed(best: Outcome) -> str:
    """What a run that does not meet the SLO misses most, in words."""
    if best.misses_on_average and best.replications is not None:
        return f"it keeps the SLO under its own seed, not on average over {len(best.replications.seeds)} seeds"
    worst = max(best.slo, key=lambda s: s.excess, default=None)
    if worst is None or worst.value_ms is None or worst.excess <= 0.0:
        limit = best.deployment.max_model_len
        cause = "do not fit its KV cache" if limit is None else f"exceed its KV cache or its max_model_len of {limit}"
        return f"it turned away {best.turned_away} requests that {cause}"
    reached = "never" if worst.value_ms >= NEVER_MS else f"{worst.value_ms:.4g} ms"
    return f"its P{worst.percentile:g} {worst.name.upper()} is {reached}, the bound {worst.bound_ms:g} ms"


def describe(outcome: Outcome) -> str:
    """A configuration in a few words: '2 x h100_sxm TP1 bf16, 8192 tokens, 256 seqs, round_robin'."""
    return describe_deployment(outcome.deployment)


def describe_deployment(d: DeploymentSpec) -> str:
    """The same of a deployment."""
    if d.stages is not None:
        return staged_words(d)
    if d.system is not None:
        return f"{d.system}: " + "; ".join(f"{name} {_replicas(engine)}" for name, engine in d.engines())
    return _replicas(d)


def layout(d: DeploymentSpec) -> str:
    """Number, type, split and format of the replicas, the scheduler of a diffusion model, the host that keeps KV,
    limits and router left out: '2 x h100_sxm TP1 bf16', '1 x t4 TP1 fp16, apex with 60 GiB of xeon_gold_6130_x2'; of
    stages where they run: 'E-P-D on a100_sxm TP1 bf16'."""
    if d.stages is not None:
        return staged_layout(d)
    return " + ".join(_layout(e) for _, e in d.engines())


def _layout(d: DeploymentSpec) -> str:
    gpu = Path(d.gpu).stem if d.gpu.endswith((".yaml", ".yml")) else d.gpu  # a file of the user's
    text = f"{d.replicas} x {gpu} {d.split} {d.dtype}"
    if denoises(d.scheduler):
        return f"{text}, {d.scheduler}"
    if d.hybrid is None or not uses_host(d.scheduler):
        return text
    return f"{text}, {d.scheduler} with {d.hybrid.kv_gib:g} GiB of {d.hybrid.host}"


def _replicas(d: DeploymentSpec) -> str:
    text = f"{_layout(d)}, {d.max_num_batched_tokens} tokens, {d.max_num_seqs} seqs"
    if d.gpu_memory_utilization is not None:
        text += f", {d.gpu_memory_utilization:g} of memory"
    if denoises(d.scheduler):
        text += "".join(f", {name} {value}" for name, value in shown_options(d).items())
    return f"{text}, {d.router}" if d.replicas > 1 else text


def best_of_layouts(runs: Sequence[Outcome]) -> list[tuple[int, Outcome]]:
    """(place, run) of the best run per `layout`: limits often change next to nothing."""
    best: dict[str, tuple[int, Outcome]] = {}
    for place, run in enumerate(runs):
        best.setdefault(layout(run.deployment), (place, run))
    return list(best.values())
