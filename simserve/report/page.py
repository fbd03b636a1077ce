"""Pieces of a page that works offline: its frame, tables that sort, figures drawn by the plotly inside it.

`page.css` and `page.js` beside this file are in every page: colours by the reader's preference, sorting, the choices
above a figure. A figure is plotly's JSON; `views` in it are what those choices change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

_HERE = Path(__file__).parent
_LONG = 36  # characters


def fill(template: str, **parts: str) -> str:
    """The page of a template beside this file, with plotly, style and script in it."""
    from plotly.offline import get_plotlyjs

    files = {"style": "page.css", "script": "page.js"}
    texts = {name: (_HERE / file).read_text(encoding="utf-8") for name, file in files.items()}
    text = (_HERE / template).read_text(encoding="utf-8")
    return Template(text).substitute(plotly=get_plotlyjs(), **texts, **parts)


def figure(name: str, content: str | Mapping[str, Any], *, label: str = "") -> str:
    """A place for a figure and its data, which cannot end the script element early; label: for who cannot see it."""
    text = content if isinstance(content, str) else json.dumps(content, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c")
    about = f" role='img' aria-label='{escape(label, quote=True)}'" if label else ""
    return (f"<div class='figure' id='{name}'{about}></div>"
            f"<script type='application/json' data-for='{name}'>{safe}</script>\n")  # fmt: skip


def tiles(items: Sequence[tuple[str, str]]) -> str:
    """Numbers with what they are, in boxes."""
    return "".join(f"<div class='tile'><b>{escape(number)}</b><span>{escape(text)}</span></div>"
                   for number, text in items)  # fmt: skip


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], keys: Sequence[Sequence[Any]] = (), *,
    sortable: bool = True, name: str = "",
) -> str:  # fmt: skip
    """A table; keys: what to sort the cells of each row by. Numbers go right, long texts have room."""
    numeric = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(heads))]
    sides = [" class='number'" if right else " class='long'" if any(len(row[i]) > _LONG for row in rows) else ""
             for i, right in enumerate(numeric)]  # fmt: skip
    head = "".join(f"<th{side}>{escape(text)}</th>" for side, text in zip(sides, heads, strict=True))
    body = []
    for index, row in enumerate(rows):
        by = keys[index] if keys else row
        cells = [f"<td{side} data-key='{escape(str(key))}'>{escape(text)}</td>" if sortable
                 else f"<td{side}>{escape(text)}</td>"
                 for side, text, key in zip(sides, row, by, strict=True)]  # fmt: skip
        body.append(f"<tr>{''.join(cells)}</tr>")
    about = f" id='{name}'" if name else ""
    kind = " class='sortable'" if sortable else ""
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return (f"<div class='wide'><table{about}{kind}>{top}"
            f"<tbody>{''.join(body)}</tbody></table></div>")  # fmt: skip


def is_number(text: str) -> bool:
    """Whether a cell holds a number, or nothing."""
    try:
        float(text.replace(",", "") or "0")
    except ValueError:
        return False
    return True
