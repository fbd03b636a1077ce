"""The answers to `capacity`, `compare` and `sensitivity` as tables for a person at a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simserve.explore.capacity import Capacity
from simserve.explore.compare import Comparison, Difference, Played
from simserve.explore.intervals import Mean
from simserve.explore.result import describe_deployment
from simserve.report.words import number
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.slo import SloSpec

LABELS = {
    "tokens_per_s_per_gpu": "tokens/s/GPU", "ttft_ms": "TTFT at the percentile, ms",
    "tpot_ms": "TPOT at the percentile, ms", "e2e_ms.p90": "E2E P90, ms", "usd_per_hour": "USD/h",
    "usd_per_million_tokens": "USD/M tokens", "joules_per_token": "J/token (modelled)",
}  # fmt: skip


def print_capacity(
    console: Console, name: str, deployment: DeploymentSpec, slo: SloSpec | None, found: Capacity
) -> None:
    """One row per seed, then the mean and its interval."""
    console.print(f"[bold]{escape(name)}[/]: {escape(describe_deployment(deployment))}; {_bounds(slo)}")
    table = Table(box=SIMPLE_HEAD)
    for header in ("seed", f"kept at, {found.unit}", "broken at", "what breaks", "runs"):
        table.add_column(header, justify="left" if header == "what breaks" else "right", no_wrap=True)
    for seed, b in found.seeds:
        table.add_row(str(seed), number(b.low, 4), number(b.high, 4), escape(b.broke), str(len(b.tried)))
    console.print(table)
    if found.mean is None:
        return
    m, gpus = found.mean, deployment.num_gpus
    interval = "" if m.low is None else (
        f", {100 * found.confidence:g} % interval {number(m.low, 4)} to {number(m.high, 4)}, {len(found.seeds)} seeds"
    )  # fmt: skip
    console.print(f"[bold green]Capacity[/]: {number(m.value, 4)} {found.unit}{interval}", highlight=False)
    console.print(f"{number(m.value / gpus, 4)} {found.unit} per GPU on {gpus}; each seed's is exact to "
                  f"{100 * found.tolerance:g} %, for as many requests as the study has", highlight=False)  # fmt: skip


def _bounds(slo: SloSpec | None) -> str:
    if slo is None:
        return "no SLO, it must keep up with what arrives"
    named = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    parts = [f"{name} <= {bound:g} ms" for name, bound in named if bound is not None]
    return f"P{slo.percentile:g} of {', '.join(parts)}"


def print_comparison(console: Console, found: Comparison) -> None:
    """One row per deployment and metric: the mean, the difference from the baseline with its interval."""
    base = next(p for p in found.played if p.name == found.baseline)
    console.print(_side_by_side(found, base))
    best = found.best
    if best is None:
        return
    metric = LABELS.get(found.metrics[0], found.metrics[0])
    ties = ", ".join(p.name for p in found.ties)
    tied = f"; near-ties: {escape(ties)}" if ties else ""
    console.print(f"[bold green]Best[/] in {metric}: {escape(best.name)}{tied}")
    requests = "the same requests for all" if found.same_requests else "the same ones for all, requests differ"
    console.print(_seeds(len(base.outcomes), requests, found.confidence), highlight=False)


def _seeds(count: int, requests: str, confidence: float) -> str:
    """What was played, and what a tie is; one seed has no interval, and tells nothing of the luck of its arrivals."""
    if count == 1:
        return (f"1 seed, {requests}, so no interval: a difference may be the luck of these arrivals, as --seeds 5 "
                "would show; = marks one below 1 %")  # fmt: skip
    return (f"{count} seeds, {requests}; = marks a tie: the {100 * confidence:g} % interval of the difference holds "
            "zero, or it is below 1 %")  # fmt: skip


def _side_by_side(found: Comparison, base: Played) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"differences from {escape(base.name)}", title_justify="left")
    table.add_column("")
    for p in found.played:
        table.add_column(escape(p.name), justify="right")
    table.add_row("GPUs", *(str(p.deployment.num_gpus) for p in found.played))
    table.add_row("seeds that keep the SLO", *(f"{p.met} of {len(p.outcomes)}" for p in found.played))
    for metric in found.metrics:
        off = ["" if p is base else _difference_cell(found.difference(p, base, metric)) for p in found.played]
        table.add_row(LABELS.get(metric, metric), *(_mean_cell(found.value(p, metric)) for p in found.played))
        table.add_row("", *off, style="dim")
    return table


def _mean_cell(found: Mean | None) -> str:
    return "-" if found is None else number(found.value, 4)


def _difference_cell(found: Difference | None) -> str:
    """'+12.3 % (+10 to +14)', '=' in front of a tie."""
    if found is None:
        return "-"
    mean, scale = found.mean, found.mean.value / found.relative if found.relative else 0.0
    off = f"{'= ' if found.tie else ''}{_percent(found.relative)} %"
    if mean.low is None or mean.high is None or not scale:
        return off
    return f"{off} ({_percent(mean.low / scale)} to {_percent(mean.high / scale)})"


def _percent(share: float) -> str:
    """With its sign and one decimal; what rounds to nothing is +0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
