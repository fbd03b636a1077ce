"""The answers to `capacity`, `compare` and `sensitivity` as tables for a person at a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simserve.report.terminal import number
from simserve.search.capacity import Capacity
from simserve.search.result import describe_deployment
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.slo import SloSpec


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
