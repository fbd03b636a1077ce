"""simserve beside AIConfigurator on the same measured serving points, one table by regime.

    python benchmarks/accuracy.py PREDICTIONS [--package-dir DIR] [--judged CSV] [--mode HYBRID] [--jobs 2] [--json OUT]

PREDICTIONS: aiconfigurator_0.12.0_predictions.csv.gz, what AIConfigurator 0.12.0 predicts for each row of its own
silicon_sample.csv, and which rows are clean. Compared are the clean, unique, versioned, aggregated rows that both
predict. --judged: the output of `simserve validate --flags PREDICTIONS --csv CSV`, instead of simulating here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from simserve.accuracy.judge import REGIMES, Score, Verdict, predict, scores
from simserve.accuracy.points import Point
from simserve.accuracy.silicon import silicon_points

MODES = {"SILICON": "pred", "HYBRID": "hybrid_pred"}


def ours(points: list[Point], judged: Path | None, jobs: int) -> list[Verdict]:
    """Verdicts in the order of the points."""
    if judged is None:
        order = sorted(range(len(points)), key=lambda i: (points[i].model, points[i].gpu, points[i].dtype))
        work = Parallel(n_jobs=jobs, batch_size=16)(delayed(predict)(points[i]) for i in order)
        done = dict(zip(order, work, strict=True))
        return [done[i] for i in range(len(points))]
    table = pd.read_csv(judged)
    if table["id"].tolist() != [point.id for point in points]:
        raise SystemExit(f"{judged} holds other points, or in another order")
    table["problem"] = table["problem"].fillna("")
    return [
        Verdict(point, row.predicted_ttft_ms, row.predicted_tpot_ms, row.predicted_tokens_per_s_per_gpu,
                row.predicted_half_width, problem=row.problem)
        for point, row in zip(points, table.itertuples(index=False), strict=True)
    ]  # fmt: skip


def theirs(rows: list[tuple[int, Point]], predictions: pd.DataFrame, prefix: str) -> list[Verdict]:
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
    for side, verdicts in (("simserve", mine), ("AIConfigurator", other)):
        known = [score for score in scores(verdicts) if score.metric in ("ttft", "tpot")]
        rows += [{"regime": name, "side": side, **numbers(score)} for score in known]
    return rows


def numbers(score: Score) -> dict[str, Any]:
    """Per cent, rounded."""
    return {"metric": score.metric, "points": score.points, "median": round(100 * score.median, 1),
            "mape": round(100 * score.mape, 1), "bias": round(100 * score.signed_median, 1)}  # fmt: skip


def main() -> None:
    """Print coverage, then every regime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--package-dir", type=Path)
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--mode", choices=MODES, default="SILICON")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sample = silicon_points(options.package_dir, options.predictions)
    mine = ours([point for _, point in sample.points], options.judged, options.jobs)
    other = theirs(sample.points, pd.read_csv(options.predictions).set_index("row"), MODES[options.mode])
    for side, verdicts in (("simserve", mine), (f"AIConfigurator {options.mode}", other)):
        covered = sum(not v.problem for v in verdicts)
        print(f"{side}: {covered} of {len(verdicts)} points predicted ({100 * covered / len(verdicts):.0f} %)")
    both = [not a.problem and not b.problem for a, b in zip(mine, other, strict=True)]
    mine, other = ([v for v, keep in zip(side, both, strict=True) if keep] for side in (mine, other))
    rows = line("all that both predict", mine, other)
    for regime, of in REGIMES.items():
        for value in sorted({of(v.point) for v in mine}):
            rows += line(f"{regime} {value}", *([v for v in side if of(v.point) == value] for side in (mine, other)))
    table = pd.DataFrame(rows)
    wide = table.pivot_table(index=["regime", "metric", "points"], columns="side", values=["median", "mape", "bias"],
                             sort=False)  # fmt: skip
    print(wide.to_string())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
