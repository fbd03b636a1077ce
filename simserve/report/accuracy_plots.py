"""Figures of the accuracy report as plotly's JSON: measured against predicted, errors, what the interval holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Row = Mapping[str, Any]
Pair = tuple[float, float]

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "throughput": "throughput per GPU"}
UNITS = {"ttft": "ms", "tpot": "ms", "e2e": "ms", "throughput": "output tokens/s/GPU"}
BAND = 0.2
INTERVAL = 0.9
_LAYOUT = {
    "template": "plotly_white", "font": {"family": "system-ui, sans-serif", "size": 12},
    "margin": {"l": 64, "r": 16, "t": 40, "b": 52},
}  # fmt: skip


def scatter(metric: str, rows: Sequence[tuple[Row, Pair]]) -> str:
    """Log-log, one point per row of `rows` (point, (predicted, measured)), with y = x and the band around it."""
    import plotly.graph_objects as go

    values = [value for _, pair in rows for value in pair]
    low, high = min(values) / 1.3, max(values) * 1.3
    figure = go.Figure()
    for factor, fill, name in ((1 - BAND, None, ""), (1 + BAND, "tonexty", f"± {BAND:.0%}".replace("%", " %"))):
        figure.add_scatter(x=[low, high], y=[factor * low, factor * high], mode="lines", fill=fill, name=name,
                           line={"width": 0}, fillcolor="rgba(120,120,120,0.18)", hoverinfo="skip",
                           showlegend=bool(name))  # fmt: skip
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line={"color": "#666666", "width": 1},
                       hoverinfo="skip", name="y = x")  # fmt: skip
    for index, framework in enumerate(frameworks(row for row, _ in rows)):
        own = [(row, pair) for row, pair in rows if framework_of(row) == framework]
        figure.add_scatter(
            x=[measured for _, (_, measured) in own], y=[predicted for _, (predicted, _) in own], mode="markers",
            name=escape(framework), text=[hover(metric, row, pair) for row, pair in own], hoverinfo="text",
            marker={"color": COLOURS[index % len(COLOURS)], "size": 6, "opacity": 0.7,
                    "line": {"width": 0.5, "color": "white"}},
        )  # fmt: skip
    axis = {"type": "log", "range": [math.log10(low), math.log10(high)], "minor": {"showgrid": False},
            "dtick": 1 if high / low > 30 else "D2"}  # fmt: skip
    figure.update_layout(
        **_LAYOUT, title={"text": f"{NAMES[metric]}, {UNITS[metric]}", "x": 0.02}, height=440,
        xaxis={**axis, "title": {"text": "measured"}}, yaxis={**axis, "title": {"text": "predicted"}},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "right", "x": 1.0},
    )  # fmt: skip
    figure.update_layout(legend={"y": 0.01, "yanchor": "bottom", "orientation": "v", "xanchor": "right", "x": 0.99,
                                 "bgcolor": "rgba(255,255,255,0.8)"})  # fmt: skip
    return str(figure.to_json())


def error_cdf(errors: Mapping[str, Sequence[float]]) -> str:
    """Share of the points (0 to 1) whose error's size is at most x (1 is 100 %), one curve per metric."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, (metric, found) in enumerate(errors.items()):
        x = sorted(100 * abs(error) for error in found)
        figure.add_scatter(
            x=[0, *x], y=[100 * i / len(x) for i in range(len(x) + 1)], mode="lines", name=NAMES[metric],
            line={"color": COLOURS[index], "width": 2, "shape": "hv"},
            hovertemplate="%{y:.0f} % of points are off by at most %{x:.1f} %<extra>" + NAMES[metric] + "</extra>",
        )  # fmt: skip
    figure.add_vline(x=100 * BAND, line={"color": "#888888", "dash": "dot", "width": 1})
    figure.update_layout(
        **_LAYOUT, height=380, xaxis={"title": {"text": "absolute error, % (the axis ends at 150 %)"},
                                      "range": [0, 150]},
        yaxis={"title": {"text": "points, %"}, "range": [0, 101]},
        legend={"x": 0.99, "xanchor": "right", "y": 0.02, "yanchor": "bottom"},
    )  # fmt: skip
    return str(figure.to_json())


def interval_bars(held: Sequence[Row]) -> str:
    """Share of the measurements within the interval, bars by bucket of half-width, one colour per metric."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, metric in enumerate(NAMES):
        own = [row for row in held if row["metric"] == metric]
        figure.add_bar(
            x=[row["bucket"] for row in own], y=[100 * row["share"] for row in own], name=NAMES[metric],
            marker={"color": COLOURS[index]}, customdata=[row["points"] for row in own],
            hovertemplate="%{y:.0f} % of %{customdata} points<extra>" + NAMES[metric] + "</extra>",
        )  # fmt: skip
    figure.add_hline(y=100 * INTERVAL, line={"color": "#444444", "dash": "dot", "width": 1})
    figure.update_layout(
        **_LAYOUT, height=380, barmode="group", yaxis={"title": {"text": "measurements within, %"}, "range": [0, 101]},
        xaxis={"title": {"text": "interval, + and - so much"}, "type": "category"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return str(figure.to_json())


def frameworks(rows: Any) -> list[str]:
    """The frameworks of all rows, sorted."""
    return sorted({framework_of(row) for row in rows})


def framework_of(row: Row) -> str:
    """A row's framework, 'not stated' where the record names none."""
    return str(row.get("framework") or "not stated")


def hover(metric: str, row: Row, pair: Pair) -> str:
    """What a point says when the pointer is on it."""
    predicted, measured = pair
    about = " ".join(str(row.get(key) or "") for key in ("framework", "version")).strip()
    lines = [
        str(row["model"]), f"{row['gpu']} x {row.get('tensor_parallel_size', 1)}, {row.get('dtype', '')}", about,
        f"concurrency {row['concurrency']}", f"{row['prompt_tokens']:,} + {row['output_tokens']:,} tokens",
        f"measured {measured:,.4g}, predicted {predicted:,.4g} {UNITS[metric]}",
        f"off by {100 * (predicted / measured - 1):+.1f} %",
        str(row.get("id") or ""),
    ]  # fmt: skip
    return "<br>".join(escape(line) for line in lines if line)
