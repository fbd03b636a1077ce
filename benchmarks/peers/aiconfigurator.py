"""AIConfigurator (Apache-2.0, NVIDIA; `pip install aiconfigurator==0.12.0`) beside simserve, in its own Python.

Its public `cli_estimate` prices rows of its silicon_sample.csv as aggregated serving, with what the row states (model,
GPU, backend, lengths, batch of a rank, sizes, formats of GEMMs and experts) and the newest tables of the backend; all
else is its default. Where the package has no configuration under the row's model name, that of the same model is used.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import peers

RUNNER = Path(__file__).with_name("aiconfigurator_run.py")
SIZES = ("tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "batch_size")
FORMATS = ("gemm_quant_mode", "moe_quant_mode")
_8B, _70B = "meta-llama/Meta-Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-70B"
ALIASES = {"meta-llama/Llama-3.1-8B-Instruct": _8B, "nvidia/Llama-3.1-8B-Instruct-FP8": _8B,
           "meta-llama/Llama-3.1-70B": _70B, "zhipuai/GLM-5": "zai-org/GLM-5"}  # fmt: skip


def check(python: Path) -> None:
    """PeerMissing if `python` cannot import AIConfigurator."""
    peers.check("AIConfigurator", python, "aiconfigurator.cli.api")


def price(python: Path, rows: pd.DataFrame, database_mode: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(by row number ttft_ms, tpot_ms, wall_s, problem; version, start_s, load_s, peak_mb of the process)."""
    jobs = [{"row": int(str(number)), **_arguments(row)} for number, row in rows.iterrows()]
    result = peers.play("AIConfigurator", python, RUNNER, {"database_mode": database_mode, "rows": jobs}, {})
    priced = pd.DataFrame(result.pop("rows"), columns=["row", "ttft_ms", "tpot_ms", "wall_s", "problem"])
    return priced.set_index("row").reindex(rows.index), result


def _arguments(row: pd.Series[Any]) -> dict[str, Any]:
    """Of `cli_estimate`; an empty or zero size is 1, an empty format is left to the model's checkpoint."""
    sizes = {name: int(row[name]) if row[name] == row[name] and row[name] else 1 for name in SIZES}
    return {
        "model_path": ALIASES.get(row["model_path"], row["model_path"]), "system_name": row["system"],
        "backend_name": row["backend"], "isl": int(row["isl"]), "osl": int(row["osl"]), **sizes,
        **{name: row[name] if isinstance(row[name], str) else None for name in FORMATS},
    }  # fmt: skip


def search(python: Path, task: dict[str, Any], timed: Callable[..., Any]) -> dict[str, Any]:
    """A whole process of its own command line, aggregated and disaggregated; what it says is best."""
    options = {"model-path": task["model"], "total-gpus": task["gpus"], "system": task["gpu"], "isl": task["isl"],
               "osl": task["osl"], "prefix": task["prefix"], "ttft": task["ttft_ms"],
               "tpot": task["tpot_ms"]}  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory(prefix="simserve-peer-") as folder:
        command = [python, "-c", "from aiconfigurator.main import main; main()", "cli", "default", "--no-color", *words]
        done, wall, cpu = timed(command, Path(folder))
    if done.returncode:
        raise peers.PeerMissing(f"AIConfigurator failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    said = done.stdout + done.stderr
    best = re.search(r"Best Experiment Chosen: (\w+) at ([\d.]+) tokens/s/gpu", said)
    rate = re.search(r"Request Rate: ([\d.]+) req/s", said)
    return {"wall_s": wall, "cpu_s": cpu, "mode": best and best[1], "rate_rps": rate and float(rate[1]),
            "output_tokens_per_s_per_gpu": best and float(best[2])}  # fmt: skip
