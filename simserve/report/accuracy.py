"""`simserve validate --html`: measured points against predictions as one page that works offline.

The page is filled from plain data, the content of `simserve validate --json` and what each point's metrics compare to,
so that it shows the numbers that were printed. `accuracy.html` beside this file is its template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from simserve.errors import SpecError
from simserve.report.accuracy_plots import INTERVAL, NAMES, Pair, Row, error_cdf, interval_bars, scatter
from simserve.report.page import figure, fill, table, tiles

Pairs = Mapping[str, Pair]
BUCKETS = (0.05, 0.1, 0.2, 0.5)
ALL = "all"
_SCORES = ("regime", "value", "metric", "points", "median", "mape", "p90", "signed_median", "spearman")
_WHERE = ("id", "model", "gpu", "framework", "version", "concurrency", "prompt_tokens", "output_tokens", "problem")


def check_plotly(path: Path | None) -> None:
    """Before any work: SpecError if the page is asked for and plotly is not installed."""
    if path is not None and find_spec("plotly") is None:
        raise SpecError("--html needs plotly: pip install 'simserve[report]'", file=str(path))


def accuracy_html(content: Mapping[str, Any], compared: Sequence[Pairs], provenance: Mapping[str, str]) -> str:
    """The page.

    content: points, predicted, left_out, not_predicted, scores and verdicts as `simserve validate --json` writes them;
    compared: {metric: (predicted, measured)} of each verdict, in their order; provenance: name -> text.
    """
    rows = list(zip(content["verdicts"], compared, strict=True))
    held = interval_coverage(rows)
    by_metric = {metric: [(row, pairs[metric]) for row, pairs in rows if metric in pairs] for metric in NAMES}
    figures = {f"scatter-{metric}": scatter(metric, found) for metric, found in by_metric.items() if found}
    errors = {metric: [p / m - 1 for _, (p, m) in found] for metric, found in by_metric.items() if found}
    if errors:
        figures["cdf"] = error_cdf(errors)
    if any(row["bucket"] != ALL for row in held):
        figures["interval"] = interval_bars([row for row in held if row["bucket"] != ALL])
    return fill(
        "accuracy.html",
        tiles=tiles(_tiles(content)),
        scatters="".join(figure(name, text) for name, text in figures.items() if name.startswith("scatter-")),
        cdf=figure("cdf", figures["cdf"]) if errors else "<p>No point was predicted.</p>",
        scores=_score_table(content["scores"]),
        interval=_interval(held, figures.get("interval")),
        records=_records(content),
        provenance=table(("", ""), [(name, text) for name, text in provenance.items()], sortable=False),
    )


def interval_coverage(rows: Sequence[tuple[Row, Pairs]]) -> list[dict[str, Any]]:
    """{metric, bucket, points, share}: share of the measurements within the prediction over and times its factor.

    Of each metric over all points (bucket 'all'), then by the factor less 1; points without a factor do not count.
    """
    found = []
    for metric in NAMES:
        inside: dict[str, list[bool]] = {name: [] for name in (ALL, *_bucket_names())}
        for row, pairs in rows:
            factor = row.get(f"predicted_within_{metric}")
            if factor is not None and metric in pairs:
                predicted, measured = pairs[metric]
                within = predicted / factor <= measured <= predicted * factor
                for name in (ALL, _bucket(factor - 1)):
                    inside[name].append(within)
        found += [{"metric": metric, "bucket": name, "points": len(hits), "share": sum(hits) / len(hits)}
                  for name, hits in inside.items() if hits]  # fmt: skip
    return found


def _bucket(width: float) -> str:
    return _bucket_names()[sum(width > edge for edge in BUCKETS)]


def _bucket_names() -> list[str]:
    edges = [f"{100 * edge:.0f}" for edge in BUCKETS]
    middle = [f"{low}-{high} %" for low, high in pairwise(edges)]
    return [f"up to {edges[0]} %", *middle, f"above {edges[-1]} %"]


def _tiles(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    whole = [row for row in content["scores"] if row["regime"] == ALL]
    found = [(f"{content['predicted']:,} of {content['points']:,}", "points predicted")]
    return found + [(f"{100 * row['median']:.1f} %", f"median error of {NAMES[row['metric']]}") for row in whole]


def _score_table(scores: Sequence[Row]) -> str:
    """The scores as printed: per cent with one decimal, rank correlation with three."""
    heads = ("regime", "value", "metric", "points", "median %", "MAPE %", "p90 %", "bias %", "Spearman")
    rows = [tuple(row[name] for name in _SCORES) for row in scores]
    shown = [
        (regime, value, metric, f"{points:,}", *(f"{100 * size:.1f}" for size in sizes), f"{100 * bias:+.1f}",
         "" if rank is None else f"{rank:.3f}")
        for regime, value, metric, points, *sizes, bias, rank in rows
    ]  # fmt: skip
    return table(heads, shown, [(*row[:-1], -2 if row[-1] is None else row[-1]) for row in rows], name="scores")


def _interval(held: Sequence[Row], drawn: str | None) -> str:
    if not held:
        return "<p>No prediction has an interval.</p>"
    rows = [(NAMES[row["metric"]], row["bucket"], f"{row['points']:,}", f"{100 * row['share']:.1f}") for row in held]
    heads = ("metric", "interval, +-", "points", f"within, % (nominal {100 * INTERVAL:.0f})")
    shares = table(heads, rows, sortable=False)
    return f"<div class='pair'>{figure('interval', drawn or '')}<div>{shares}</div></div>"


def _records(content: Mapping[str, Any]) -> str:
    """Counts of all rows by what became of them, then each point that has no prediction."""
    left_out, missing = content["left_out"], content["not_predicted"]
    counts = [("predicted", "", content["predicted"])]
    counts += [("not predicted", reason, count) for reason, count in _falling(missing)]
    counts += [("left out", reason, count) for reason, count in _falling(left_out)]
    total = sum(count for _, _, count in counts)
    shown = [(what, why, f"{count:,}", f"{100 * count / total:.1f}" if total else "") for what, why, count in counts]
    counted = table(("record", "reason", "rows", "% of rows"), shown, sortable=False)
    without = [row for row in content["verdicts"] if row["problem"]]
    if not without:
        return counted
    names = [name for name in _WHERE if any(row.get(name) not in (None, "") for row in without)]
    each = table(names, [tuple(_text(row.get(name)) for name in names) for row in without],
                  [tuple(row.get(name, "") for name in names) for row in without])  # fmt: skip
    return f"{counted}<details><summary>All {len(without):,} points without a prediction</summary>{each}</details>"


def _falling(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: -item[1])


def _text(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
