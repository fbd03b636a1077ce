"""How results look in a notebook, at a prompt, and in a folder: the parts of the report, without its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, TypeVar

from simserve.errors import MissingData

if TYPE_CHECKING:
    from pathlib import Path

    from plotly.graph_objects import Figure
    from rich.console import Console

    from simserve.explore.result import SearchResult
    from simserve.explore.runner import Inputs
    from simserve.report.series import Series

T = TypeVar("T")
WIDTH = 120  # columns of what `print` shows
_TOP = 5
# colours of the notebook's own theme, light or dark: text as it is, lines and boxes half transparent
_STYLE = """<style>
.simserve { font-family: system-ui, sans-serif; }
.simserve p { margin: .3em 0; }
.simserve .tiles { display: flex; flex-wrap: wrap; gap: .5em; margin: .6em 0; }
.simserve .tile { border: 1px solid #8886; border-radius: 6px; padding: .3em .8em; }
.simserve .tile b { display: block; font-size: 1.2em; }
.simserve .tile span { opacity: .75; font-size: .85em; }
.simserve .wide { overflow-x: auto; }
.simserve td, .simserve th { text-align: left; padding: .15em .7em; border-bottom: 1px solid #8884; }
.simserve .number { text-align: right; }
.simserve pre { white-space: pre-wrap; }
</style>"""


def answer(result: SearchResult) -> str:
    """HTML: what to run and what it does, and the best few runs if there are several."""
    from simserve.report.html import answer_html, runs_html

    few = runs_html(result, _TOP, sortable=False) if len(result.runs) > 1 else ""
    return f"{_STYLE}<div class='simserve'>{answer_html(result)}{few}</div>"


def printed(show: Callable[[Console, T], None], result: T) -> str:
    """What a command prints of a result, without colours."""
    from rich.console import Console

    out = StringIO()
    show(Console(file=out, width=WIDTH, color_system=None, force_jupyter=False), result)
    return out.getvalue().rstrip("\n")


def figure(drawn: Mapping[str, Any]) -> Figure:
    """A figure of the report as plotly's own, its choices as buttons; MissingData without plotly."""
    try:
        from plotly.graph_objects import Figure
    except ImportError:
        raise MissingData("plotly is not installed: pip install 'simserve[report]'") from None
    shown = Figure({"data": drawn["data"], "layout": drawn["layout"]})
    views = drawn.get("views", [])
    if len(views) > 1:
        buttons = [
            {"label": view["name"], "method": "update", "args": [view["data"], view["layout"]]} for view in views
        ]
        shown.update_layout(updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.09,
             "yanchor": "bottom", "showactive": True}
        ], margin_t=90)  # fmt: skip
    return shown


def save(result: SearchResult, shown: Sequence[Series], folder: Path, inputs: Inputs) -> Path:
    """The files of a result, with the page where plotly is installed."""
    from simserve.report.html import can_draw, report_html
    from simserve.report.save import save as save_files
    from simserve.report.save import write_atomic

    save_files(result, folder, workload=inputs.workload)
    if can_draw():
        write_atomic(folder / "report.html", report_html(result, shown))
    return folder
