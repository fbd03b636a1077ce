"""Two kinds of SVG, drawn in the colours of the page, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

ROW, LABEL, WIDTH = 30, 165, 480
COLOURS = ("var(--series-1)", "var(--series-2)")


def bars(title: str, groups: Sequence[tuple[str, Sequence[float]]], names: Sequence[str], most: float) -> str:
    """Horizontal bars, a group a row; longer ones are cut at `most` and say their number."""
    height = 66 + ROW * len(groups)
    scale = (WIDTH - LABEL - 40) / most
    parts = [_open(title, height), _text(0, 14, title)]
    for index, name in enumerate(names):
        x = LABEL + 90 * index
        parts.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{COLOURS[index]}"/>')
        parts.append(_text(x + 16, 35, name))
    for row, (label, values) in enumerate(groups):
        y = 52 + ROW * row
        parts.append(_text(LABEL - 8, y + 15, label, "end"))
        for index, value in enumerate(values):
            width = max(1.0, min(value, most) * scale)
            parts.append(f'<rect x="{LABEL}" y="{y + 11 * index}" width="{width:.1f}" height="9" rx="2" '
                         f'fill="{COLOURS[index]}"/>')  # fmt: skip
            parts.append(_text(LABEL + width + 5, y + 8.5 + 11 * index, f"{value:.1f}", small=True))
    return _close(parts)


def histogram(title: str, counts: Sequence[int], edges: Sequence[float], labels: Mapping[float, str]) -> str:
    """Columns between edges; labels: where the axis has words."""
    height, base, left = 190, 150, 20
    step = (WIDTH - 2 * left) / len(counts)
    tallest = max(counts) or 1
    parts = [_open(title, height), _text(left, 16, f"{title} ({sum(counts)} points)")]
    for index, count in enumerate(counts):
        tall = 118 * count / tallest
        parts.append(f'<rect x="{left + index * step + 1:.1f}" y="{base - tall:.1f}" width="{step - 2:.1f}" '
                     f'height="{tall:.1f}" fill="{COLOURS[0]}"/>')  # fmt: skip
    for value, label in labels.items():
        x = left + (value - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - 2 * left)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="28" y2="{base + 6}" stroke="currentColor" '
                     'stroke-dasharray="3 3" opacity="0.5"/>')  # fmt: skip
        parts.append(_text(x, base + 22, label, "middle"))
    return _close(parts)


def scatter(title: str, points: Sequence[tuple[float, float, str, str]], axes: tuple[str, str]) -> str:
    """Points (x, y, class of CSS, name shown on hovering) from zero on; the later ones lie above."""
    height, left, base = 300, 52, 250
    widest, tallest = (_round(max(point[i] for point in points)) for i in (0, 1))
    across, up = (WIDTH - left - 20) / widest, (base - 30) / tallest
    parts = [_open(title, height), _text(left, 18, axes[1]), _text(WIDTH - 20, base + 40, axes[0], "end")]
    for share in (0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + share * widest * across, base - share * tallest * up
        parts.append(
            f'<line x1="{left}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity="0.15"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{share * tallest:,.0f}", "end"))
        parts.append(_text(x, base + 20, f"{share * widest:,.0f}", "middle"))
    for x, y, kind, name in points:
        parts.append(f'<circle class="{kind}" cx="{left + x * across:.1f}" cy="{base - y * up:.1f}" r="5">'
                     f"<title>{escape(name)}</title></circle>")  # fmt: skip
        if kind == "best":
            parts.append(_text(left + x * across - 9, base - y * up + 22, name, "end"))
    return _close(parts)


def _round(most: float) -> float:
    """The least number that four even steps of 1, 2, 2.5 or 5 times a power of ten reach `most` with."""
    power = 10 ** math.floor(math.log10(most / 4))
    return float(4 * power * next(step for step in (1, 2, 2.5, 5, 10) if 4 * step * power >= most))


def _open(title: str, height: int) -> str:
    return (f'<figure class="picture"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}" '
            f'xmlns="http://www.w3.org/2000/svg">')  # fmt: skip


def _close(parts: list[str]) -> str:
    return "".join([*parts, "</svg></figure>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str = "start", *, small: bool = False) -> str:
    size = 10 if small else 13
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{escape(text)}</text>'
