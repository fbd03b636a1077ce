"""Predicted against measured offline latency on one A100 40 GB: `python benchmarks/argonne.py CSV [--json OUT]`.

CSV: LLM-Inference-Bench (Argonne National Laboratory), vLLM on one A100, rows of model, equal input and
output length, batch size and seconds per batch. Nothing in simserve was fitted to these rows. The measured
runs state no vLLM version and no settings: predictions use vLLM's defaults of today.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simserve.run import half_width, simulate
from simserve.spec.deployment import DeploymentSpec
from simserve.spec.model import load_model
from simserve.workload.requests import RequestSet

# Llama-3-8B and Llama-3.1-8B have the same layers; they differ in context length and rope scaling only.
MODELS = {"meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-hf",
          "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B"}  # fmt: skip
# The runs are of 2024, when vLLM scheduled synchronously; their version is not stated.
DEPLOYMENT = DeploymentSpec(gpu="a100_sxm_40gb", dtype="fp16", gpu_memory_utilization=0.9, engine_version="0.6")


def predict_s(model: str, length: int, batch: int) -> tuple[float, float]:
    """(seconds from the first prompt to the last token of a batch that is there at once, their half-width in %)."""
    column = np.full(batch, length, dtype=np.int64)
    load = RequestSet(np.zeros(batch, dtype=np.int64), column, column, column * 0, None, {})
    run = simulate(load_model(model), DEPLOYMENT, load)
    return float(run.metrics.duration_s), 100 * half_width(run)


def compare(path: Path) -> list[dict[str, Any]]:
    """One row per measured point of a model that we have."""
    frame = pd.read_csv(path)
    rows = []
    for row in frame[frame["Model"].isin(MODELS)].itertuples(index=False):
        _, _, _, name, length, batch, latency, _ = row
        predicted, width = predict_s(MODELS[name], int(length), int(batch))
        measured = float(latency)
        rows.append({"model": name, "input=output": int(length), "batch": int(batch), "measured_s": measured,
                     "predicted_s": predicted, "error_%": 100 * (predicted / measured - 1), "interval_%": width,
                     "inside": abs(measured / predicted - 1) <= width / 100})  # fmt: skip
    return rows


def main() -> None:
    """Print the table and the median absolute error; optionally save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    table = pd.DataFrame(compare(arguments.csv))
    print(table.to_string(index=False, float_format=lambda x: f"{x:.2f}"))
    print(f"median absolute error {table['error_%'].abs().median():.1f} %, bias {table['error_%'].median():+.1f} %")
    print(f"90 % interval: {100 * table['inside'].mean():.0f} % of the measurements lie inside")
    if arguments.json:
        arguments.json.write_text(json.dumps(table.to_dict("records"), indent=2))


if __name__ == "__main__":
    main()
