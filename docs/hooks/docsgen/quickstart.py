"""The picture of the first page, from docs/quickstart.json, which `docs/result_figure.py` writes."""

from __future__ import annotations

import json

from docsgen.markdown import ROOT
from docsgen.pictures import scatter


def picture() -> str:
    """Every simulated configuration of the quickstart; the front in colour."""
    runs = json.loads((ROOT / "docs" / "quickstart.json").read_text(encoding="utf-8"))["runs"]
    points = [(run["tpot_ms"], run["tokens_per_s_per_gpu"], _kind(run), run["name"]) for run in reversed(runs)]
    points.sort(key=lambda point: ("missed", "met", "front", "best").index(point[2]))
    drawn = scatter(
        "Tokens per second and GPU against TPOT", points, ("TPOT, ms (90th percentile)", "tokens/s per GPU")
    )
    legend = "".join(f'<span><svg viewBox="0 0 12 12"><circle class="{kind}" cx="6" cy="6" r="5"/></svg>{text}</span>'
                     for kind, text in (("best", "recommended"), ("front", "Pareto front"), ("met", "meets the SLO"),
                                        ("missed", "misses it")))  # fmt: skip
    return f'{drawn}\n<p class="legend">{legend}</p>\n'


def _kind(run: dict[str, object]) -> str:
    if run["recommended"]:
        return "best"
    return "front" if run["front"] else "met" if run["meets_slo"] else "missed"
