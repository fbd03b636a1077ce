"""A tornado: horizontal bars by factor, in characters for the terminal, as a page where plotly is installed."""

from __future__ import annotations

from html import escape

from simserve.explore.sensitivity import Bar, Moved, Sensitivity
from simserve.report.words import number

LABELS = {"tokens_per_s_per_gpu": "tokens/s/GPU", "ttft_ms": "TTFT at the percentile, ms",
          "tpot_ms": "TPOT at the percentile, ms"}  # fmt: skip
_LOW, _HIGH, _MIDDLE = "▒", "█", "│"


def tornado_lines(found: Sensitivity, metric: str, *, width: int = 41, most: int = 12) -> list[str]:
    """Lines of text: one bar per factor, the widest swing first; left of the middle the metric falls."""
    bars = [bar for bar in found.order(metric) if bar.swing(metric) > 0][:most]
    base = found.base[metric]
    if base is None:
        return [f"{LABELS.get(metric, metric)}: no value"]
    lines = [f"{LABELS.get(metric, metric)}: {number(base.value, 4)}"]
    if not bars:
        return [*lines, "  nothing moves it"]
    half, reach = width // 2, max(abs(d) for bar in bars for d in _values(bar, metric)) or 1.0
    name = max(len(bar.factor.name) for bar in bars)
    for bar in bars:
        cells = [" "] * half + [_MIDDLE] + [" "] * half
        for place, moved in enumerate(bar.ends):
            d = moved.differences[metric]
            length = 0 if d is None else round(abs(d.value) / reach * half)
            spots = range(half + 1, half + 1 + length) if d is not None and d.value > 0 else range(half - length, half)
            for spot in spots:
                cells[spot] = _LOW if place == 0 and len(bar.ends) > 1 else _HIGH
        lines.append(f"  {bar.factor.name:<{name}} {''.join(cells)} {'; '.join(_end(m, metric) for m in bar.ends)}")
    return [*lines, f"  {_LOW} the number lower   {_HIGH} higher, or switched"]


def tornado_html(name: str, found: Sensitivity) -> str | None:
    """A page that works offline, one chart per metric; None without plotly."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        return None
    parts = []
    for index, metric in enumerate(found.metrics):
        base, bars = found.base[metric], [b for b in reversed(found.order(metric)) if b.swing(metric) > 0]
        if base is None or not bars:
            continue
        figure = go.Figure()
        for place, (title, colour) in enumerate((("lower", "#56B4E9"), ("higher, or switched", "#D55E00"))):
            own = [(bar, _at(bar, place)) for bar in bars]
            shown = [(bar, m, d) for bar, m in own if m is not None and (d := m.differences[metric]) is not None]
            figure.add_bar(
                y=[escape(bar.factor.name) for bar, _, _ in shown], x=[d.value for _, _, d in shown], orientation="h",
                name=f"the number {title}", marker={"color": colour}, hoverinfo="text",
                hovertext=[escape(f"{bar.factor.name} {_end(m, metric)} ({bar.factor.basis})") for bar, m, _ in shown],
            )  # fmt: skip
        figure.update_layout(
            title=f"{name}: {LABELS.get(metric, metric)}, {base.value:.4g} as predicted", barmode="overlay",
            template="plotly_white", xaxis_title="difference from the prediction", height=160 + 28 * len(bars),
            yaxis={"categoryorder": "array", "categoryarray": [escape(bar.factor.name) for bar in bars]},
        )  # fmt: skip
        parts.append(figure.to_html(include_plotlyjs=index == 0, full_html=False))
    return f"<!doctype html><meta charset='utf-8'><title>{escape(name)}</title>{''.join(parts)}" if parts else None


def _at(bar: Bar, place: int) -> Moved | None:
    """The lower end, or the higher one; a switch has only the latter."""
    if len(bar.factor.ends) == 1:
        return bar.ends[0] if place == 1 and bar.ends else None
    wanted = bar.factor.ends[place]
    return next((moved for moved in bar.ends if moved.end == wanted), None)


def _values(bar: Bar, metric: str) -> list[float]:
    return [d.value for moved in bar.ends if (d := moved.differences[metric]) is not None]


def _end(moved: Moved, metric: str) -> str:
    """'+10 %: +3.1 (2.9 to 3.3)'."""
    d = moved.differences[metric]
    if d is None:
        return f"{moved.end.what}: never"
    reach = "" if d.low is None or d.high is None else f" +-{_short((d.high - d.low) / 2)}"
    return f"{moved.end.what}: {'+' if d.value > 0 else ''}{_short(d.value)}{reach}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
