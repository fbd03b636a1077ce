"""simserve beside AIConfigurator on the same measured serving points, one table by regime.

    python benchmarks/accuracy.py PREDICTIONS [--package-dir DIR] [--judged CSV] [--mode HYBRID] [--jobs 2] [--json OUT]
                                  [--peer-python PATH] [--sample N]

PREDICTIONS: aiconfigurator_0.12.0_predictions.csv.gz, what AIConfigurator 0.12.0 predicts for each row of its own
silicon_sample.csv, and which rows are clean. Compared are the clean, unique, versioned, aggregated rows that both
predict. --judged: the output of `simserve validate --flags PREDICTIONS --csv CSV`, instead of simulating here.
--peer-python: AIConfigurator runs too, in the Python at PATH, where `pip install aiconfigurator==0.12.0` was run; its
predictions take the place of the stored ones, how far they agree is said, and the time that each side takes per row
(AIConfigurator's without loading its tables; simserve's with, and with --jobs above 1 the jobs slow each other down).
--sample: only N of the rows, drawn with a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from peers import PeerMissing, aiconfigurator

from simserve.accuracy.judge import REGIMES, Score, Verdict, predict, scores
from simserve.accuracy.points import Point
from simserve.accuracy.silicon import FILE, silicon_points
from simserve.errors import SimserveError
from simserve.perf.importers.aiconfigurator import find_package

MODES = {"SILICON": "pred", "HYBRID": "hybrid_pred"}
SIDES = ("simserve", "AIConfigurator")
ALL = "all that both predict"

Seconds = list[float]
Rows = list[tuple[int, Point]]


def timed(point: Point) -> tuple[Verdict, float]:
    """The prediction and its wall seconds; the first of a model and GPU loads their tables."""
    begin = time.perf_counter()
    verdict = predict(point)
    return verdict, time.perf_counter() - begin


def ours(points: list[Point], jobs: int) -> tuple[list[Verdict], Seconds]:
    """Verdicts and wall seconds in the order of the points."""
    order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].gpu, points[i].dtype))
    work = Parallel(n_jobs=jobs, batch_size=16)(delayed(timed)(points[i]) for i in order)
    done = dict(zip(order, work, strict=True))
    return [done[i][0] for i in range(len(points))], [done[i][1] for i in range(len(points))]


def judged(path: Path, points: list[Point]) -> list[Verdict]:
    """Verdicts that were written for all of the points."""
    table = pd.read_csv(path)
    if table["id"].tolist() != [point.id for point in points]:
        raise SystemExit(f"{path} holds other points, or in another order")
    table["problem"] = table["problem"].astype(object).fillna("")
    return [
        Verdict(point, row.predicted_ttft_ms, row.predicted_tpot_ms, row.predicted_tokens_per_s_per_gpu,
                row.predicted_half_width, problem=row.problem)
        for point, row in zip(points, table.itertuples(index=False), strict=True)
    ]  # fmt: skip


def live(options: argparse.Namespace, rows: Rows, stored: pd.DataFrame) -> pd.DataFrame:
    """AIConfigurator's predictions, made now; prints how they agree with the stored ones, and what they cost."""
    sample = pd.read_csv(find_package(options.package_dir) / FILE).loc[[number for number, _ in rows]]
    priced, about = aiconfigurator.price(options.peer_python, sample, options.mode)
    problems = Counter(name for name in priced["problem"] if name).most_common()
    print(f"AIConfigurator {about['version']}: started in {about['start_s']:.1f} s, loaded in {about['load_s']:.1f} s, "
          f"{len(priced)} rows priced in {priced['wall_s'].sum():.1f} s, {about['peak_mb']:.0f} MB")  # fmt: skip
    if problems:
        print(f"AIConfigurator without an answer: {', '.join(f'{count} {name}' for name, count in problems)}")
    print(agreement(priced, stored, MODES[options.mode]))
    return priced.rename(columns={f"{name}_ms": f"{MODES[options.mode]}_{name}_ms" for name in ("ttft", "tpot")})


def agreement(priced: pd.DataFrame, stored: pd.DataFrame, prefix: str) -> str:
    """One line: relative differences on the rows that are priced both live and stored."""
    was = stored.loc[priced.index]
    parts = []
    for name in ("ttft", "tpot"):
        now, before = priced[f"{name}_ms"].astype(float), was[f"{prefix}_{name}_ms"].astype(float)
        off = (now / before - 1).abs().dropna()
        alone = int((now.notna() != before.notna()).sum())
        differs = f"{off.median():.2g} in the median, {off.max():.2g} at most, " if len(off) else ""
        parts.append(f"{name.upper()} {differs}{len(off)} rows in both, {alone} in one alone")
    return f"live against stored, relative difference: {'; '.join(parts)}"


