"""`simserve validate`: measured serving points against what simserve predicts for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.cli.accuracy_page import page
from simserve.cli.options import refuse
from simserve.errors import SpecError, UnknownName
from simserve.report.console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from simserve.accuracy.judge import Score, Verdict
    from simserve.accuracy.judged import Judged
    from simserve.accuracy.points import Point


def validate(
    context: typer.Context,
    records: Annotated[
        Path | None,
        typer.Option(help="CSV of points, or a records file in YAML (default: aiconfigurator's silicon sample)."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the files that a records file names (default: its own).")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Price with this GPU's tables, e.g. rtx_pro_6000/llmservingsim.")
    ] = None,
    package_dir: Annotated[Path | None, typer.Option(help="An unpacked aiconfigurator_core.")] = None,
    flags: Annotated[
        Path | None, typer.Option(help="CSV of stored cleaning verdicts: row, bad_par, unique_keep.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="agg, disagg or all points of the silicon sample (default: agg).")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Leave out closed loops of more clients (silicon sample).")
    ] = None,
    part: Annotated[
        str, typer.Option("--split", help="calibration or held-out scenarios (70/30), or a split of the file.")
    ] = "",
    sample: Annotated[int, typer.Option(min=0, help="So many points, drawn evenly (default: all).")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of lengths and of the sample.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    csv_out: Annotated[Path | None, typer.Option("--csv", metavar="OUT", help="Write every point to OUT.")] = None,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="OUT", help="Write scores and points to OUT; '-' prints them.")
    ] = None,
    html_out: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Write a report with plots to OUT; works offline.")
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--uncalibrated", help="With what was fitted to measured runs, or without.")
    ] = True,
) -> None:
    """Play measured points as they were measured and report how far off TTFT, TPOT, E2E and throughput are, by regime.

    simserve validate --sample 200 --jobs 2

    simserve validate --records my_points.csv --csv judged.csv

    simserve validate --records blis_vllm --data DIR
    """
    from simserve.accuracy.records import records_file
    from simserve.report.accuracy import check_plotly
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out, csv_out, html_out)
    check_plotly(html_out)
    if records is not None:
        refuse("is for the silicon sample, not --records", package_dir=package_dir, flags=flags, mode=mode,
               clients=clients)  # fmt: skip
    described = None if records is None else records_file(records)
    if described is not None:
        asked = Asked(data, gpu, part, sample, seed, jobs, calibrated)
        content = _judged(described, asked, html_out)
    else:
        refuse("is for a records file (YAML)", data=data, gpu=gpu)
        points, left_out = _points(records, package_dir, flags, mode or "agg")
        if clients is not None:
            few = [point for point in points if point.concurrency <= clients]
            points, left_out = few, {**left_out, f"more than {clients} clients": len(points) - len(few)}
        content = _played(points, left_out, Asked(None, None, part, sample, seed, jobs, calibrated))
    pairs = content.pop("compared", [])
    if html_out is not None:
        write_atomic(html_out, page(context, content, pairs))
    if csv_out is not None:
        write_atomic(csv_out, _csv(content["verdicts"]))
    if json_out is not None and json_out != "-":
        write_atomic(Path(json_out), to_json(content))
    if json_out == "-":
        typer.echo(to_json(content), nl=False)
        return
    _print(content)


@dataclass(frozen=True)
class Asked:
    """The options that are not about files, as given."""

    data: Path | None
    gpu: str | None
    part: str
    sample: int
    seed: int
    jobs: int
    calibrated: bool


def _played(points: list[Point], left_out: dict[str, int], asked: Asked) -> dict[str, Any]:
    """The report on points."""
    from simserve.accuracy.judge import by_regime, compared, coverage
    from simserve.accuracy.split import split

    if asked.part:
        points = split(points, asked.part)
    if asked.sample and asked.sample < len(points):
        points = _drawn(points, asked.sample, asked.seed)
    verdicts = _predict(points, asked)
    content = _content([_flat(v) for v in verdicts], by_regime(verdicts), left_out, asked.seed)
    held = {metric: {"points": count, "share": share} for metric, (count, share) in coverage(verdicts).items()}
    return {**content, "calibrated": asked.calibrated, "interval_coverage": held,
            "compared": [compared(v) for v in verdicts]}  # fmt: skip


def _judged(path: Path, asked: Asked, html: Path | None) -> dict[str, Any]:
    """The report on what a records file describes: points, requests, or stages; html: a page, of points alone."""
    from joblib import Parallel, delayed

    from simserve.accuracy.judged import by_regime
    from simserve.accuracy.records import points_of, read_records, work_of

    spec, folder = read_records(path), asked.data or path.parent
    if spec.kind == "points":
        refuse("is for requests and stages", gpu=asked.gpu)
        rows = points_of(spec, folder)
        return _played(rows.rows, rows.left_out, asked)
    refuse(f"is for points, not for {spec.kind}", html=html, sample=asked.sample or None)
    work = work_of(
        spec, folder, gpu=asked.gpu or "", split=asked.part, seed=asked.seed, calibrated=asked.calibrated
    )  # fmt: skip
    runs = Parallel(n_jobs=asked.jobs)(delayed(run)() for run in work.runs)
    records = [record for run in runs for record in run]
    content = _content([_flat_record(r) for r in records if r.regimes], by_regime(records), work.left_out, asked.seed)
    content["records"] = [
        {"record": r.id, "metric": metric, "measured": r.measured[metric], "predicted": r.predicted[metric], "error": e}
        for r in records if r.listed for metric, e in r.errors().items()
    ]  # fmt: skip
    return content


def _content(
    rows: list[dict[str, Any]], scores: Sequence[tuple[str, str, Score]], left_out: dict[str, int], seed: int
) -> dict[str, Any]:
    """What is written as JSON: counts, scores, and every record as one flat row."""
    problems = Counter(p.partition(" in ")[0] if "does not fit" in p else p for row in rows if (p := row["problem"]))
    return {
        "points": len(rows), "predicted": len(rows) - sum(problems.values()), "left_out": left_out,
        "not_predicted": dict(problems), "seed": seed,
        "scores": [{"regime": regime, "value": value, **asdict(score)} for regime, value, score in scores],
        "verdicts": rows,
    }  # fmt: skip


MODES = {"agg": ("agg",), "disagg": ("disagg",), "all": ("agg", "disagg")}


def _points(
    records: Path | None, package_dir: Path | None, flags: Path | None, mode: str
) -> tuple[list[Point], dict[str, int]]:
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    if records is not None:
        from simserve.accuracy.points import read_points

        return read_points(records), {}
    from simserve.accuracy.silicon import silicon_points

    found = silicon_points(package_dir, flags, modes=MODES[mode])
    return [point for _, point in found.points], found.left_out


def _drawn(points: list[Point], count: int, seed: int) -> list[Point]:
    import numpy as np

    chosen = np.random.default_rng(seed).choice(len(points), size=count, replace=False)
    return [points[i] for i in sorted(chosen)]


def _predict(points: Sequence[Point], asked: Asked) -> list[Verdict]:
    """All verdicts in the order of the points; those of one model and GPU go to one process, which keeps its tables."""
    from joblib import Parallel, delayed
    from rich.progress import track

    from simserve.accuracy.judge import predict

    order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].gpu, points[i].dtype))
    console = make_console(stderr=True)
    work = Parallel(n_jobs=asked.jobs, return_as="generator", batch_size=16 if asked.jobs > 1 else 1)(
        delayed(predict)(points[i], asked.seed, calibrated=asked.calibrated) for i in order
    )
    shown = track(work, "simulating", total=len(points), console=console, transient=True,
                  disable=not console.is_terminal)  # fmt: skip
    done = dict(zip(order, shown, strict=True))
    return [done[i] for i in range(len(points))]


def _flat(verdict: Verdict) -> dict[str, Any]:
    """One row: the point, then the prediction."""
    predicted = {f"predicted_{k}": v for k, v in asdict(verdict).items() if k not in ("point", "problem", "within")}
    factors = {f"predicted_within_{metric}": factor for metric, factor in verdict.within.items()}
    return {**asdict(verdict.point), **predicted, **factors, "problem": verdict.problem}


def _flat_record(record: Judged) -> dict[str, Any]:
    """One row: measured and predicted value of each metric in ms."""
    return {
        "id": record.id, **{f"{m.replace(' ', '_')}_ms": v for m, v in record.measured.items()},
        **{f"predicted_{m.replace(' ', '_')}_ms": v for m, v in record.predicted.items()},
        "predicted_half_width": record.half_width, "problem": record.problem,
    }  # fmt: skip


def _csv(rows: list[dict[str, Any]]) -> str:
    import pandas as pd

    if not rows:
        raise SpecError("there are no points")
    return str(pd.DataFrame(rows).to_csv(index=False))


def _print(content: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    console = make_console()
    shown = Table(box=SIMPLE_HEAD)
    for header in ("", "metric", "points", "median %", "MAPE %", "p90 %", "bias %", "Spearman"):
        shown.add_column(header, no_wrap=True, justify="left" if header in ("", "metric") else "right")
    for row in content["scores"]:
        numbers = [f"{100 * row[name]:.1f}" for name in ("median", "mape", "p90")]
        rank = "" if row["spearman"] is None else f"{row['spearman']:.3f}"
        name = f"{row['regime']} {row['value']}".strip()
        shown.add_row(name, row["metric"], f"{row['points']:,}", *numbers, f"{100 * row['signed_median']:+.1f}", rank)
    console.print(shown)
    if "records" in content:
        console.print(_records_table(content["records"]))
    for reason, count in content["left_out"].items():
        console.print(f"left out: {count:,} rows: {reason}", highlight=False)
    for reason, count in content["not_predicted"].items():
        console.print(f"not predicted: {count:,} points: {reason}", highlight=False)
    if content.get("interval_coverage"):
        shares = ", ".join(f"{m.upper()} {100 * row['share']:.0f} %" for m, row in content["interval_coverage"].items())
        console.print(f"measurements within the 90 % interval: {shares}", highlight=False)
    console.print(f"{content['predicted']:,} of {content['points']:,} points predicted", highlight=False)


def _records_table(records: list[dict[str, Any]]) -> Table:
    """One row per listed record: measured and predicted ms of each metric, and the error."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    metrics = list(dict.fromkeys(row["metric"] for row in records))
    cells: dict[str, dict[str, str]] = {}
    for row in records:
        text = f"{row['measured']:,.1f} > {row['predicted']:,.1f} {100 * row['error']:+.1f} %"
        cells.setdefault(row["record"], {})[row["metric"]] = text
    shown = Table(box=SIMPLE_HEAD, title="measured > predicted, ms", title_justify="left")
    for header in ("", *metrics):
        shown.add_column(header, no_wrap=not header, justify="right" if header else "left")
    for name, own in cells.items():
        shown.add_row(name, *(own.get(metric, "") for metric in metrics))
    return shown
