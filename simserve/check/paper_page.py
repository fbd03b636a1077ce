"""What `simserve reproduce` found: a table at the terminal, and a page with a plot of every sweep."""

from __future__ import annotations

from html import escape

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simserve.check.judge import text
from simserve.check.papers import Reproduced, Row
from simserve.report.figures import COLOURS, DASHES
from simserve.report.page import table

_HEADS = ("quantity", "unit", "published", "ours", "expected", "ours / published", "", "source")


def print_reproduced(console: Console, found: Reproduced) -> None:
    """One row per quantity; under it what could not be worked out, and why."""
    spec = found.paper.spec
    console.print(f"[bold]{spec.name}[/]", Text(spec.paper), soft_wrap=True, highlight=False)
    shown = Table(box=SIMPLE_HEAD)
    for head in _HEADS[:-1]:
        shown.add_column(head, justify="right" if head in _HEADS[2:6] else "left")
    for row in found.rows:
        cells = _cells(row)[:-2]
        shown.add_row(*map(Text, cells), Text(row.verdict.status, style="green" if row.ok else "red"))
    console.print(shown)
    for row in found.rows:
        if row.ours is None:
            console.print(Text(row.verdict.message, style="red"), soft_wrap=True)


def reproduced_html(found: list[Reproduced]) -> str | None:
    """A page that works offline; None without plotly."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return None
    parts, first = [], True
    for one in found:
        spec = one.paper.spec
        parts.append(f"<h2>{escape(spec.name)}</h2><p>{escape(spec.paper)}</p><p>{escape(spec.setting)}</p>")
        unknown = [(u.what, str(u.chosen), u.why) for u in spec.unknown]
        if unknown:
            parts.append(table(("unknown", "chosen", "why"), unknown, sortable=False))
        parts.append(table(_HEADS, [_cells(row) for row in one.rows], sortable=False))
        if spec.sweep is None:
            continue
        figure = go.Figure()
        for place, (run, points) in enumerate(one.series().items()):
            figure.add_scatter(
                x=[x for x, _ in points], y=[y for _, y in points], name=escape(run), mode="lines+markers",
                line={"color": COLOURS[place % len(COLOURS)], "dash": DASHES[place % len(DASHES)]},
            )  # fmt: skip
        figure.update_layout(
            title=escape(spec.sweep.title or spec.name), template="plotly_white", height=420,
            xaxis_title=escape(", ".join(spec.sweep.key)), yaxis_title=escape(spec.sweep.metric),
        )  # fmt: skip
        parts.append(figure.to_html(include_plotlyjs=first, full_html=False))
        first = False
    return f"<!doctype html><meta charset='utf-8'><title>simserve reproduce</title>{''.join(parts)}"


def _cells(row: Row) -> tuple[str, ...]:
    """Texts of _HEADS."""
    q = row.quantity
    ends = q.published if isinstance(q.published, tuple) else (q.published,)
    ratio = f"{row.ours / ends[0]:.3g}" if row.ours is not None and len(ends) == 1 and ends[0] else ""
    low, high = q.expect
    return (
        q.name, q.unit, " to ".join(map(text, ends)), "" if row.ours is None else f"{row.ours:,.4g}",
        f"{low:,.4g} to {high:,.4g}", ratio, row.verdict.status, q.source,
    )  # fmt: skip