def theirs(rows: Rows, predictions: pd.DataFrame, prefix: str) -> list[Verdict]:
    """AIConfigurator's, as verdicts; without throughput, which it does not state here."""
    found = []
    for number, point in rows:
        ttft, tpot = (float(predictions.loc[number, f"{prefix}_{name}_ms"]) for name in ("ttft", "tpot"))
        missing = ttft != ttft or tpot != tpot
        found.append(Verdict(point, ttft, tpot, problem="no prediction" if missing else ""))
    return found


def line(name: str, mine: list[Verdict], other: list[Verdict]) -> list[dict[str, Any]]:
    """One row per metric and side."""
    rows = []
    for side, verdicts in zip(SIDES, (mine, other), strict=True):
        known = [score for score in scores(verdicts) if score.metric in ("ttft", "tpot")]
        rows += [{"regime": name, "side": side, **numbers(score)} for score in known]
    return rows


def numbers(score: Score) -> dict[str, Any]:
    """Per cent, rounded."""
    return {"metric": score.metric, "points": score.points, "median": round(100 * score.median, 1),
            "mape": round(100 * score.mape, 1), "bias": round(100 * score.signed_median, 1)}  # fmt: skip


def walls(name: str, seconds: Mapping[str, Seconds], keep: list[int]) -> list[dict[str, Any]]:
    """What the rows took on each side, in milliseconds, where it was measured."""
    rows = []
    for side, all_s in seconds.items():
        ms = pd.Series([1e3 * all_s[i] for i in keep])
        about = {"median": ms.median(), "mean": ms.mean(), "max": ms.max()}
        rows.append({"regime": name, "side": side, "metric": "wall_ms", "points": len(keep),
                     **{key: round(value, 1) for key, value in about.items()}})  # fmt: skip
    return rows


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--package-dir", type=Path)
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--mode", choices=MODES, default="SILICON")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peer-python", type=Path, help="run AIConfigurator too, in the Python that has it")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of the rows (default: all)")
    options = parser.parse_args(arguments)
    if options.sample is not None and options.sample < 1:
        parser.error(f"--sample {options.sample}: at least 1")
    return options


def show(rows: list[dict[str, Any]], values: list[str]) -> None:
    """Both sides beside each other."""
    index = ["regime", "metric", "points"]
    print(pd.DataFrame(rows).pivot_table(index=index, columns="side", values=values, sort=False).to_string())


def report(options: argparse.Namespace) -> None:
    """Print coverage, then every regime."""
    if options.peer_python:
        aiconfigurator.check(options.peer_python)
    rows = silicon_points(options.package_dir, options.predictions).points
    predictions = pd.read_csv(options.predictions).set_index("row")
    chosen = list(range(len(rows)))
    if options.sample:
        chosen = sorted(random.Random(0).sample(chosen, min(options.sample, len(rows))))
    some, seconds = [rows[i] for i in chosen], {}
    if options.judged:
        before = judged(options.judged, [point for _, point in rows])
        mine = [before[i] for i in chosen]
    else:
        mine, seconds["simserve"] = ours([point for _, point in some], options.jobs)
    if options.peer_python:
        predictions = live(options, some, predictions)
        seconds["AIConfigurator"] = predictions["wall_s"].tolist()
    found = compare(mine, theirs(some, predictions, MODES[options.mode]), seconds, options.mode)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def compare(
    mine: list[Verdict], other: list[Verdict], seconds: Mapping[str, Seconds], mode: str
) -> list[dict[str, Any]]:
    """Print who predicts how much, then the errors, and the times where known, of what both predict."""
    for side, verdicts in ((SIDES[0], mine), (f"{SIDES[1]} {mode}", other)):
        covered = sum(not v.problem for v in verdicts)
        print(f"{side}: {covered} of {len(verdicts)} points predicted ({100 * covered / len(verdicts):.0f} %)")
    both = [i for i in range(len(mine)) if not mine[i].problem and not other[i].problem]
    if not both:
        raise SystemExit("no point that both predict")
    groups = {ALL: both}
    for regime, of in REGIMES.items():
        for value in sorted({of(mine[i].point) for i in both}):
            groups[f"{regime} {value}"] = [i for i in both if of(mine[i].point) == value]
    rows, times = [], []
    for name, keep in groups.items():
        rows += line(name, [mine[i] for i in keep], [other[i] for i in keep])
        if name == ALL or name.startswith("concurrency"):  # what simserve's time goes by
            times += walls(name, seconds, keep)
    show(rows, ["median", "mape", "bias"])
    if times:
        show(times, ["median", "mean", "max"])
    return rows + times


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, or end with one line and exit code 2."""
    try:
        report(options_from(arguments))
    except (SimserveError, PeerMissing) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
