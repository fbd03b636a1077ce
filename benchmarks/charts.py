"""What `speed.py` prints and draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bars import curve, exponent
from rich.console import Console, Group
from rich.table import Table
from scenarios import Row

CURVES = {
    "requests": "one replica, 8 requests/s, 1,024 + 256 tokens",
    "output length": "one replica, 1 request/s, prompts of 512 tokens",
    "replicas": "2,000 requests and 8 requests/s per replica, 1,024 + 256 tokens",
}
WIDTH = 40


def console() -> Console:
    """Wide enough for the tables when the output is not a terminal."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=160)


def line(row: Row) -> str:
    """One scenario, as soon as it is measured."""
    return (f"{row['scenario']:66} {row['wall_s']:7.2f} s {row['requests_per_s']:9,.0f} requests/s "
            f"{row['peak_mb']:6,.0f} MiB")  # fmt: skip


def results(rows: Sequence[Row]) -> Table:
    """All scenarios."""
    table = Table("scenario", title="Speed: one core, imports, reading the load and cost tables not counted")
    for name in ("requests", "wall s", "CPU s", "requests/s", "tokens/s", "events", "steps", "preempted", "MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for r in rows:
        table.add_row(
            r["scenario"], f"{r['requests']:,}", f"{r['wall_s']:.2f}", f"{r['cpu_s']:.2f}",
            f"{r['requests_per_s']:,.0f}", f"{r['tokens_per_s']:,.0f}", f"{r['events']:,}", f"{r['steps']:,}",
            f"{r['preemptions']:,}", f"{r['peak_mb']:,.0f}",
        )  # fmt: skip
    return table


def growth(rows: Sequence[Row], name: str) -> Group:
    """One growth curve as bars of time per request: even bars are linear growth of the whole."""
    points = curve(rows, name)
    slope = exponent(rows, name)
    title = f"{name}: {CURVES[name]}" + ("" if slope is None else f"; exponent of time per request {slope:+.2f}")
    table = Table(name, "µs/request", "", box=None)
    most = max((t for _, t in points), default=1.0)
    for x, t in points:
        table.add_row(f"{x:,}", f"{t * 1e6:,.0f}", "█" * max(1, round(WIDTH * t / most)))
    return Group(f"[bold]{title}[/bold]", table, "")


def bars_table(verdicts: Sequence[Row]) -> Table:
    """Bars, met or missed."""
    table = Table("bar", "measured", "at most", "", title="Bars")
    for v in verdicts:
        measured = "-" if v["measured"] is None else f"{v['measured']:,.3f} {v['unit']}"
        word = {True: "met", False: "[bold]missed[/bold]", None: "not run (--million)"}[v["met"]]
        table.add_row(v["bar"], measured, f"{v['at_most']:,g} {v['unit']}", word)
    return table


def peer_table(pairs: Sequence[Row]) -> Table:
    """The same work in both simulators, and the ratio."""
    table = Table(
        "workload",
        "simulator",
        title="Beside a peer: one replica, the same step costs; ratio of wall times",
        caption="peer: its event loop alone, its metrics and traces off",
    )
    for name in ("requests", "wall s", "requests/s", "steps", "preempted", "mean latency s", "MiB", "ratio"):
        table.add_column(name, justify="right")
    for pair in pairs:
        for key in ("simserve", "peer"):
            r, is_peer = pair[key], key == "peer"
            table.add_row(
                "" if is_peer else pair["scenario"], r["simulator"], f"{pair['requests']:,}", f"{r['wall_s']:.2f}",
                f"{pair['requests'] / r['wall_s']:,.0f}", f"{r['steps']:,}", f"{r['preemptions']:,}",
                f"{r['latency_s']:.3f}", f"{r['peak_mb']:,.0f}", f"{pair['ratio']:.1f}" if is_peer else "1.0",
            )  # fmt: skip
    return table


def write_html(rows: Sequence[Row], path: Path) -> None:
    """Throughput of each scenario, and the growth curves."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, subplot_titles=("requests/s", "µs per request, x over the smallest"))
    figure.add_trace(
        go.Bar(x=[r["requests_per_s"] for r in rows], y=[r["scenario"] for r in rows], orientation="h",
               showlegend=False), row=1, col=1,
    )  # fmt: skip
    for name in CURVES:
        points = curve(rows, name)
        x, y = [p[0] / points[0][0] for p in points], [p[1] * 1e6 for p in points]
        figure.add_trace(go.Scatter(x=x, y=y, name=name, text=[f"{p[0]:,}" for p in points]), row=2, col=1)
    figure.update_xaxes(type="log", row=2, col=1)
    figure.update_yaxes(rangemode="tozero", row=2, col=1)
    figure.update_layout(height=1000, yaxis_automargin=True, yaxis_autorange="reversed")
    figure.write_html(path)
