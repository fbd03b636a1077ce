"""The paper studies: what was published, what a paper leaves out, and the range for ours."""

from __future__ import annotations

from docsgen.markdown import ROOT, cell, prose, table
from simserve.spec.paper import QuantitySpec, load_paper


def papers() -> str:
    """A section per file of studies/papers."""
    lines: list[str] = []
    for path in sorted((ROOT / "studies" / "papers").glob("*.yaml")):
        spec = load_paper(path).spec
        lines += [f"### {spec.name}", "", prose(spec.paper), "", prose(spec.setting), ""]
        if spec.unknown:
            rows = [(cell(u.what), cell(u.chosen), cell(u.why)) for u in spec.unknown]
            lines += [table(("not published", "chosen", "why"), rows), ""]
        quantities = [
            (cell(q.name), _published(q), _range(q.expect), cell(q.unit), cell(q.source)) for q in spec.quantities
        ]
        lines += [table(("quantity", "published", "range for ours", "unit", "source"), quantities), ""]
        lines += ["```console", f"$ simserve reproduce {spec.name}", "```", ""]
    return "\n".join(lines)


def _published(quantity: QuantitySpec) -> str:
    ends = quantity.published
    return _range(ends) if isinstance(ends, tuple) else f"{ends:g}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g} to {ends[1]:g}"
