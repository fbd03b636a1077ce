"""`simserve validate`: measured serving points against what simserve predicts for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simserve.cli.console import make_console
from simserve.errors import SpecError, UnknownName

if TYPE_CHECKING:
    from simserve.accuracy.judge import Verdict
    from simserve.accuracy.points import Point


SPLITS = ("calibration", "held-out")


def validate(
    records: Annotated[
        Path | None, typer.Option(help="CSV of measured points (default: aiconfigurator's silicon sample).")
    ] = None,
    package_dir: Annotated[Path | None, typer.Option(help="An unpacked aiconfigurator_core.")] = None,
    flags: Annotated[
        Path | None, typer.Option(help="CSV of stored cleaning verdicts: row, bad_par, unique_keep.")
    ] = None,
    part: Annotated[
        str, typer.Option("--split", help="calibration or held-out scenarios (70/30; default: all).")
    ] = "",
    sample: Annotated[int, typer.Option(min=0, help="So many points, drawn evenly (default: all).")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of lengths and of the sample.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    csv_out: Annotated[Path | None, typer.Option("--csv", metavar="OUT", help="Write every point to OUT.")] = None,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="OUT", help="Write scores and points to OUT; '-' prints them.")
    ] = None,
) -> None:
    """Play measured points as they were measured and report how far off TTFT, TPOT and throughput are, by regime.

    simserve validate --sample 200 --jobs 2

    simserve validate --records my_points.csv --csv judged.csv
    """
    from simserve.accuracy.judge import by_regime, split
    from simserve.report.save import check_targets, to_json, write_atomic

    check_targets(None, json_out, csv_out)
    points, left_out = _points(records, package_dir, flags)
    if part and part not in SPLITS:
        raise UnknownName("split", part, SPLITS)
    if part:
        points = split(points, part)
    if sample and sample < len(points):
        points = _drawn(points, sample, seed)
    verdicts = _predict(points, seed, jobs)
    scores = by_regime(verdicts)
    problems = Counter(v.problem.partition(" in ")[0] if "does not fit" in v.problem else v.problem
                       for v in verdicts if v.problem)  # fmt: skip
    if csv_out is not None:
        write_atomic(csv_out, _csv(verdicts))
    content = {
        "points": len(points), "predicted": len(points) - sum(problems.values()), "left_out": left_out,
        "not_predicted": dict(problems), "seed": seed,
        "scores": [{"regime": regime, "value": value, **asdict(score)} for regime, value, score in scores],
        "verdicts": [_flat(v) for v in verdicts],
    }  # fmt: skip
    if json_out is not None and json_out != "-":
        write_atomic(Path(json_out), to_json(content))
    if json_out == "-":
        typer.echo(to_json(content), nl=False)
        return
    _print(content)


def _points(
    records: Path | None, package_dir: Path | None, flags: Path | None
) -> tuple[list[Point], dict[str, int]]:
    if records is not None:
        from simserve.accuracy.points import read_points

        return read_points(records), {}
    from simserve.accuracy.silicon import silicon_points

    found = silicon_points(package_dir, flags)
    return [point for _, point in found.points], found.left_out


def _drawn(points: list[Point], count: int, seed: int) -> list[Point]:
    import numpy as np

    chosen = np.random.default_rng(seed).choice(len(points), size=count, replace=False)
    return [points[i] for i in sorted(chosen)]


def _predict(points: Sequence[Point], seed: int, jobs: int) -> list[Verdict]:
    """All verdicts in the order of the points; those of one model and GPU go to one process, which keeps its tables."""
    from joblib import Parallel, delayed
    from rich.progress import track

    from simserve.accuracy.judge import predict

    order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].gpu, points[i].dtype))
    console = make_console(stderr=True)
    work = Parallel(n_jobs=jobs, return_as="generator", batch_size=16 if jobs > 1 else 1)(
        delayed(predict)(points[i], seed) for i in order
    )
    shown = track(work, "simulating", total=len(points), console=console, transient=True,
                  disable=not console.is_terminal)  # fmt: skip
    done = dict(zip(order, shown, strict=True))
    return [done[i] for i in range(len(points))]


def _flat(verdict: Verdict) -> dict[str, Any]:
    """One row: the point, then the prediction."""
    predicted = {f"predicted_{k}": v for k, v in asdict(verdict).items() if k not in ("point", "problem")}
    return {**asdict(verdict.point), **predicted, "problem": verdict.problem}


def _csv(verdicts: Sequence[Verdict]) -> str:
    import pandas as pd

    if not verdicts:
        raise SpecError("there are no points")
    return str(pd.DataFrame([_flat(v) for v in verdicts]).to_csv(index=False))


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
    for reason, count in content["left_out"].items():
        console.print(f"left out: {count:,} rows: {reason}", highlight=False)
    for reason, count in content["not_predicted"].items():
        console.print(f"not predicted: {count:,} points: {reason}", highlight=False)
    console.print(f"{content['predicted']:,} of {content['points']:,} points predicted", highlight=False)
