"""The figures of the accuracy page: plays all measured points and writes docs/accuracy.json, without the points.

    python docs/accuracy.py --runs RUNS --data DATA [--package-dir DIR] [--jobs 2]

RUNS: folder for what `simserve validate --json` and `benchmarks/argonne.py --json` write; what is there already is not
played again, an empty one takes half an hour on two cores. DATA: folder with e2e/ (the measured runs that
`studies/records` name, the Argonne rows, and AIConfigurator's stored predictions) and traces/. DIR: an unpacked
aiconfigurator_core 0.12.0, where it is not installed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import simserve
from simserve.accuracy.silicon import silicon_points
from simserve.perf.host import is_older

ROOT = Path(__file__).resolve().parents[1]
SILICON = {
    "uncalibrated": ["--uncalibrated"], "calibration": ["--split", "calibration"], "held_out": ["--split", "held-out"],
    "disaggregated": ["--mode", "disagg", "--clients", "192"],
}  # fmt: skip
RECORDS = {
    "rtx_pro_6000_own": ["--records", "rtx_pro_6000_sharegpt"],
    "rtx_pro_6000": ["--records", "rtx_pro_6000_sharegpt", "--gpu", "rtx_pro_6000"],
    "blis": ["--records", "blis_vllm"],
}
PREDICTIONS = "e2e/aiconfigurator_0.12.0_predictions.csv.gz"
METRICS = ("ttft", "tpot", "throughput")
EDGES = [round(-1.5 + 0.1 * i, 1) for i in range(31)]  # of log2(predicted / measured)


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """What makes each file of RUNS, as a reader would type it."""
    package = ["--package-dir", str(options.package_dir)] if options.package_dir else []
    jobs = ["--jobs", str(options.jobs)]
    found = {name: ["simserve", "validate", *more, *package, *jobs] for name, more in SILICON.items()}
    found |= {name: ["simserve", "validate", *more, "--data", str(options.data)] for name, more in RECORDS.items()}
    found["argonne"] = ["python", "benchmarks/argonne.py", str(options.data / "e2e" / "argonne_vllm_a100_1gpu.csv")]
    return found


def play(options: argparse.Namespace) -> dict[str, Any]:
    """The content of every run, played where its file is missing."""
    options.runs.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, words in commands(options).items():
        path = options.runs / f"{name}.json"
        if not path.exists():
            start = [sys.executable, "-m", "simserve"] if words[0] == "simserve" else [sys.executable]
            print(" ".join(words), file=sys.stderr)
            subprocess.run([*start, *words[1:], "--json", str(path)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found[name] = json.loads(path.read_text(encoding="utf-8"))
    return found


def rounded(value: Any) -> Any:
    """Four significant digits of every number; more would claim too much and grow the file."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def score(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Relative errors of each metric over rows that have both values."""
    found = {}
    for metric in ("ttft", "tpot"):
        error = (rows[f"predicted_{metric}_ms"] / rows[f"{metric}_ms"] - 1).dropna()
        found[metric] = {"points": len(error), "median": error.abs().median(), "mape": error.abs().mean(),
                         "bias": error.median()}  # fmt: skip
    return found


def condensed(content: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run on points: scores and how the errors are spread."""
    rows = pd.DataFrame(content["verdicts"])
    keys = ("points", "predicted", "left_out", "not_predicted", "seed", "interval_coverage", "records")
    found = {key: content[key] for key in keys if key in content}
    kept = ("regime", "value", "metric", "points", "median", "mape", "signed_median", "spearman")
    shown = [
        r for r in content["scores"] if r["regime"] == "all" or (r["regime"] != "model" and r["metric"] != "throughput")
    ]
    found["scores"] = [{key: row[key] for key in kept} for row in shown]
    if "predicted_ttft_ms" in rows and "framework" in rows:
        found["spread"] = {
            metric: np.histogram(np.clip(np.log2(ratio), EDGES[0], EDGES[-1]), EDGES)[0].tolist()
            for metric in ("ttft", "tpot")
            if len(ratio := (rows[f"predicted_{metric}_ms"] / rows[f"{metric}_ms"]).dropna())
        }
        new = rows[(rows.framework == "vllm") & ~rows.version.map(lambda v: is_older(str(v), "0.14"))]
        found["vllm_from_0.14"] = score(new)
    return found


def beside(runs: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """simserve's and AIConfigurator's errors on the same points, by the stored cleaning verdicts and predictions."""
    stored = pd.read_csv(options.data / PREDICTIONS).set_index("row")
    rows = silicon_points(options.package_dir, options.data / PREDICTIONS).points
    number = {point.id: row for row, point in rows}
    ours = pd.DataFrame([*runs["calibration"]["verdicts"], *runs["held_out"]["verdicts"]])
    ours = ours[ours.id.isin(number)].drop_duplicates("id")
    found: dict[str, Any] = {"clean": len(rows), "played": len(ours)}
    for mode, prefix in (("SILICON", "pred"), ("HYBRID", "hybrid_pred")):
        theirs = stored.loc[[number[i] for i in ours.id]].reset_index(drop=True)
        other = ours.reset_index(drop=True).assign(
            predicted_ttft_ms=theirs[f"{prefix}_ttft_ms"], predicted_tpot_ms=theirs[f"{prefix}_tpot_ms"]
        )
        both = (other.predicted_ttft_ms.notna() & other.predicted_tpot_ms.notna()).to_numpy()
        found[mode] = {"simserve": score(ours[both]), "AIConfigurator": score(other[both])}
    return found


def lines(value: Any, depth: int = 0) -> str:
    """JSON with what holds no further mapping or list of mappings on one line."""
    plain = json.dumps(value)
    if len(plain) < 150 or not isinstance(value, dict | list):
        return plain
    inside = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {lines(part, depth + 1)}" for key, part in value.items()]
        return "{" + inside + f",{inside}".join(parts) + "}"
    return plain if not isinstance(value[0], dict) else "[" + inside + f",{inside}".join(map(json.dumps, value)) + "]"


def main() -> None:
    """Play what is missing, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("--runs", "--data"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--package-dir", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    runs = play(options)
    plain = argparse.Namespace(package_dir=None, data=Path("DATA"), jobs=options.jobs)
    content = {
        "provenance": {
            "simserve": simserve.__version__,
            "measured": "aiconfigurator-core 0.12.0 and the records of studies/records",
            "date": datetime.now(UTC).date().isoformat(), "seed": 0, "numpy": version("numpy"),
            "python": sys.version.split()[0], "commands": {n: " ".join(w) for n, w in commands(plain).items()},
        },
        "runs": {name: condensed(run) for name, run in runs.items() if name != "argonne"},
        "argonne": runs["argonne"],
        "beside_aiconfigurator": beside(runs, options),
    }  # fmt: skip
    path = ROOT / "docs" / "accuracy.json"
    path.write_text(lines(rounded(content)) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
