"""Results as rich tables for a person at a terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from simserve.explore.objective import KERNELS, Outcome
from simserve.explore.quality import quality_note
from simserve.explore.result import SearchResult, best_of_layouts, describe, layout
from simserve.report.launch import launch_lines, served_model
from simserve.report.plot import scatter
from simserve.report.words import (
    denoising_line,
    memory_parts,
    missed_names,
    number,
    rests_on,
    scope_line,
    terms,
    ties_line,
)

_LATENCIES = (("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("ITL", "itl_ms"), ("E2E", "e2e_ms"),
              ("queueing", "queueing_ms"))  # fmt: skip
_STATS = ("mean", "p50", "p90", "p95", "p99")
_CLASS_STATS = (("ttft_ms", "p50"), ("ttft_ms", "p90"), ("tpot_ms", "p50"), ("tpot_ms", "p90"), ("e2e_ms", "p90"))
_RANGED = (("ttft", "TTFT mean", "ttft_ms.mean", "ms"), ("ttft", "P90", "ttft_ms.p90", "ms"),
           ("tpot", "TPOT mean", "tpot_ms.mean", "ms"), ("tpot", "P90", "tpot_ms.p90", "ms"),
           ("tpot", "E2E mean", "e2e_ms.mean", "ms"),
           ("tpot", "", "output_tokens_per_s", "output tokens/s"))  # fmt: skip
_LIMITS = ("tokens /step", "seqs", "router")
_WIDE = 110  # columns of a terminal that has room for the limits of every row
_SOURCES = ("measured", "interpolated", "transferred", "modelled")


def print_search(console: Console, result: SearchResult, *, top: int = 10) -> None:
    """Top-k table, Pareto scatter, recommendation with its launch commands and what its numbers rest on."""
    console.print(_top_table(console, result, top))
    for line in scatter(result):
        console.print(escape(line), highlight=False)
    _print_rejected(console, result)
    if stopped := result.provenance.get("execution", {}).get("stopped"):
        console.print(f"stopped {stopped}; --resume with a longer one goes on", highlight=False)
    if result.objective == "front":
        _print_front(console, result)
    chosen = result.recommended
    if chosen is None:
        return
    console.print()
    console.print(f"[bold green]Recommended[/]: {escape(describe(chosen))}")
    if ties := ties_line(result):
        console.print(f"  {ties}", highlight=False)
    _print_run(console, chosen)
    print_launch(console, result, chosen)


def print_simulation(console: Console, result: SearchResult) -> None:
    """All metrics of one run."""
    run = result.runs[0]
    console.print(f"[bold]{escape(result.name)}[/]: {escape(describe(run))}")
    _print_run(console, run)


def _print_run(console: Console, run: Outcome) -> None:
    """Everything about one run but its name; what its latencies mean, and what nobody judged, where that is unusual."""
    if note := quality_note(run.deployment):
        console.print(f"  {note}", highlight=False)
    console.print(_metrics_table(run))
    if meaning := terms(run).latencies:
        console.print(meaning, highlight=False)
    _print_interval(console, run)
    _print_classes(console, run)
    _print_facts(console, run)


def print_launch(console: Console, result: SearchResult, run: Outcome) -> None:
    """The launch commands, one unbroken line each, so that they can be copied."""
    lines = launch_lines(served_model(result.provenance), run)
    console.print("[bold]Launch[/]:")
    for line in lines:
        console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)


def _top_table(console: Console, result: SearchResult, top: int) -> Table:
    title = f"{result.name}: {scope_line(result)}"
    percentile = result.runs[0].slo[0].percentile if result.runs[0].slo else 90.0
    caption = "the best run of each layout; * on the Pareto front; all runs in runs.csv"
    wide = console.width >= _WIDE
    table = Table(title=escape(title), caption=caption, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column("configuration", no_wrap=True)
    for header in _LIMITS if wide else ():
        table.add_column(header, justify="right", no_wrap=header == "router")
    for header in ("tokens/s /GPU", f"TTFT P{percentile:g} ms", f"TPOT P{percentile:g} ms", "USD/M tokens"):
        table.add_column(header, justify="right")
    table.add_column("SLO")
    front = {id(r) for r in result.front}
    for index, run in best_of_layouts(result.runs)[:top]:
        table.add_row(f"{index + 1}{'*' if id(run) in front else ''}", *_top_cells(run, wide))
    return table


def _print_front(console: Console, result: SearchResult) -> None:
    """Every run that no other beats in all four axes."""
    table = Table(title="Pareto front", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("configuration", no_wrap=True)
    for header in ("tokens/s /GPU", "tokens/s /user", "USD/M tokens", "J/token", "W/GPU"):
        table.add_column(header, justify="right")
    for run in result.front:
        energy = (run.energy.joules_per_token, run.energy.watts_per_gpu) if run.energy else (None, None)
        numbers = (run.tokens_per_s_per_gpu, run.tokens_per_s_per_user, run.usd_per_million_tokens, *energy)
        table.add_row(escape(describe(run)), *(number(value, 4) for value in numbers))
    console.print(table)


def _top_cells(run: Outcome, wide: bool) -> list[str]:
    engines = [engine for _, engine in run.deployment.engines()]
    routers = [engine.router if engine.replicas > 1 else "-" for engine in engines]
    columns = ([e.max_num_batched_tokens for e in engines], [e.max_num_seqs for e in engines], routers)
    limits = [" + ".join(dict.fromkeys(map(str, column))) for column in columns] if wide else []
    return [
        escape(layout(run.deployment)),
        *limits,
        number(run.tokens_per_s_per_gpu, 4),
        number(run.ttft_ms),
        number(run.tpot_ms),
        number(run.usd_per_million_tokens),
        "[green]met[/]" if run.meets_slo else f"[red]{', '.join(missed_names(run))}[/]",
    ]


def _metrics_table(run: Outcome) -> Table:
    table = Table(show_edge=False, box=SIMPLE_HEAD)
    table.add_column("ms")
    for stat in _STATS:
        table.add_column(stat, justify="right")
    bounds = [s.name for s in run.slo]
    if bounds:
        table.add_column("SLO", justify="right")
    for title, key in _LATENCIES:
        stats: dict[str, Any] = run.metrics.get(key) or {}
        row = [title, *(number(stats.get(stat)) for stat in _STATS)]
        if bounds:
            row.append(_bound(run, key))
        table.add_row(*row)
    return table


def _bound(run: Outcome, key: str) -> str:
    for value in run.slo:
        if key == f"{value.name}_ms" and value.value_ms is None:
            return f"- (bound {value.bound_ms:g})"
        if key == f"{value.name}_ms":
            sign, colour = ("<=", "green") if value.excess <= 0.0 else (">", "red")
            return f"[{colour}]P{value.percentile:g} {number(value.value_ms)} {sign} {value.bound_ms:g}[/]"
    return ""


def _print_facts(console: Console, run: Outcome) -> None:
    m = run.metrics
    console.print(
        f"{number(m.get('request_throughput_rps'))} requests/s, "
        f"{number(m.get('output_tokens_per_s'), 4)} output tokens/s, "
        f"{number(run.tokens_per_s_per_gpu, 4)} tokens/s/GPU, "
        f"goodput {number(m.get('goodput_rps'))} requests/s",
        highlight=False,
    )
    console.print(
        f"{run.usd_per_hour:.2f} USD/h, {number(run.usd_per_million_tokens)} USD per million tokens; "
        f"{run.num_gpus} GPU{'s' if run.num_gpus > 1 else ''}, {_blocks(run)} {terms(run).slots} per replica, "
        f"{m.get('preemptions', 0)} preemptions",
        highlight=False,
    )
    if run.energy is not None:
        console.print(
            f"{number(run.energy.watts_per_gpu)} W per GPU, {number(run.energy.joules_per_token)} J per token "
            f"(board power, modelled, +-{100 * run.energy.error:.0f} %)", highlight=False,
        )  # fmt: skip
    if denoising := denoising_line(run):
        console.print(denoising, highlight=False)
    _print_memory(console, run)
    if run.sources:
        parts = ", ".join(f"{100 * run.sources[s]:.0f} % {s}" for s in _SOURCES if run.sources.get(s))
        console.print(f"kernel numbers: {parts} (share of the busy time)", highlight=False)


def _print_memory(console: Console, run: Outcome) -> None:
    """How full it was, and what lies in it."""
    m, held = run.metrics, terms(run).held
    if m.get("kv_occupancy_mean") is not None:
        mean, peak = (100 * float(m.get(f"kv_occupancy_{stat}") or 0.0) for stat in ("mean", "peak"))
        console.print(f"{held} in use: {number(mean)} % on average, {number(peak)} % at the peak", highlight=False)
    for pool in run.pools or ({"name": "", "memory_bytes": run.memory_bytes},):
        if parts := memory_parts(pool["memory_bytes"]):
            console.print(f"memory per {pool['name']} GPU: {parts}".replace("  ", " "), highlight=False)


def _blocks(run: Outcome) -> str:
    """KV blocks, or slots, per replica, by pool if there are several."""
    return " / ".join(f"{p['num_gpu_blocks']} ({p['name']})" for p in run.pools) or str(run.num_gpu_blocks)


def _print_interval(console: Console, run: Outcome) -> None:
    """How far off the main numbers may be: a line for each thing that says so."""
    if run.interval is None:
        return
    by_source: dict[str, list[str]] = {}
    for metric, title, name, unit in _RANGED:
        low, high = run.interval.ranges.get(name, (None, None))
        if low is not None:
            source = rests_on(run.interval.sources.get(metric, KERNELS), run.interval.half_width)
            by_source.setdefault(source, []).append(f"{title} {number(low)} to {number(high)} {unit}".strip())
    for source, parts in by_source.items():
        console.print(f"90 % interval by {escape(source)}: {', '.join(parts)}", highlight=False)


def _print_classes(console: Console, run: Outcome) -> None:
    """One row per class of requests, against its own SLO."""
    classes: dict[str, Any] = run.metrics.get("classes") or {}
    if not classes:
        return
    table = Table(show_edge=False, box=SIMPLE_HEAD)
    table.add_column("class")
    latencies = ("TTFT\np50 ms", "\np90", "TPOT\np50 ms", "\np90", "E2E\np90")
    for header in ("requests", *latencies, "goodput\n/s", "SLO\n% met"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, m in classes.items():
        cells = [number(m[key].get(stat)) for key, stat in _CLASS_STATS]
        met = None if m["slo_attainment"] is None else 100 * m["slo_attainment"]
        table.add_row(escape(name), f"{m['requests']:,}", *cells, number(m["goodput_rps"]), number(met))
    console.print(table)


def _print_rejected(console: Console, result: SearchResult) -> None:
    reasons = result.rejected_reasons
    for reason, count in reasons[:3]:
        console.print(f"[dim]not possible, {count} configurations: {escape(reason)}[/]", highlight=False)
    if len(reasons) > 3:
        rest = sum(count for _, count in reasons[3:])
        console.print(f"[dim]not possible for {len(reasons) - 3} other reasons: {rest}[/]", highlight=False)
